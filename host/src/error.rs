//! What can keep a request from its answer. Each kind has one HTTP status, and it is given here.

use std::{io, sync::Arc, time::Duration};

use http::StatusCode;
use littoral_api::error::{self as api, code};
use littoral_core::{Denial, denial::PARAM};
use littoral_proto::v1;
use tonic::Code;

use crate::{fleet::Unbound, guest::GuestError};

/// Why a request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A guest refused it; status, code and message are the guest's.
    #[error("{}", .0.message)]
    Denied(Box<Denial>),
    #[error("the request body is larger than {limit} bytes; send a shorter one")]
    BodyTooLarge { limit: usize },
    #[error("the request body did not arrive within {} ms", .0.as_millis())]
    BodyTimeout(Duration),
    #[error("the request body ended early: {0}")]
    BodyBroken(String),
    /// The guest trapped, looped, or asked for too much; the log says which.
    #[error("{}", guest_message(.0))]
    Guest(#[from] GuestError),
    /// The guest's decision cannot be carried out.
    #[error("the policy's decision cannot be carried out: {0}")]
    Plan(String),
    #[error("the request was not answered within its deadline")]
    Deadline,
    /// Who could answer has enough to do; seconds after which to come back, as the header says them.
    #[error("{what}; please try again in {seconds} s")]
    Busy { what: &'static str, seconds: String },
    /// No node can be asked.
    #[error("{0}")]
    NoNode(String),
    /// A node answered with an error event.
    #[error("{}", .0.message)]
    Node(v1::Error),
    /// A node could not be reached, or refused the call.
    #[error("{}", rpc_message(.0))]
    Rpc(#[from] Box<tonic::Status>),
    /// A node sent what no node can send.
    #[error("the node's answer cannot be understood; please try again")]
    Garbage(&'static str),
    /// The knowledge service refused, failed, or said what it cannot say; its own number of the error.
    #[error("{message}")]
    Knowledge { status: u16, error_code: Option<i64>, message: String },
    /// What happened to a generation that several requests waited for.
    #[error("{0}")]
    Shared(Arc<Self>),
}

/// Begins the code of an event that tells of [`Error::Knowledge`]; its status and number follow.
const KNOWLEDGE: &str = "knowledge:";

impl From<Denial> for Error {
    fn from(denial: Denial) -> Self {
        Self::Denied(Box::new(denial))
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

/// What the client is told of a guest's failure: not the trap, which belongs in the log.
fn guest_message(error: &GuestError) -> &'static str {
    match error {
        GuestError::Trap(_) => "a policy of this server failed on the request; please try again",
        GuestError::Deadline(_) => "a policy of this server took too long to decide; please try again",
        GuestError::FiltersBusy(_) => "every token filter of this server is busy; please try again",
        GuestError::UnknownFilter(_) => "the answer must pass a token filter that this server does not have",
    }
}

/// Messages of nodes are for clients where they are about the request; transport errors are not.
fn rpc_message(status: &tonic::Status) -> String {
    match code_of(status) {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange => status.message().into(),
        Code::ResourceExhausted => format!("the nodes are full: {}", status.message()),
        Code::Unavailable => match within::<Unbound>(status) {
            Some(why) => format!("the node cannot be reached: {why}"),
            None => "the node cannot be reached, or was lost; please try again".into(),
        },
        _ => "the node failed; please try again".into(),
    }
}

/// The status's code. One that the transport made here, because the connection broke, has a source and not the node's
/// word: the node is gone.
fn code_of(status: &tonic::Status) -> Code {
    match status.code() {
        Code::Unknown | Code::Internal if std::error::Error::source(status).is_some() => Code::Unavailable,
        code => code,
    }
}

/// What of this kind is behind an error.
pub fn within<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    // An `io::Error` does not name what it holds among its sources.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(held) => within(held),
        None => within(error.source()?),
    }
}

/// Status, API code, and whether another node could answer, for each gRPC code.
fn of_rpc(code: Code) -> (u16, &'static str, bool) {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => (400, code::INVALID_REQUEST, false),
        Code::NotFound => (400, code::MODEL_NOT_FOUND, true),
        Code::ResourceExhausted => (503, code::OVERLOADED, true),
        Code::Unavailable | Code::Aborted | Code::Cancelled => (503, code::UNAVAILABLE, true),
        Code::DeadlineExceeded => (504, code::DEADLINE_EXCEEDED, false),
        Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => (500, code::INTERNAL, true),
        Code::Ok | Code::Unknown | Code::AlreadyExists | Code::Internal | Code::DataLoss => (500, code::INTERNAL, true),
    }
}

impl Error {
    /// `what` is who has enough to do.
    pub fn busy(what: &'static str, seconds: u32) -> Self {
        Self::Busy { what, seconds: seconds.to_string() }
    }

    /// The one table from kinds to statuses.
    pub fn status(&self) -> StatusCode {
        let status = match self {
            Self::Denied(denial) => denial.status,
            Self::BodyTooLarge { .. } => 413,
            Self::BodyTimeout(_) => 408,
            Self::BodyBroken(_) => 400,
            Self::Guest(GuestError::Trap(_) | GuestError::UnknownFilter(_)) => 500,
            Self::Guest(GuestError::Deadline(_)) => 504,
            Self::Guest(GuestError::FiltersBusy(_)) => 503,
            Self::Plan(_) => 500,
            Self::Deadline => 504,
            Self::NoNode(_) | Self::Busy { .. } => 503,
            Self::Node(error) => api::status(&error.code),
            Self::Rpc(status) => of_rpc(code_of(status)).0,
            Self::Garbage(_) => 502,
            Self::Knowledge { status, .. } => *status,
            Self::Shared(error) => return error.status(),
        };
        // A guest may name any number; a refusal is never a success.
        StatusCode::from_u16(status)
            .ok()
            .filter(|s| s.is_client_error() || s.is_server_error())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// `code` of the API's error object.
    pub fn code(&self) -> &str {
        match self {
            Self::Denied(denial) => &denial.code,
            Self::BodyTooLarge { .. } => "request_too_large",
            Self::BodyTimeout(_) => "request_timeout",
            Self::BodyBroken(_) => code::INVALID_REQUEST,
            Self::Guest(GuestError::Deadline(_)) => code::DEADLINE_EXCEEDED,
            Self::Guest(GuestError::FiltersBusy(_)) => code::OVERLOADED,
            Self::Guest(_) | Self::Plan(_) | Self::Garbage(_) => code::INTERNAL,
            Self::Deadline => code::DEADLINE_EXCEEDED,
            Self::NoNode(_) => code::UNAVAILABLE,
            Self::Busy { .. } => code::OVERLOADED,
            Self::Knowledge { status: 400, .. } => code::INVALID_REQUEST,
            Self::Knowledge { .. } => code::UNAVAILABLE,
            Self::Node(error) => &error.code,
            Self::Rpc(status) => of_rpc(code_of(status)).1,
            Self::Shared(error) => error.code(),
        }
    }

    /// The knowledge service's number of the error, when it gave one.
    pub fn knowledge_code(&self) -> Option<i64> {
        match self {
            Self::Knowledge { error_code, .. } => *error_code,
            Self::Shared(error) => error.knowledge_code(),
            _ => None,
        }
    }

    /// The request's parameter at fault, when one is.
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::Denied(denial) => {
                denial.extra.iter().find(|(name, _)| name == PARAM).map(|(_, value)| value.as_str())
            }
            Self::Shared(error) => error.param(),
            _ => None,
        }
    }

    /// Headers of the refusal beside its body: the guest's own, and `retry-after` where a later try can help.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        let mut headers: Vec<(&str, &str)> = match self {
            Self::Denied(denial) => denial.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
            Self::Shared(error) => return error.headers(),
            _ => Vec::new(),
        };
        let named = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
        if let Self::Busy { seconds, .. } = self {
            headers.push(("retry-after", seconds));
        } else if !named && matches!(self.status().as_u16(), 429 | 503) {
            headers.push(("retry-after", "1"));
        }
        headers
    }

    /// Whether another node could answer what this one did not.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Node(error) => error.retryable,
            Self::Rpc(status) => of_rpc(code_of(status)).2,
            Self::Shared(error) => error.is_retryable(),
            // The call ended, or cannot be begun, without a word of the node's.
            Self::NoNode(_) | Self::Garbage(_) => true,
            // It says so of itself alone.
            Self::Busy { .. } => true,
            _ => false,
        }
    }

    /// Whether it counts against the node: what it says of the request or of its being full does not.
    pub fn is_nodes_fault(&self) -> bool {
        let innocent = matches!(self.code(), code::OVERLOADED | code::MODEL_NOT_FOUND | code::CANNOT_RESUME);
        self.is_retryable() && !innocent
    }

    /// The body of the refusal, in the API's format.
    pub fn body(&self) -> bytes::Bytes {
        api::body(self.status().as_u16(), self.code(), &self.to_string(), self.param())
    }

    /// The same as an event, for a stream whose status has been sent.
    pub fn event(&self) -> v1::Event {
        let error = match self {
            Self::Node(error) => error.clone(),
            Self::Shared(error) => return error.event(),
            Self::Knowledge { status, error_code, message } => {
                let number = error_code.map(|number| number.to_string()).unwrap_or_default();
                v1::Error { code: format!("{KNOWLEDGE}{status}:{number}"), message: message.clone(), retryable: false }
            }
            _ => v1::Error { code: self.code().into(), message: self.to_string(), retryable: self.is_retryable() },
        };
        v1::Event { kind: Some(v1::event::Kind::Error(error)) }
    }

    /// What such an event of a look-up says, that another edge may have made.
    pub fn of_look_up(error: v1::Error) -> Self {
        let numbers = error.code.strip_prefix(KNOWLEDGE).and_then(|numbers| numbers.split_once(':'));
        match numbers.and_then(|(status, number)| Some((status.parse().ok()?, number.parse().ok()))) {
            Some((status, error_code)) => Self::Knowledge { status, error_code, message: error.message },
            None => Self::Node(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(code: &str) -> Error {
        Error::Node(v1::Error { code: code.into(), message: "m".into(), retryable: true })
    }

    fn rpc(code: Code) -> Error {
        tonic::Status::new(code, "m").into()
    }

    #[test]
    fn what_a_knowledge_service_says_is_the_same_at_another_edge() {
        for (status, error_code) in [(400, Some(2001)), (502, None), (503, Some(-7))] {
            let said = Error::Shared(Arc::new(Error::Knowledge { status, error_code, message: "m".into() }));
            let Some(v1::event::Kind::Error(told)) = said.event().kind else { panic!("no error") };
            let heard = Error::of_look_up(told);
            assert_eq!((heard.status().as_u16(), heard.knowledge_code()), (status, error_code), "{heard:?}");
            assert_eq!((heard.to_string(), heard.code()), ("m".into(), said.code()));
        }
    }

    #[test]
    fn every_kind_has_its_status() {
        let table = [
            (littoral_core::denial::unauthorized("no").into(), 401),
            (Denial { status: 200, ..Denial::default() }.into(), 500),
            (Denial { status: 7, ..Denial::default() }.into(), 500),
            (Error::BodyTooLarge { limit: 1 }, 413),
            (Error::BodyTimeout(Duration::from_secs(1)), 408),
            (Error::BodyBroken("eof".into()), 400),
            (GuestError::Trap("unreachable".into()).into(), 500),
            (GuestError::Deadline("20 ms".into()).into(), 504),
            (GuestError::FiltersBusy(1).into(), 503),
            (Error::Plan("?".into()), 500),
            (Error::Deadline, 504),
            (Error::NoNode("none".into()), 503),
            (Error::Garbage("nonsense"), 502),
            (Error::Shared(Arc::new(Error::Deadline)), 504),
            (node("overloaded"), 503),
            (node("service_unavailable"), 503),
            (node("context_length_exceeded"), 400),
            (rpc(Code::InvalidArgument), 400),
            (rpc(Code::ResourceExhausted), 503),
            (rpc(Code::Unavailable), 503),
            (rpc(Code::DeadlineExceeded), 504),
            (rpc(Code::Internal), 500),
        ];
        for (error, status) in table {
            assert_eq!(error.status().as_u16(), status, "{error:?}");
        }
    }

    #[test]
    fn a_broken_connection_is_a_node_that_is_gone() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let error: Error = tonic::Status::from_error(Box::new(broken)).into();
        assert_eq!((error.status().as_u16(), error.code(), error.is_retryable()), (503, code::UNAVAILABLE, true));
        assert_eq!(rpc(Code::Unknown).status().as_u16(), 500);
    }

    #[test]
    fn full_means_try_again() {
        assert_eq!(rpc(Code::Unavailable).headers(), [("retry-after", "1")]);
        assert_eq!(Error::busy("every node is busy", 7).headers(), [("retry-after", "7")]);
        assert_eq!(Error::Deadline.headers(), []);
        let denial = littoral_core::denial::unavailable("later", 30);
        assert_eq!(Error::from(denial).headers(), [("retry-after", "30")]);
    }

    #[test]
    fn a_trap_is_not_told_to_the_client() {
        let error: Error = GuestError::Trap("wasm backtrace: secret".into()).into();
        assert!(!String::from_utf8_lossy(&error.body()).contains("secret"));
    }

    #[test]
    fn the_parameter_at_fault_is_named() {
        let error = Error::from(littoral_core::denial::invalid(Some("stop"), "too many"));
        assert!(String::from_utf8_lossy(&error.body()).contains(r#""param":"stop""#));
    }
}
