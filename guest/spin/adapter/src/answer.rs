//! Answers that are documents: refusals, service results, what a policy wrote itself.

use littoral_core::document;

use crate::{
    bindings::{
        littoral::edge::types::{Denial, Pairs},
        wasi::http::types::{Fields, Response},
        wit_future, wit_stream,
    },
    none,
};

/// A refusal by the adapter itself.
pub fn denial(status: u16, code: &str, message: impl Into<String>) -> Denial {
    Denial { status, code: code.into(), message: message.into(), headers: none(), audit: none(), extra: none() }
}

/// A refusal in the API's error format. `id` is the header that names the request.
pub fn refusal(denial: Denial, id: (String, String)) -> Response {
    let Denial { status, code, message, mut headers, audit, extra } = denial;
    headers.push(id);
    let plain = littoral_core::Denial { status, code, message, headers: none(), audit, extra };
    document(status, headers, document::refusal(&plain))
}

/// A whole document; JSON unless the headers say otherwise. A header that HTTP does not allow is left out.
pub fn document(status: u16, headers: Pairs, body: Vec<u8>) -> Response {
    let fields = Fields::new();
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        let _ = fields.append("content-type", b"application/json");
    }
    for (name, value) in &headers {
        let _ = fields.append(name, value.as_bytes());
    }
    let (mut bytes, contents) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(fields, Some(contents), trailers);
    // Only a policy can name a status that HTTP does not have; the answer then keeps 200's place as a 500.
    if response.set_status_code(status).is_err() {
        let _ = response.set_status_code(500);
    }
    wit_bindgen::spawn(async move {
        bytes.write_all(body).await;
    });
    response
}
