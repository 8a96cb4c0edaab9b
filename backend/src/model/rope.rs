//! Rotary position embedding (Su et al. 2021, "RoFormer") and the ways it is stretched.

use burn::tensor::{Device, Tensor, TensorData};
use littoral_kernels::Pairing;

use super::{
    config::{RopeConfig, Scaling},
    ops::{self, Rotated},
};

/// The frequencies of a model, one per pair of a head's elements.
pub struct Rope {
    inv_freq: Vec<f32>,
    /// What cosines and sines are multiplied with.
    factor: f32,
}

/// Cosines and sines of some rows, `[rows, width / 2]`.
#[derive(Clone)]
pub struct Rotation {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Rope {
    /// `inv_freq[i] = theta^(-2i / width)`, stretched; `factors` divide it further, one by one (`rope_freqs.weight` of a
    /// GGUF file, how llama 3.1 stretches its context there).
    pub fn new(config: &RopeConfig, factors: Option<&[f32]>) -> Self {
        let half = config.width / 2;
        let plain = (0..half).map(|i| config.theta.powf(-2.0 * i as f64 / config.width as f64));
        let mut inv_freq: Vec<f64> = plain.collect();
        let mut factor = 1.0;
        match config.scaling {
            Scaling::None => {}
            Scaling::Linear { factor } => inv_freq.iter_mut().for_each(|f| *f /= factor),
            Scaling::Llama3 { factor, low, high, original } => {
                for f in &mut inv_freq {
                    let wave = 2.0 * std::f64::consts::PI / *f;
                    if wave > original / low {
                        *f /= factor;
                    } else if wave >= original / high {
                        let smooth = (original / wave - low) / (high - low);
                        *f = (1.0 - smooth) * *f / factor + smooth * *f;
                    }
                }
            }
            Scaling::Yarn { factor: stretch, original, beta_fast, beta_slow, truncate, attention_factor, .. } => {
                let correction = |rotations: f64| {
                    let dim = config.width as f64;
                    dim * (original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * config.theta.ln())
                };
                let (mut low, mut high) = (correction(beta_fast), correction(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(config.width as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                for (i, f) in inv_freq.iter_mut().enumerate() {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    *f = *f / stretch * ramp + *f * (1.0 - ramp);
                }
                factor = attention_factor;
            }
        }
        if let Some(factors) = factors {
            inv_freq.iter_mut().zip(factors).for_each(|(f, by)| *f /= f64::from(*by));
        }
        Self { inv_freq: inv_freq.into_iter().map(|f| f as f32).collect(), factor: factor as f32 }
    }

    /// The rotation of rows at these positions.
    pub fn at(&self, positions: impl ExactSizeIterator<Item = usize>, device: &Device) -> Rotation {
        let shape = [positions.len(), self.inv_freq.len()];
        let mut cos = Vec::with_capacity(shape[0] * shape[1]);
        let mut sin = Vec::with_capacity(shape[0] * shape[1]);
        for position in positions {
            // The angle is rounded to f32 first, as the reference implementations do.
            for (s, c) in self.inv_freq.iter().map(|f| (position as f32 * f).sin_cos()) {
                cos.push(c * self.factor);
                sin.push(s * self.factor);
            }
        }
        let tensor = |values| Tensor::from_data(TensorData::new(values, shape), device);
        Rotation { cos: tensor(cos), sin: tensor(sin) }
    }
}

impl Rotation {
    /// Rotates the elements `start..` of each head of `x`, `[rows, heads, dim]`.
    pub fn apply(&self, x: Tensor<3>, start: usize, pairing: Pairing) -> Tensor<3> {
        ops::rotate(x, &self.cos, &self.sin, Rotated { start, pairing })
    }

    /// The opposite rotation.
    pub fn back(&self) -> Self {
        Self { cos: self.cos.clone(), sin: self.sin.clone().neg() }
    }
}
