//! Rotary position embedding (Su et al. 2021, "RoFormer"), pairs laid out as two halves of a head.

use burn::tensor::{Device, Tensor, TensorData};

/// How the frequencies are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    None,
    /// Every frequency divided by `factor` (position interpolation).
    Linear {
        factor: f64,
    },
}

/// The frequencies of a model, one per pair of a head's elements.
pub struct Rope {
    inv_freq: Vec<f32>,
}

/// Cosines and sines of the rows of one step, `[rows, 1, head_dim]`. The first half of the sines is negated, so that
/// rotating is `x * cos + swap(x) * sin`.
pub struct Rotation {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

impl Rope {
    /// `inv_freq[i] = theta^(-2i / head_dim)`, divided by the file's factor for this frequency, if it has some
    /// (`rope_freqs.weight`, how llama 3.1 stretches its context).
    pub fn new(head_dim: usize, theta: f64, scaling: Scaling, factors: Option<&[f32]>) -> Self {
        let stretch = match scaling {
            Scaling::None => 1.0,
            Scaling::Linear { factor } => factor,
        };
        let inv_freq = (0..head_dim / 2)
            .map(|i| {
                let factor = factors.map_or(1.0, |f| f64::from(f[i])) * stretch;
                (theta.powf(-2.0 * i as f64 / head_dim as f64) / factor) as f32
            })
            .collect();
        Self { inv_freq }
    }

    /// The rotation of rows at these positions.
    pub fn at(&self, positions: &[usize], device: &Device) -> Rotation {
        let half = self.inv_freq.len();
        let shape = [positions.len(), 1, 2 * half];
        let mut cos = Vec::with_capacity(positions.len() * 2 * half);
        let mut sin = Vec::with_capacity(positions.len() * 2 * half);
        for position in positions {
            // The angle is rounded to f32 first, as the reference implementations do.
            let angles = self.inv_freq.iter().map(|f| *position as f32 * f).map(f32::sin_cos);
            let row = cos.len();
            for (s, c) in angles {
                cos.push(c);
                sin.push(-s);
            }
            cos.extend_from_within(row..);
            for i in row..row + half {
                sin.push(-sin[i]);
            }
        }
        Rotation {
            cos: Tensor::from_data(TensorData::new(cos, shape), device),
            sin: Tensor::from_data(TensorData::new(sin, shape), device),
        }
    }
}

impl Rotation {
    /// Rotates `x`, `[rows, heads, head_dim]`.
    pub fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        let [_, _, head_dim] = x.dims();
        let half = head_dim / 2;
        let first = x.clone().slice_dim(2, 0..half);
        let second = x.clone().slice_dim(2, half..head_dim);
        let swapped = Tensor::cat(vec![second, first], 2);
        x * self.cos.clone() + swapped * self.sin.clone()
    }
}
