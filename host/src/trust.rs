//! Whom to believe at the other end of a TLS connection.

use std::path::Path;

use anyhow::Context;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// The certificates of a PEM file, one at least.
pub fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    read(path).map(|(_, certificates)| certificates)
}

/// A PEM file of certificates as it is, for who takes no other form.
pub fn pem(path: &Path) -> anyhow::Result<Vec<u8>> {
    read(path).map(|(bytes, _)| bytes)
}

fn read(path: &Path) -> anyhow::Result<(Vec<u8>, Vec<CertificateDer<'static>>)> {
    let named = || format!("the certificates {}", path.display());
    let bytes = std::fs::read(path).with_context(named)?;
    let all = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().with_context(named)?;
    anyhow::ensure!(!all.is_empty(), "{} hold none", named());
    Ok((bytes, all))
}

/// The authorities of a PEM file: who has a certificate of theirs is believed, and nobody else.
pub fn authorities(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).with_context(|| path.display().to_string())?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_certificate_is_refused_by_its_name() {
        let dir = std::env::temp_dir().join(format!("littoral-trust-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (name, text) in [
            ("missing.pem", None),
            ("empty.pem", Some("")),
            ("text.pem", Some("hello")),
            ("nonsense.pem", Some(nonsense)),
        ] {
            let path = dir.join(name);
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = format!("{:#}", authorities(&path).unwrap_err());
            assert!(error.contains(name), "{error}");
        }
    }
}
