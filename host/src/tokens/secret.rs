//! The secret of an installation: what the store holds of signing keys and second factors is sealed with it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::Context;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use littoral_core::key::hex;

/// AES-256-GCM under a key of a file.
pub struct Secret(RandomizedNonceKey);

impl Secret {
    /// The secret in `path`, 64 hex digits; made when there is none. All edges of one store need the same.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let named = || format!("the secret {}", path.display());
        let key = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; 32];
                aws_lc_rs::rand::fill(&mut key).ok().context("the system gives no random numbers")?;
                let mut file =
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(named)?;
                file.write_all(hex(&key).as_bytes()).and_then(|()| file.sync_all()).with_context(named)?;
                key
            }
            Err(error) => return Err(error).with_context(named),
            Ok(_) => crate::audit::read_key(path)?,
        };
        Self::new(&key)
    }

    /// The secret in `path`, which must be there: what is sealed with another one than the edges' is lost to them.
    pub fn existing(path: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(
            path.exists(),
            "the secret {} is not there: name the edges' configuration, whose token.secret_file says where it is, with \
             --config, or the file itself with --secret; the first edge with a token.issuer makes it at its start",
            path.display()
        );
        Self::new(&crate::audit::read_key(path)?)
    }

    fn new(key: &[u8; 32]) -> anyhow::Result<Self> {
        Ok(Self(RandomizedNonceKey::new(&AES_256_GCM, key).ok().context("AES-256-GCM cannot be used")?))
    }

    /// Seals `plain`, bound to what it is for.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut sealed).ok()?;
        Some([&nonce.as_ref()[..], &sealed].concat())
    }

    /// What was sealed for this purpose; none when it was changed, or sealed with another secret.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let size = self.0.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut plain).ok()?.len();
        plain.truncate(size);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_purpose_under_its_secret_alone() {
        let path = std::env::temp_dir().join(format!("littoral-secret-{}", std::process::id()));
        let (secret, again) = (Secret::load(&path).unwrap(), Secret::load(&path).unwrap());
        fs::remove_file(&path).unwrap();
        let other = Secret::load(&path).unwrap();
        let sealed = secret.seal("a", b"plain").unwrap();
        assert_ne!(sealed, secret.seal("a", b"plain").unwrap());
        assert_eq!(again.open("a", &sealed).as_deref(), Some(&b"plain"[..]));
        assert_eq!(again.open("b", &sealed), None);
        assert_eq!(other.open("a", &sealed), None);
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert_eq!(secret.open("a", &changed), None);
            assert_eq!(secret.open("a", &sealed[..i]), None);
        }
        fs::remove_file(&path).unwrap();
    }
}
