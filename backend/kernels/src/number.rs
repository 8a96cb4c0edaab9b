//! Small floating-point numbers to f32, exact and without branches.

/// Picks without a branch, so that loops of conversions become vector code.
#[inline(always)]
fn pick(choice: bool, yes: u32, no: u32) -> u32 {
    if choice { yes } else { no }
}

/// IEEE 754 binary16.
#[inline(always)]
pub(crate) fn f16(bits: u16) -> f32 {
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff));
    // Subnormals are their fraction times 2^-24.
    let small = (magnitude as i32 as f32 * f32::from_bits(103 << 23)).to_bits();
    let large = (magnitude << 13) + pick(magnitude < 0x7c00, 112 << 23, 224 << 23);
    f32::from_bits(sign | pick(magnitude < 0x0400, small, large))
}

/// The upper half of an f32.
#[inline(always)]
pub(crate) fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// OCP E4M3: no infinities, and NaN where all bits but the sign are set.
#[inline(always)]
pub(crate) fn e4m3(bits: u8) -> f32 {
    let (sign, magnitude) = (u32::from(bits & 0x80) << 24, u32::from(bits & 0x7f));
    // Subnormals are their fraction times 2^-9.
    let small = (magnitude as i32 as f32 * f32::from_bits(118 << 23)).to_bits();
    let large = pick(magnitude == 0x7f, f32::NAN.to_bits(), (magnitude << 20) + (120 << 23));
    f32::from_bits(sign | pick(magnitude < 8, small, large))
}

/// Half of 2^(e-127), which is the scale of E2M1 values counted in halves. NaN for 255, as E8M0 has it.
#[inline(always)]
pub(crate) fn half_e8m0(exponent: u8) -> f32 {
    let e = u32::from(exponent);
    f32::from_bits(pick(e == 255, f32::NAN.to_bits(), pick(e < 2, 0x0020_0000 << (e & 1), e.wrapping_sub(1) << 23)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_exact() {
        for bits in 0..=u16::MAX {
            let exponent = i32::from(bits >> 10 & 0x1f);
            let fraction = f64::from(bits & 0x3ff);
            let magnitude = match exponent {
                0 => fraction * 2f64.powi(-24),
                0x1f if fraction == 0.0 => f64::INFINITY,
                0x1f => f64::NAN,
                _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
            };
            let value = if bits & 0x8000 == 0 { magnitude } else { -magnitude } as f32;
            assert!(f16(bits).to_bits() == value.to_bits() || f16(bits).is_nan() && value.is_nan(), "{bits:#06x}");
        }
    }

    #[test]
    fn e4m3_is_exact() {
        for bits in 0..=u8::MAX {
            let (exponent, fraction) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
            let magnitude = match exponent {
                0 => fraction * 2f64.powi(-9),
                15 if fraction == 7.0 => f64::NAN,
                _ => (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7),
            };
            let value = if bits & 0x80 == 0 { magnitude } else { -magnitude } as f32;
            assert!(e4m3(bits).to_bits() == value.to_bits() || e4m3(bits).is_nan() && value.is_nan(), "{bits:#04x}");
        }
    }

    #[test]
    fn powers_of_two_are_exact() {
        for e in 0..255u8 {
            assert_eq!(f64::from(half_e8m0(e)), 2f64.powi(i32::from(e) - 128), "{e}");
        }
        assert!(half_e8m0(255).is_nan());
        assert_eq!(bf16(0xc000), -2.0);
    }
}
