//! Certificates for one test: an authority, and those it signs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// An authority whose files are in a folder of the test's.
pub struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Certificate and key, PEM.
pub struct Signed {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// A new one; its certificate is `ca.pem` in `dir`.
    pub fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no name is a bad one");
        params.distinguished_name.push(DnType::CommonName, "Littoral's tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("the system gives random numbers");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("the parameters are whole");
        let authority = Self { dir: dir.into(), issuer };
        fs::write(authority.file(), authority.issuer.pem()).expect("the test's folder can be written to");
        authority
    }

    pub fn file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A certificate for these names and addresses, in files called after the first.
    pub fn sign(&self, names: &[&str]) -> Signed {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let stem = names.first().cloned().unwrap_or_default();
        let key = KeyPair::generate().expect("the system gives random numbers");
        let params = CertificateParams::new(names).expect("the names are names");
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        let at = |what: &str| self.dir.join(format!("{stem}.{what}.pem"));
        let signed = Signed { certificate: at("certificate"), key: at("key") };
        fs::write(&signed.certificate, certificate.pem()).expect("the test's folder can be written to");
        fs::write(&signed.key, key.serialize_pem()).expect("the test's folder can be written to");
        signed
    }
}
