//! How a configuration stretches the rotary embedding. The formulas are those of transformers'
//! `modeling_rope_utils.py`.

use super::{super::error::Problem, keys::Keys};

/// The frequencies of a rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Elements of a head that are rotated; even.
    pub width: usize,
    pub theta: f64,
    pub scaling: Scaling,
}

/// How the frequencies are stretched beyond the context that the model was first trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    None,
    /// Every frequency divided by `factor` (position interpolation).
    Linear {
        factor: f64,
    },
    /// Long waves divided by `factor`, short ones kept, those between blended (llama 3.1).
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// YaRN (Peng et al. 2023): as `Llama3` with a linear ramp over the dimensions; cosines and sines are multiplied by
    /// `attention_factor`.
    Yarn {
        factor: f64,
        original: f64,
        beta_fast: f64,
        beta_slow: f64,
        truncate: bool,
        attention_factor: f64,
        /// `mscale_all_dim`, with which DeepSeek's attention scales its scores; 0 where it is not set.
        mscale_all_dim: f64,
    },
}

/// YaRN's temperature: `0.1 m ln(factor) + 1`.
pub fn mscale(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
}

impl RopeConfig {
    /// Reads `rope_scaling` with `rope_theta` beside it, or `rope_parameters`.
    pub fn read(keys: &Keys, width: usize) -> Result<Self, Problem> {
        if width == 0 || !width.is_multiple_of(2) {
            return Err(Problem::Unsupported(format!("{width} elements of a head cannot be rotated in pairs")));
        }
        let inner = match keys.object("rope_scaling")? {
            None => keys.object("rope_parameters")?,
            some => some,
        };
        let theta = keys.positive_or("rope_theta", 10_000.0)?;
        let theta = match &inner {
            Some(inner) => inner.positive_or("rope_theta", theta)?,
            None => theta,
        };
        let scaling = match &inner {
            Some(inner) => Scaling::read(inner, keys, None)?,
            None => Scaling::None,
        };
        Ok(Self { width, theta, scaling })
    }

    /// What attention multiplies its scores with, besides one over the root of the head's width: DeepSeek's `mscale^2`.
    pub fn score_scale(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { factor, mscale_all_dim, .. } if mscale_all_dim != 0.0 => {
                mscale(factor, mscale_all_dim).powi(2)
            }
            _ => 1.0,
        }
    }
}

impl Scaling {
    /// Reads the scaling in `inner`. `outer` is the whole configuration; `factor` stands in for a missing
    /// `attention_factor`.
    pub fn read(inner: &Keys, outer: &Keys, attention_factor: Option<f64>) -> Result<Self, Problem> {
        let kind = match inner.str_or_none("rope_type")? {
            None => inner.str_or_none("type")?,
            some => some,
        };
        let context = outer.size_or("max_position_embeddings", super::compressed::CONTEXT)? as f64;
        let original = match outer.number_or_none("original_max_position_embeddings")? {
            None => inner.number_or("original_max_position_embeddings", context)?,
            Some(original) => original,
        };
        if original < 1.0 {
            return Err(inner.wrong("original_max_position_embeddings", original, "1 or more"));
        }
        match kind {
            None | Some("default" | "none") => Ok(Self::None),
            Some("linear") => Ok(Self::Linear { factor: inner.positive("factor")? }),
            Some("llama3") => {
                let (low, high) = (inner.positive("low_freq_factor")?, inner.positive("high_freq_factor")?);
                if high <= low {
                    return Err(inner.wrong("high_freq_factor", high, format!("more than low_freq_factor, {low}")));
                }
                Ok(Self::Llama3 { factor: inner.positive("factor")?, low, high, original })
            }
            Some("yarn") => {
                let factor = inner.positive_or("factor", context / original)?;
                let m = inner.number_or("mscale", 0.0)?;
                let mscale_all_dim = inner.number_or("mscale_all_dim", 0.0)?;
                let default = attention_factor.unwrap_or_else(|| match m != 0.0 && mscale_all_dim != 0.0 {
                    true => mscale(factor, m) / mscale(factor, mscale_all_dim),
                    false => mscale(factor, 1.0),
                });
                Ok(Self::Yarn {
                    factor,
                    original,
                    beta_fast: inner.positive_or("beta_fast", 32.0)?,
                    beta_slow: inner.positive_or("beta_slow", 1.0)?,
                    truncate: inner.flag_or("truncate", true)?,
                    attention_factor: inner.positive_or("attention_factor", default)?,
                    mscale_all_dim,
                })
            }
            Some(other) => Err(inner.wrong(
                "rope_type",
                format!("'{other}', which is not run here"),
                "default, linear, llama3 or yarn",
            )),
        }
    }
}
