//! Signatures, verified in the guest. Public keys only: nothing here has to be kept from timing.

use p256::ecdsa::signature::Verifier;
use rsa::{BigUint, RsaPublicKey, pkcs1, pkcs1v15, sha2::Sha256};

/// Moduli that are taken, bits: those that the edge takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Whether `signature` over `message` was made by the holder of `key`. False for an algorithm other than ES256, EdDSA
/// and RS256, and for a key or a signature of the wrong form.
pub fn verify(algorithm: &str, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    match algorithm {
        "ES256" => es256(key, message, signature),
        "EdDSA" => ed25519(key, message, signature),
        "RS256" => rs256(key, message, signature),
        _ => None,
    }
    .is_some()
}

/// `key` is an uncompressed point, `signature` is r and s, 32 bytes each (RFC 7518, section 3.4).
fn es256(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    let signature = p256::ecdsa::Signature::from_slice(signature).ok()?;
    key.verify(message, &signature).ok()
}

/// `key` has 32 bytes, `signature` 64 (RFC 8037, section 3.1). Keys of small order are refused.
fn ed25519(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let key = ed25519_dalek::VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
    let signature = ed25519_dalek::Signature::from_slice(signature).ok()?;
    key.verify_strict(message, &signature).ok()
}

/// `key` is the DER of an RSAPublicKey (RFC 8017, appendix A.1.1), `signature` is PKCS #1 v1.5 with SHA-256.
fn rs256(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let pkcs1::RsaPublicKey { modulus, public_exponent } = key.try_into().ok()?;
    let number = |bytes| BigUint::from_bytes_be(bytes);
    let modulus = number(modulus.as_bytes());
    RSA_BITS.contains(&modulus.bits()).then_some(())?;
    let most = *RSA_BITS.end();
    let key = RsaPublicKey::new_with_max_size(modulus, number(public_exponent.as_bytes()), most).ok()?;
    let signature = pkcs1v15::Signature::try_from(signature).ok()?;
    pkcs1v15::VerifyingKey::<Sha256>::new(key).verify(message, &signature).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn ed25519_of_the_rfc() {
        let key = unhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let signature = unhex(concat!(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ));
        assert!(verify("EdDSA", &key, &[0x72], &signature));
        assert!(!verify("EdDSA", &key, &[0x73], &signature));
        assert!(!verify("ES256", &key, &[0x72], &signature));
        assert!(!verify("none", &key, &[0x72], &signature));
    }

    /// RFC 6979, appendix A.2.5: P-256 with SHA-256, message "sample".
    #[test]
    fn es256_of_the_rfc() {
        let key = unhex(concat!(
            "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6",
            "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
        ));
        let signature = unhex(concat!(
            "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716",
            "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
        ));
        assert!(verify("ES256", &key, b"sample", &signature));
        assert!(!verify("ES256", &key, b"simple", &signature));
        assert!(!verify("ES256", &key[1..], b"sample", &signature));
        assert!(!verify("ES256", &key, b"sample", &signature[1..]));
    }
}
