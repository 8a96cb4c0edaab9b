//! `POST /retrieval`: hot knowledge. Answers from the cache, from another request's look-up, or from the configured
//! upstream that speaks Dify's External Knowledge API.
//!
//! A document is kept like an answer: one piece of text between a beginning and an end.

use std::{rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{
    HeaderMap, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use littoral_core::{Pairs, Plan, denial::not_found};
use littoral_proto::v1::{Delta, Event, Started, Usage, delta::Part, event::Kind};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;
use tokio::{task::spawn_local, time::timeout_at};

use super::{Answer, Arrival, Executor, JSON, add, cache::Found, deadline, progress::Progress, together::Task};
use crate::{
    config::Node,
    error::Error,
    telemetry::{Entry, Tally},
    upstream::{Http, document, rest},
};

impl Executor {
    /// Carries out the service `retrieval`.
    pub(super) async fn retrieve(
        self: &Rc<Self>,
        headers: Pairs,
        mut plan: Arc<Plan>,
        arrival: &Arrival,
        (head, entry): (&mut HeaderMap, &mut Entry),
    ) -> Result<Answer, Error> {
        let Some(upstream) = self.shared.retrieval.clone() else {
            return Err(not_found("/retrieval").into());
        };
        let due = deadline(arrival.received, plan.deadline_ms, self.shared.deadline);
        let (found, role) = self.find(&mut plan, (arrival, due), head, entry).await?;
        let request = plan.request.clone().into();
        let ask = Ask { http: self.nodes.http(&upstream)?, upstream, request, id: arrival.id.clone() };
        let finding = async {
            match found {
                Found::Kept(answer) => text(answer.events.iter().cloned()),
                Found::Alone => ask.send().await,
                Found::Joined(mut listener) => {
                    listener.opened().await?;
                    text(listener.take_until_last().await)
                }
                Found::Leads(pilot, mut listener) => {
                    spawn_local(self.clone().fly(pilot, ask, role));
                    listener.opened().await?;
                    text(listener.take_until_last().await)
                }
            }
        };
        let document = timeout_at(due.into(), finding).await.map_err(|_| Error::Deadline)??;
        let mut head = std::mem::take(head);
        add(&mut head, headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        head.entry(CONTENT_TYPE).or_insert(JSON);
        let mut response = Response::new(Bytes::from(document));
        *response.headers_mut() = head;
        Ok(Answer::Whole(response))
    }
}

/// One question to the upstream.
struct Ask {
    http: Http,
    upstream: Arc<Node>,
    request: Bytes,
    id: String,
}

impl Task for Ask {
    type Events = stream::Skip<stream::Iter<std::array::IntoIter<Event, 3>>>;

    async fn open(self, _progress: Progress, heard: usize) -> Result<Self::Events, Error> {
        Ok(stream::iter(events(self.send().await?)).skip(heard))
    }

    fn follows(&self) -> Option<(Arc<Tally>, Instant)> {
        None
    }
}

/// What is looked at of an answer; all of it is passed on as it came.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "records")]
    _records: Vec<IgnoredAny>,
}

impl Ask {
    async fn send(self) -> Result<String, Error> {
        let response = self.http.send(&self.upstream, "", Some(self.request), &self.id).await?;
        let status = response.status();
        if let Some(seconds) = rest::asked(status, response.headers()) {
            return Err(Error::busy("the knowledge service is full", seconds));
        }
        let whole = document(response.into_body()).await;
        let whole = whole.map_err(|_| unreadable("is too large, or breaks off"))?;
        if status != StatusCode::OK {
            return Err(refused(status, &whole));
        }
        let text = String::from_utf8(whole.into()).map_err(|_| unreadable("is not text"))?;
        serde_json::from_str::<Document>(&text).map_err(|_| unreadable("has no records"))?;
        Ok(text)
    }
}

/// What is said of an answer that is none.
fn unreadable(what: &str) -> Error {
    let message = format!("the answer of the knowledge service {what}; see retrieval.url");
    tracing::warn!(message, "the knowledge service was not understood");
    Error::Knowledge { status: 502, error_code: None, message }
}

/// A refusal of the upstream's: what is about the request keeps its message, and the upstream's number for it.
fn refused(status: StatusCode, document: &[u8]) -> Error {
    let said = serde_json::from_slice::<serde_json::Value>(document).ok();
    let message = said.as_ref().and_then(|said| said.get("error_msg")?.as_str());
    let message: String = message.unwrap_or("the knowledge service refused the request").chars().take(300).collect();
    let error_code = said.as_ref().and_then(|said| said.get("error_code")?.as_i64());
    tracing::info!(status = status.as_u16(), error_code, message, "the knowledge service refused a request");
    let (status, error_code, message) = match status.as_u16() {
        400 | 404 | 422 => (400, error_code, message),
        429 => (503, error_code, "the knowledge service is full; please try again".into()),
        // Whose credential it did not take is this server's, not the client's.
        401 | 403 => {
            (502, None, "the knowledge service does not take this server's key; see retrieval.api_key_file".into())
        }
        _ => (503, error_code, "the knowledge service failed; please try again".into()),
    };
    Error::Knowledge { status, error_code, message }
}

/// Numbers of Dify's External Knowledge API: an `authorization` that is not of the form asked for, and one that opens
/// nothing.
const FORM: i64 = 1001;
const FAILED: i64 = 1002;

/// Whether the credential is of the form that the API asks for.
pub(super) fn bears(headers: &HeaderMap) -> bool {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    value
        .and_then(|value| value.split_once(' '))
        .is_some_and(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty())
}

/// An error as the API writes it: the knowledge service's number, the API's own, or the status.
pub(super) fn body(error: &Error, bears: bool) -> Bytes {
    let status = error.status().as_u16();
    let number = match (error.knowledge_code(), status) {
        (Some(code), _) => code,
        (None, 401) if !bears => FORM,
        (None, 401 | 403) => FAILED,
        (None, status) => status.into(),
    };
    json!({ "error_code": number, "error_msg": error.to_string() }).to_string().into()
}

/// A document as it is kept.
fn events(text: String) -> [Event; 3] {
    let started = Kind::Started(Started { node: "retrieval".into(), ..Started::default() });
    let delta = Kind::Delta(Delta { part: Some(Part::Text(text)), ..Delta::default() });
    [started, delta, Kind::Usage(Usage::default())].map(|kind| Event { kind: Some(kind) })
}

/// The document in these events.
fn text(events: impl IntoIterator<Item = Event>) -> Result<String, Error> {
    let mut text = None;
    for event in events {
        match event.kind {
            Some(Kind::Delta(Delta { part: Some(Part::Text(found)), .. })) => text = Some(found),
            Some(Kind::Error(error)) => return Err(Error::of_look_up(error)),
            _ => {}
        }
    }
    text.ok_or_else(|| Error::NoNode("the look-up was broken off; please try again".into()))
}
