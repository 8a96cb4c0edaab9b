//! Linear layers, laid out for the matrix kernels of the device.

use burn::tensor::{Device, Tensor, TensorData};

/// Outputs in a panel. On the CPU a panel's weights are neighbours in memory, in the order the kernels read them: two
/// to eight rows then cost little more than one, where a plain matrix costs two to three times as much.
const PANEL: usize = 32;

/// How weights are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[panels, inputs, PANEL]`; the last panel is filled up with zeros.
    Panels,
    /// `[inputs, outputs]`, for GPUs.
    #[cfg_attr(not(any(feature = "wgpu", feature = "cuda")), allow(dead_code))]
    Plain,
}

/// A linear layer without bias.
pub struct Linear {
    weight: Weight,
    outputs: usize,
}

enum Weight {
    Panels(Tensor<3>),
    Plain(Tensor<2>),
}

impl Linear {
    /// From rows of `inputs` elements, one row per output.
    pub fn new(rows: &[f32], inputs: usize, layout: Layout, device: &Device) -> Self {
        let outputs = rows.len() / inputs;
        let width = if layout == Layout::Panels { PANEL } else { outputs };
        let panels = outputs.div_ceil(width);
        let mut out = vec![0.0; panels * inputs * width];
        for (panel, rows) in out.chunks_exact_mut(inputs * width).zip(rows.chunks(inputs * width)) {
            for (lane, row) in rows.chunks_exact(inputs).enumerate() {
                for (slot, x) in panel[lane..].iter_mut().step_by(width).zip(row) {
                    *slot = *x;
                }
            }
        }
        let weight = match layout {
            Layout::Panels => Weight::Panels(Tensor::from_data(TensorData::new(out, [panels, inputs, width]), device)),
            Layout::Plain => Weight::Plain(Tensor::from_data(TensorData::new(out, [inputs, outputs]), device)),
        };
        Self { weight, outputs }
    }

    /// `[rows, inputs]` to `[rows, outputs]`.
    pub fn of(&self, x: Tensor<2>) -> Tensor<2> {
        let weight = match &self.weight {
            Weight::Panels(weight) => weight.clone(),
            Weight::Plain(weight) => return x.matmul(weight.clone()),
        };
        let y = x.unsqueeze::<3>().matmul(weight);
        let [panels, rows, width] = y.dims();
        // Panels of one row already lie as the row does.
        let y = if rows == 1 { y } else { y.swap_dims(0, 1) };
        let y = y.reshape([rows, panels * width]);
        if self.outputs == panels * width { y } else { y.slice_dim(1, 0..self.outputs) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_agree() {
        let device = Device::flex();
        for (inputs, outputs) in [(8, 32), (5, 33), (3, 7), (16, 96)] {
            let weights: Vec<f32> = (0..inputs * outputs).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
            for rows in [1, 2, 5] {
                let x: Vec<f32> = (0..rows * inputs).map(|i| (i * 5 % 11) as f32 - 5.0).collect();
                let mut expected = Vec::new();
                for row in x.chunks_exact(inputs) {
                    for w in weights.chunks_exact(inputs) {
                        expected.push(row.iter().zip(w).map(|(a, b)| a * b).sum::<f32>());
                    }
                }
                for layout in [Layout::Panels, Layout::Plain] {
                    let x = Tensor::from_data(TensorData::new(x.clone(), [rows, inputs]), &device);
                    let y = Linear::new(&weights, inputs, layout, &device).of(x);
                    assert_eq!(y.dims(), [rows, outputs]);
                    // Whole numbers: f32 holds them exactly, in whatever order they are added.
                    assert_eq!(y.into_data().try_into_vec::<f32>().unwrap(), expected, "{layout:?} {inputs}x{outputs}");
                }
            }
        }
    }
}
