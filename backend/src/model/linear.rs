//! Matrices that stay in the bytes they were stored in, and what is computed with them.

use super::ops::{self, Matrix};
use burn::tensor::{Device, Int, Tensor};

/// A matrix, or a stack of equal ones, in memory; a clone shares its bytes.
#[derive(Clone)]
pub struct Weight {
    bytes: Tensor<1, Int>,
    pub matrix: Matrix,
}

impl Weight {
    /// `bytes` holds whole matrices of `matrix.rows` rows, one after the other.
    pub fn new(bytes: &[u8], matrix: Matrix, device: &Device) -> Self {
        Self { bytes: ops::upload(bytes, &matrix, device), matrix }
    }

    /// `[n, cols]` to `[n, rows]`, or to the outputs of all of a stack side by side.
    pub fn of(&self, x: Tensor<2>) -> Tensor<2> {
        ops::linear(x, &self.bytes, self.matrix)
    }

    /// Each row with the matrix that `experts` names for it.
    pub fn of_experts(&self, x: Tensor<2>, experts: Tensor<1, Int>) -> Tensor<2> {
        ops::linear_experts(x, &self.bytes, experts, self.matrix)
    }

    /// The matrix's rows of these ids.
    pub fn rows(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        ops::embed(&self.bytes, ids, self.matrix)
    }
}

/// A linear layer: matrices of the same inputs whose outputs stand side by side, and a bias.
pub struct Linear {
    /// One where all were stored alike.
    parts: Vec<Weight>,
    bias: Option<Tensor<2>>,
}

impl Linear {
    /// `bias` is `[1, outputs]`.
    pub fn new(parts: Vec<Weight>, bias: Option<Tensor<2>>) -> Self {
        Self { parts, bias }
    }

    /// `[n, inputs]` to `[n, outputs]`.
    pub fn of(&self, x: Tensor<2>) -> Tensor<2> {
        let y = match &self.parts[..] {
            [one] => one.of(x),
            parts => Tensor::cat(parts.iter().map(|part| part.of(x.clone())).collect(), 1),
        };
        match &self.bias {
            Some(bias) => y + bias.clone(),
            None => y,
        }
    }

    /// With another layer's outputs after its own.
    pub fn beside(mut self, other: Self) -> Self {
        let zeros = |layer: &Self, device: &Device| {
            Tensor::zeros([1, layer.parts.iter().map(|part| part.matrix.rows).sum()], device)
        };
        self.bias = match (self.bias.take(), other.bias.clone()) {
            (None, None) => None,
            (Some(own), None) => Some(Tensor::cat(vec![own.clone(), zeros(&other, &own.device())], 1)),
            (None, Some(theirs)) => Some(Tensor::cat(vec![zeros(&self, &theirs.device()), theirs], 1)),
            (Some(own), Some(theirs)) => Some(Tensor::cat(vec![own, theirs], 1)),
        };
        self.parts.extend(other.parts);
        self
    }
}

/// A gated feed-forward layer: `down(silu(gate(x)) * up(x))`.
pub struct Mlp {
    pub gate_up: Linear,
    pub down: Linear,
    pub limit: Option<f32>,
}

impl Mlp {
    /// `[n, dim]` to `[n, dim]`.
    pub fn of(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.of(ops::swiglu(self.gate_up.of(x), self.limit))
    }
}
