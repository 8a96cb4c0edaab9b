//! Time-based one-time passwords (RFC 6238, over RFC 4226): six digits, 30 seconds, SHA-1, as authenticators expect.

use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::key::hex;

/// Bytes of a secret (RFC 4226, section 4: 160 bits are recommended).
pub const SECRET_BYTES: usize = 20;
/// Recovery codes handed out at enrolment.
pub const RECOVERY_CODES: usize = 10;
/// Bytes of a recovery code.
pub const RECOVERY_BYTES: usize = 10;
const STEP_S: u64 = 30;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The step `code` belongs to: now, or one to either side. None when it is wrong. A caller lets a step count once.
pub fn step_of(secret: &[u8], code: &str, now_ms: u64) -> Option<u64> {
    let code = code.trim();
    if code.len() != 6 || !code.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let now = now_ms / 1000 / STEP_S;
    let mut found = None;
    // Every step is compared, so that time tells nothing of the secret.
    for step in [now.saturating_sub(1), now, now + 1] {
        if bool::from(at(secret, step).as_bytes().ct_eq(code.as_bytes())) {
            found = Some(step);
        }
    }
    found
}

/// The code of a step.
pub fn at(secret: &[u8], step: u64) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes keys of any size");
    mac.update(&step.to_be_bytes());
    let hash = mac.finalize().into_bytes();
    let offset = usize::from(hash[19] & 15);
    let number = u32::from_be_bytes([hash[offset], hash[offset + 1], hash[offset + 2], hash[offset + 3]]);
    format!("{:06}", (number & 0x7fff_ffff) % 1_000_000)
}

/// What an authenticator reads from a QR code.
pub fn uri(issuer: &str, tenant: &str, user: &str, secret: &[u8]) -> String {
    let (issuer, account) = (escaped(issuer), format!("{}:{}", escaped(tenant), escaped(user)));
    format!("otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}", base32(secret))
}

fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~@".contains(&b);
    text.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Without padding (RFC 4648, section 6).
pub fn base32(bytes: &[u8]) -> String {
    bytes
        .chunks(5)
        .flat_map(|chunk| {
            let mut block = [0u8; 8];
            block[3..3 + chunk.len()].copy_from_slice(chunk);
            let bits = u64::from_be_bytes(block);
            (0..(chunk.len() * 8).div_ceil(5)).map(move |i| BASE32[(bits >> (35 - 5 * i)) as usize & 31] as char)
        })
        .collect()
}

/// The bytes of a text in base32; case, spaces and dashes do not matter.
pub fn unbase32(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u64, 0u32);
    for c in text.bytes().filter(|b| !b" -".contains(b)) {
        let digit = BASE32.iter().position(|known| *known == c.to_ascii_uppercase())?;
        bits = bits << 5 | digit as u64;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

/// A recovery code to hand out, from random bytes: `ABCD-EFGH-IJKL-MNOP`.
pub fn recovery_code(entropy: &[u8; RECOVERY_BYTES]) -> String {
    let text = base32(entropy);
    let groups: Vec<_> = text.as_bytes().chunks(4).map(String::from_utf8_lossy).collect();
    groups.join("-")
}

/// What is kept of a recovery code. Its 80 random bits need no salt.
pub fn recovery_digest(code: &str) -> Option<String> {
    let bytes = unbase32(code).filter(|bytes| bytes.len() == RECOVERY_BYTES)?;
    Some(hex(&Sha256::digest(bytes)))
}

/// Position of the code among the digests that are left, found in constant time for each.
pub fn recovery_position(code: &str, left: &[String]) -> Option<usize> {
    let digest = recovery_digest(code)?;
    left.iter().position(|kept| bool::from(kept.as_bytes().ct_eq(digest.as_bytes())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 6238, appendix B (SHA-1), the last six of its eight digits.
    #[test]
    fn the_standards_own_numbers() {
        let secret = b"12345678901234567890";
        for (second, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(at(secret, second / 30), code);
            assert_eq!(step_of(secret, code, second * 1000), Some(second / 30));
        }
        assert_eq!(base32(b"foobar"), "MZXW6YTBOI");
    }

    #[test]
    fn a_code_is_good_one_step_to_either_side_and_no_further() {
        let secret = [9; SECRET_BYTES];
        let now = 1_795_574_004_000;
        let step = now / 30_000;
        for (of, good) in [(step - 2, false), (step - 1, true), (step, true), (step + 1, true), (step + 2, false)] {
            assert_eq!(step_of(&secret, &at(&secret, of), now).is_some(), good);
        }
        for bad in ["", "12345", "1234567", "12345a", "١٢٣٤٥٦", "-12345"] {
            assert_eq!(step_of(&secret, bad, now), None);
        }
    }

    #[test]
    fn recovery_codes_are_found_however_they_are_typed() {
        let code = recovery_code(&[0xa5; RECOVERY_BYTES]);
        let left = vec!["00".into(), recovery_digest(&code).unwrap()];
        for typed in [code.clone(), code.to_lowercase(), code.replace('-', " ")] {
            assert_eq!(recovery_position(&typed, &left), Some(1));
        }
        assert_eq!(recovery_position(&code[1..], &left), None);
        assert_eq!(recovery_position(&recovery_code(&[0xa6; RECOVERY_BYTES]), &left), None);
    }

    #[test]
    fn a_name_cannot_break_out_of_its_uri() {
        let uri = uri("Littoral", "acme", "ada&secret=AAAA", b"12345678901234567890");
        let expected =
            "otpauth://totp/Littoral:acme:ada%26secret%3DAAAA?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Littoral";
        assert_eq!(uri, expected);
    }

    proptest! {
        #[test]
        fn base32_there_and_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unbase32(&base32(&bytes)), Some(bytes));
        }
    }
}
