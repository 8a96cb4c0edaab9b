//! Every operation on every device of this build, against the same written plainly in f64.

mod attention;
mod draws;
mod products;
mod small;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// The tests of a device, whose product of plain matrices rounds its factors to so much of their size.
macro_rules! on {
    ($name:ident, $device:expr, $rounding:expr) => {
        mod $name {
            #[test]
            fn rows_of_matrices() {
                super::products::rows(&$device);
            }

            #[test]
            fn products() {
                super::products::products(&$device);
            }

            #[test]
            fn products_with_many_rows() {
                super::products::many_rows(&$device, $rounding);
            }

            #[test]
            fn products_with_stacks() {
                super::products::stacks(&$device);
            }

            #[test]
            fn products_with_experts() {
                super::products::experts(&$device);
            }

            #[test]
            fn norms_and_gates() {
                super::small::norms(&$device);
                super::small::gates(&$device);
            }

            #[test]
            fn rotations() {
                super::small::rotations(&$device);
            }

            #[test]
            fn stores() {
                super::small::stores(&$device);
            }

            #[test]
            fn draws() {
                super::draws::draws(&$device);
                super::draws::ties(&$device);
                super::draws::wrong(&$device);
            }

            #[test]
            fn attention_of_single_rows() {
                super::attention::single_rows(&$device);
            }

            #[test]
            fn attention_of_prompts() {
                super::attention::prompts(&$device, $rounding);
            }

            #[test]
            fn attention_of_mixed_steps() {
                super::attention::mixed(&$device, $rounding);
            }
        }
    };
}

on!(cpu, burn::tensor::Device::flex(), super::F32);
#[cfg(feature = "wgpu")]
on!(wgpu, crate::model::device::DeviceChoice::Wgpu.open().expect("a device for wgpu").device, super::F32);
#[cfg(feature = "cuda")]
on!(cuda, crate::model::device::DeviceChoice::Cuda { card: 0 }.open().expect("a device for cuda").device, super::TF32);

/// Sums of f32 are off by some ulps of the sum of their terms' sizes.
const F32: f64 = 4e-6;
/// Factors of ten bits.
#[cfg(feature = "cuda")]
const TF32: f64 = 2e-3;

/// Numbers that are the same in every run.
struct Source(StdRng);

impl Source {
    fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Numbers from -1 to 1.
    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.0.random_range(-1.0..1.0)).collect()
    }

    /// `0..count` in a random order.
    fn shuffled(&mut self, count: usize) -> Vec<i32> {
        let mut all: Vec<i32> = (0..count as i32).collect();
        for i in (1..count).rev() {
            all.swap(i, self.0.random_range(0..=i));
        }
        all
    }
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn ints(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::I32))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32")
}

/// A number and what its rounding may be off by.
struct Expected {
    value: f64,
    size: f64,
}

fn assert_close(found: &[f32], expected: &[Expected], what: &str) {
    assert_within(F32, found, expected, what);
}

fn assert_within(rounding: f64, found: &[f32], expected: &[Expected], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, Expected { value, size })) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - value).abs();
        assert!(
            off <= size * rounding + 1e-30,
            "{what}: [{i}] is {found}, not {value}: off by {off:e}, terms of {size:e}"
        );
    }
}
