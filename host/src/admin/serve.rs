//! The admin listener: the keys of the store, over HTTP on this machine.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, HOST, SET_COOKIE},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use littoral_core::{
    audit::{Auth, Outcome, Record, event},
    calendar,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};

use super::{
    keys::{self, KeyError, Listed, NewKey},
    session::{self, Refused, Sessions},
};
use crate::{audit::Audit, plan::now_ms, vault::Store};

const CONNECTIONS: usize = 16;
/// Largest body, bytes.
const MAX_BODY: usize = 64 << 10;

/// See the module.
pub struct Admin {
    pub store: Arc<dyn Store>,
    pub audit: Option<Arc<Audit>>,
    pub sessions: Sessions,
    /// What clients must call this listener: a page elsewhere that has its name point here is not let in.
    pub address: SocketAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    token: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rotation {
    grace_ms: u64,
}

type Answer = (StatusCode, Value);

/// Answers administrators. Never returns.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let admin = admin.clone();
                async move { Ok::<_, Infallible>(admin.answer(request).await) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
            // A client that goes away is no event.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop(slot);
        });
    }
}

impl Admin {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = async {
            let whole = tokio::time::timeout(Duration::from_secs(30), Limited::new(body, MAX_BODY).collect()).await;
            whole.ok().and_then(Result::ok).map(|body| body.to_bytes())
        };
        let mut cookie = None;
        let mut act = Act::of(&parts, self.address);
        let answer = if !self.is_called_by_name(&parts) {
            refused(StatusCode::MISDIRECTED_REQUEST, "this listener has another name")
        } else if self.audit.as_ref().is_some_and(|audit| audit.is_closed()) {
            unrecorded()
        } else if let Some(body) = body.await {
            self.decide((&parts, &mut act), &body, &mut cookie).await
        } else {
            refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or did not come")
        };
        let (status, document) = self.record(act, answer, &mut cookie).await;
        let mut response = Response::new(Full::from(document.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(littoral_api::JSON));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        if let Some(cookie) = cookie.and_then(|cookie: String| HeaderValue::from_str(&cookie).ok()) {
            headers.insert(SET_COOKIE, cookie);
        }
        response
    }

    fn is_called_by_name(&self, parts: &http::request::Parts) -> bool {
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        [self.address.to_string(), format!("localhost:{}", self.address.port())]
            .iter()
            .any(|name| host.eq_ignore_ascii_case(name))
    }

    async fn decide(
        &self,
        (parts, act): (&http::request::Parts, &mut Act),
        body: &[u8],
        cookie: &mut Option<String>,
    ) -> Answer {
        let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        if (&parts.method, path.as_slice()) == (&Method::POST, &["admin", "login"]) {
            return self.login(body, cookie).await;
        }
        match self.sessions.admit(&*self.store, &parts.method, &parts.headers).await {
            Ok(()) => {}
            Err(Refused::Unknown) => return refused(StatusCode::UNAUTHORIZED, "the admin token is needed"),
            Err(Refused::NoStore) => return away(),
            Err(Refused::CrossSite) => return refused(StatusCode::FORBIDDEN, "x-csrf-token is missing or wrong"),
        }
        if parts.method != Method::GET && !self.begins(act).await {
            return unrecorded();
        }
        match (&parts.method, path.as_slice()) {
            (&Method::GET, ["admin", "keys"]) => of(keys::list(&*self.store).await, |(records, damaged)| {
                let mut list = json!({ "keys": records.into_iter().map(Listed::from).collect::<Vec<_>>() });
                if !damaged.is_empty() {
                    list["damaged"] = damaged.into();
                }
                list
            }),
            (&Method::POST, ["admin", "keys"]) => match serde_json::from_slice::<NewKey>(body) {
                Err(error) => refused(StatusCode::BAD_REQUEST, &error.to_string()),
                Ok(new) => {
                    of(keys::create(&*self.store, new).await, |(record, key)| json!({"id": record.id, "key": key}))
                }
            },
            (&Method::DELETE, ["admin", "keys", id]) => {
                of(keys::revoke(&*self.store, id).await, |()| json!({"revoked": id}))
            }
            (&Method::POST, ["admin", "keys", id, "rotate"]) => {
                let body = if body.is_empty() { b"{}" } else { body };
                match serde_json::from_slice::<Rotation>(body) {
                    Err(error) => refused(StatusCode::BAD_REQUEST, &error.to_string()),
                    Ok(rotation) => {
                        let rotated = keys::rotate(&*self.store, id, rotation.grace_ms).await;
                        of(rotated, |key| json!({"id": id, "key": key}))
                    }
                }
            }
            _ => refused(
                StatusCode::NOT_FOUND,
                "there are /admin/login, /admin/keys, /admin/keys/ID, /admin/keys/ID/rotate",
            ),
        }
    }

    async fn login(&self, body: &[u8], cookie: &mut Option<String>) -> Answer {
        let Ok(login) = serde_json::from_slice::<Login>(body) else {
            return refused(StatusCode::BAD_REQUEST, "the body must be {\"token\": \"la_...\"}");
        };
        match session::is_token(&*self.store, &login.token).await {
            Ok(()) => {}
            Err(Refused::NoStore) => return away(),
            Err(_) => return refused(StatusCode::UNAUTHORIZED, "the admin token is wrong"),
        }
        of(self.sessions.open(&login.token), |(value, csrf)| {
            *cookie = Some(format!("{}={value}; Path=/admin; HttpOnly; SameSite=Strict", session::SESSION));
            json!({ "csrf": csrf })
        })
    }

    /// Marks in the audit log what is about to be done, so that nothing is done of which it says nothing; whether it may be.
    async fn begins(&self, act: &mut Act) -> bool {
        let Some(audit) = &self.audit else { return true };
        match audit.begin(&act.record(event::BEGIN)) {
            Ok(seq) => {
                act.begin = Some(seq);
                audit.synced(seq).await;
                true
            }
            // Told by the log itself.
            Err(_) => !audit.denies(),
        }
    }

    /// Writes the line. What was only read, and is in no line, is not shown either.
    async fn record(&self, act: Act, (status, document): Answer, cookie: &mut Option<String>) -> Answer {
        let Some(audit) = &self.audit else { return (status, document) };
        // Of a key that was made the path does not say which it is.
        let key = document["id"].as_str().map(|id| ("key".to_string(), id.to_string()));
        let result = if status.is_success() { "allowed" } else { "denied" };
        let record = Record {
            outcome: Some(Outcome { result: result.into(), status: status.as_u16(), error: String::new() }),
            auth: key.map(|key| Auth { method: "admin".into(), policy: vec![key], ..Auth::default() }),
            begin: act.begin,
            ..act.record(event::ADMIN)
        };
        match audit.write(&record) {
            Ok(Some(synced)) => synced.await,
            Ok(None) => {}
            Err(_) if act.begin.is_none() && audit.denies() => {
                *cookie = None;
                return unrecorded();
            }
            // Told by the log itself; what was done has its mark.
            Err(_) => {}
        }
        (status, document)
    }
}

/// One request of an administrator, as the audit log tells of it.
struct Act {
    request_id: String,
    source_ip: String,
    action: String,
    /// Number of its mark.
    begin: Option<u64>,
}

impl Act {
    fn of(parts: &http::request::Parts, address: SocketAddr) -> Self {
        Self {
            request_id: format!("{:032x}", rand::random::<u128>()),
            source_ip: address.ip().to_string(),
            action: format!("{} {}", parts.method, parts.uri.path()),
            begin: None,
        }
    }

    fn record(&self, event_type: &str) -> Record {
        Record {
            timestamp: calendar::rfc3339(now_ms()),
            request_id: self.request_id.clone(),
            source_ip: self.source_ip.clone(),
            key_id: "admin".into(),
            event_type: event_type.into(),
            action: self.action.clone(),
            ..Record::default()
        }
    }
}

fn unrecorded() -> Answer {
    refused(StatusCode::SERVICE_UNAVAILABLE, "the audit log cannot be written to, so nothing is done")
}

fn of<T>(result: Result<T, KeyError>, show: impl FnOnce(T) -> Value) -> Answer {
    match result {
        Ok(value) => (StatusCode::OK, show(value)),
        Err(error) => {
            let status = match &error {
                KeyError::Invalid(_) => StatusCode::BAD_REQUEST,
                KeyError::Unknown(_) => StatusCode::NOT_FOUND,
                KeyError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
                KeyError::Damaged(_) | KeyError::NoEntropy => StatusCode::INTERNAL_SERVER_ERROR,
            };
            refused(status, &error.to_string())
        }
    }
}

fn away() -> Answer {
    refused(StatusCode::SERVICE_UNAVAILABLE, "the store cannot be reached, so no token can be checked; try again later")
}

fn refused(status: StatusCode, message: &str) -> Answer {
    (status, json!({"error": {"message": message}}))
}
