//! Certificates for one test: an authority, and those it signs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

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

impl Signed {
    /// What a server with this certificate goes by; with `clients`, only those this authority signed may connect.
    pub fn server(&self, clients: Option<&Path>) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.expect("the library knows its own versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                read(authority).into_iter().for_each(|c| roots.add(c).expect("it is an authority's"));
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
                builder.with_client_cert_verifier(verifier.expect("there is an authority"))
            }
        };
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("the test's key is one");
        builder.with_single_cert(read(&self.certificate), key).expect("key and certificate fit")
    }
}

fn read(path: &Path) -> Vec<CertificateDer<'static>> {
    let all = CertificateDer::pem_file_iter(path).expect("the test's certificate is there");
    all.map(|certificate| certificate.expect("the test's certificate is one")).collect()
}
