//! Numbers as blocks of small integers, for weights that are made smaller while they are loaded.

use std::fmt::{self, Display};

use crate::Format;

/// A format that values are not turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizeError {
    /// There is no quantiser for it.
    Format(Format),
    /// The elements are not whole blocks.
    Length(usize),
}

impl Display for QuantizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(format) => write!(f, "values are quantised to Q8_0 and Q4_0, not to {format}"),
            Self::Length(length) => write!(f, "{length} elements are not whole blocks of 32"),
        }
    }
}

impl std::error::Error for QuantizeError {}

/// Appends the blocks of `x` to `out`. `format` is `Q8_0` or `Q4_0`; the steps are those of ggml's reference quantiser.
pub fn quantize(format: Format, x: &[f32], out: &mut Vec<u8>) -> Result<(), QuantizeError> {
    let block = match format {
        Format::Q8_0 => q8_0,
        Format::Q4_0 => q4_0,
        _ => return Err(QuantizeError::Format(format)),
    };
    let (blocks, rest) = x.as_chunks();
    if !rest.is_empty() {
        return Err(QuantizeError::Length(x.len()));
    }
    out.reserve(blocks.len() * format.block_bytes());
    blocks.iter().for_each(|x| block(x, out));
    Ok(())
}

/// Steps of the largest magnitude over 127; halves round away from zero.
fn q8_0(x: &[f32; 32], out: &mut Vec<u8>) {
    let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let steps = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out.extend(half::f16::from_f32(scale).to_le_bytes());
    out.extend(x.iter().map(|x| ((x * steps).round() as i8).cast_unsigned()));
}

/// Steps of the value of largest magnitude over -8, which thus is a code itself.
fn q4_0(x: &[f32; 32], out: &mut Vec<u8>) {
    let largest = x.iter().fold(0f32, |largest, x| if x.abs() > largest.abs() { *x } else { largest });
    let scale = largest / -8.0;
    let steps = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let code = |x: f32| ((x * steps + 8.5) as u8).min(15);
    out.extend(half::f16::from_f32(scale).to_le_bytes());
    out.extend((0..16).map(|i| code(x[i]) | code(x[i + 16]) << 4));
}
