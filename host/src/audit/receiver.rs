//! Where audit lines are sent, and whom to believe there.

use std::{fmt, io, sync::Arc};

use anyhow::Context;
use rustls::{
    ClientConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    config,
    trust::{authorities, certificates},
};

/// A syslog receiver that speaks TLS.
pub struct Receiver {
    address: String,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl Receiver {
    /// Reads certificates; nothing is connected.
    pub fn new(config: &config::Syslog) -> anyhow::Result<Self> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(authorities(&config.ca_file)?);
        let tls = match (&config.certificate_file, &config.key_file) {
            (Some(certificate), Some(key)) => {
                let secret = PrivateKeyDer::from_pem_file(key).with_context(|| format!("the key {}", key.display()))?;
                let chain = certificates(certificate)?;
                builder.with_client_auth_cert(chain, secret).with_context(|| certificate.display().to_string())?
            }
            _ => builder.with_no_client_auth(),
        };
        let name = config.name();
        let name = ServerName::try_from(name).with_context(|| format!("'{name}' names no server"))?.to_owned();
        Ok(Self { address: config.with_port(), name, tls: TlsConnector::from(Arc::new(tls)) })
    }

    pub async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.address).await?;
        self.tls.connect(self.name.clone(), stream).await
    }
}
