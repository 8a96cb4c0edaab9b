//! Signatures under the algorithm names of JWS (RFC 7518, section 3.1; RFC 8037).

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

/// Whether the holder of `key` signed `message`. Unknown algorithms verify nothing.
pub fn verify(algorithm: &str, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let algorithm: &'static dyn VerificationAlgorithm = match algorithm {
        "ES256" => &signature::ECDSA_P256_SHA256_FIXED,
        "EdDSA" => &signature::ED25519,
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        _ => return false,
    };
    UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::AsDer,
        rand::SystemRandom,
        rsa::KeySize,
        signature::{
            ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
        },
    };

    use super::*;

    #[test]
    fn each_algorithm_takes_its_own_signature_only() {
        let random = SystemRandom::new();
        let message = b"littoral";
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let ed = Ed25519KeyPair::generate().unwrap();
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let mut rsa_signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &random, message, &mut rsa_signature).unwrap();
        let spki: aws_lc_rs::encoding::PublicKeyX509Der = rsa.public_key().as_der().unwrap();
        let (by_ec, by_ed) = (ec.sign(&random, message).unwrap(), ed.sign(message));
        let cases: [(&str, &[u8], &[u8]); 4] = [
            ("ES256", ec.public_key().as_ref(), by_ec.as_ref()),
            ("EdDSA", ed.public_key().as_ref(), by_ed.as_ref()),
            ("RS256", rsa.public_key().as_ref(), &rsa_signature),
            ("RS256", spki.as_ref(), &rsa_signature),
        ];
        for (algorithm, key, signature) in cases {
            assert!(verify(algorithm, key, message, signature), "{algorithm}");
            assert!(!verify(algorithm, key, b"another", signature), "{algorithm}");
            for other in ["ES256", "EdDSA", "RS256", "none", "HS256", ""] {
                assert!(other == algorithm || !verify(other, key, message, signature), "{algorithm} as {other}");
            }
        }
    }
}
