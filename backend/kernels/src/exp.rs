//! The exponential function, the same bits on every machine.

/// `e^x`, within 2 units in the last place of the true value; 1 for 0, 0 below the normal numbers, infinity above the
/// largest, NaN for NaN. Without branches, so that loops of it become vector code.
///
/// x is split into n ln 2 + r with |r| <= ln 2 / 2, and e^r is its Taylor polynomial of degree 7, which is off by less
/// than 2^-27 there.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// The logarithms of the largest and the smallest normal number, rounded to the inside.
    const LARGEST: f32 = 88.722_83;
    const SMALLEST: f32 = -87.336_54;
    /// ln 2 in two parts, the first with zeros at the end so that its multiples are exact.
    const LN_2: f32 = 0.693_359_4;
    const LN_2_REST: f32 = -2.121_944_4e-4;
    /// Adding it leaves an integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > LARGEST { LARGEST } else { x };
    let clamped = if clamped < SMALLEST { SMALLEST } else { clamped };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_REST, n.mul_add(-LN_2, clamped));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.mul_add(p, c);
    }
    // Two steps, since 2^128 is no number and the polynomial may be a little below 1.
    let n = shifted.to_bits().cast_signed().wrapping_sub(ROUND.to_bits().cast_signed());
    let power = |n: i32| f32::from_bits(n.wrapping_add(127).cast_unsigned() << 23);
    let half = n >> 1;
    let value = p * power(half) * power(n.wrapping_sub(half));
    let value = if x > LARGEST { f32::INFINITY } else { value };
    if x < SMALLEST { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn close_to_the_true_value_everywhere() {
        let mut worst = 0f64;
        for i in 0..2_000_000 {
            let x = -87.3 + f64::from(i) * (88.7 + 87.3) / 2e6;
            let x = x as f32;
            let (is, ought) = (f64::from(exp(x)), f64::from(x).exp());
            let unit = 2f64.powi(ought.log2().floor() as i32 - 23);
            worst = worst.max((is - ought).abs() / unit);
        }
        assert!(worst < 2.0, "{worst} units");
    }

    #[test]
    fn the_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(88.722).is_finite());
        assert!(exp(-87.336) > 0.0);
    }
}
