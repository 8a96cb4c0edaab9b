//! One small document over outgoing HTTP.

use crate::{
    bindings::{
        wasi::http::{
            client,
            types::{ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme},
        },
        wit_future,
    },
    settings::split,
};

/// How long the server may take to connect, to begin, and between two pieces, nanoseconds.
const PATIENCE_NS: u64 = 5_000_000_000;
const PIECE: usize = 16 << 10;

/// The body of a 200 that has at most `most` bytes. Redirections are not followed.
pub async fn get(url: &str, most: usize) -> Result<Vec<u8>, String> {
    let (tls, authority, path) = split(url).ok_or("it is no address")?;
    let response = send(tls, authority, path).await.map_err(|error| format!("{error:?}"))?;
    match response.get_status_code() {
        200 => {}
        status => return Err(format!("it answered {status}")),
    }
    let (_, consumed) = wit_future::new(|| Ok(()));
    let (mut contents, trailers) = Response::consume_body(response, consumed);
    let mut body = Vec::new();
    loop {
        let (status, piece) = contents.read(Vec::with_capacity(PIECE)).await;
        body.extend_from_slice(&piece);
        if body.len() > most {
            return Err(format!("it has more than {most} bytes"));
        }
        match status {
            wit_bindgen::StreamResult::Complete(_) => {}
            _ => break,
        }
    }
    // How the body ended stands where trailers would.
    trailers.await.map_err(|error| format!("{error:?}"))?;
    Ok(body)
}

async fn send(tls: bool, authority: &str, path: &str) -> Result<Response, ErrorCode> {
    let fields = Fields::new();
    let _ = fields.append("accept", b"application/json");
    let (_, trailers) = wit_future::new(|| Ok(None));
    let options = RequestOptions::new();
    // A host without such timeouts keeps its own.
    let _ = options.set_connect_timeout(Some(PATIENCE_NS));
    let _ = options.set_first_byte_timeout(Some(PATIENCE_NS));
    let _ = options.set_between_bytes_timeout(Some(PATIENCE_NS));
    let (request, _sent) = Request::new(fields, None, trailers, Some(options));
    let wrong = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_method(&Method::Get).map_err(wrong)?;
    request.set_scheme(Some(if tls { &Scheme::Https } else { &Scheme::Http })).map_err(wrong)?;
    request.set_authority(Some(authority)).map_err(wrong)?;
    request.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).map_err(wrong)?;
    client::send(request).await
}
