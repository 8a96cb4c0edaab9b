//! A worker's HTTP connections to upstreams: kept alive and bounded in number, with TLS and HTTP/2 where spoken.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, crypto::aws_lc_rs};
use serde::Deserialize;

use super::{handshake::Handshake, rest};
use crate::{
    config::{self, Node},
    error::{Error, within},
    fleet::{Connector, Member, Unbound},
    plan::now_ms,
    trust::authorities,
};

/// What is said of an upstream that refuses because it has enough to do.
pub const FULL: &str = "the upstream is full";
/// The largest document that is read whole, bytes.
const MAX_DOCUMENT: usize = 1 << 20;

/// The connections of one worker, or of the watchers. Must be used inside the runtime that drives them.
#[derive(Clone)]
pub struct Http(Client<Handshake, Full<Bytes>>);

impl Http {
    /// Connections to `node`, and to all that are reached and believed as it is. `shares` workers keep the configured
    /// number of them together.
    pub fn new(config: &config::Fleet, shares: usize, node: &Node) -> anyhow::Result<Self> {
        let (builder, provider) = (HttpsConnectorBuilder::new(), aws_lc_rs::default_provider());
        let builder = match &node.ca_file {
            None => builder.with_provider_and_webpki_roots(provider)?,
            Some(path) => {
                let tls =
                    ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions()?;
                builder.with_tls_config(tls.with_root_certificates(authorities(path)?).with_no_client_auth())
            }
        };
        let builder = builder.https_or_http().enable_http1().enable_http2();
        let connector = Handshake(builder.wrap_connector(Connector(node.path)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_millis(config.pool_keep_alive_ms))
            .pool_max_idle_per_host(config.pool_size().div_ceil(shares.max(1)))
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request with the node's credential; `body` makes it a POST.
    pub async fn send(
        &self,
        node: &Node,
        path: &str,
        body: Option<Bytes>,
        request_id: &str,
    ) -> Result<Response<Incoming>, Error> {
        let uri = format!("{}{path}", node.address.trim_end_matches('/'));
        let mut request = Request::builder().method(if body.is_some() { "POST" } else { "GET" }).uri(uri);
        if let Some(key) = node.api_key()? {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| Error::NoNode("the upstream's key has characters that no header may have".into()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, littoral_api::JSON);
            request = request.header(header::ACCEPT, "text/event-stream, application/json");
        }
        if !request_id.is_empty() {
            request = request.header("x-request-id", request_id);
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        let request = request.map_err(|e| Error::NoNode(format!("the upstream's address cannot be used: {e}")))?;
        self.0.request(request).await.map_err(|error| {
            tracing::debug!(node = node.name(), %error, detail = ?error, "an upstream cannot be reached");
            Error::NoNode(unreachable(&error))
        })
    }
}

/// What the client is told of a connection that came to nothing: more than that only where no later try can help.
fn unreachable(error: &legacy::Error) -> String {
    if let Some(rustls::Error::InvalidCertificate(why)) = within(error) {
        return format!("the upstream's certificate is not believed ({why}); see its ca_file");
    }
    match within::<Unbound>(error) {
        Some(why) => format!("the upstream cannot be reached: {why}"),
        None => "the upstream cannot be reached, or was lost; please try again".into(),
    }
}

/// A whole document, bounded.
pub async fn document(body: Incoming) -> Result<Bytes, Error> {
    let whole = Limited::new(body, MAX_DOCUMENT).collect().await;
    Ok(whole.map_err(|_| Error::Garbage("a document that breaks off or does not end"))?.to_bytes())
}

/// The models an upstream says it serves.
pub async fn models(http: &Http, member: &Member) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Models {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }
    let response = http.send(&member.node, "/models", None, "").await?;
    let status = response.status();
    if let Some(seconds) = rest::asked(status, response.headers()) {
        member.rest(now_ms(), seconds);
        return Err(Error::busy(FULL, seconds));
    }
    let document = document(response.into_body()).await?;
    if !status.is_success() {
        return Err(Error::NoNode(format!("the upstream answers /models with status {status}")));
    }
    let models: Models = serde_json::from_slice(&document).map_err(|_| Error::Garbage("no list of models"))?;
    Ok(models.data.into_iter().map(|model| model.id).collect())
}
