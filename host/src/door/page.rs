//! The playground at `/`: a chat in the browser, embedded in the binary. Not decided by guests.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use sha2::{Digest, Sha256};

/// Where every file but the document itself lives.
const FOLDER: &str = "/playground/";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

/// The page runs its own scripts, talks to its own origin, and turns no text into markup: the last two directives make
/// the browser refuse `innerHTML` and its kin.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// A file of the page.
struct File {
    name: &'static str,
    kind: &'static str,
    content: &'static [u8],
}

macro_rules! files {
    ($($kind:ident: $($name:literal),+;)+) => {
        [$($(File { name: $name, kind: $kind, content: include_bytes!(concat!("../../playground/", $name)) }),+),+]
    };
}

/// The document first, the rest by name.
static FILES: &[File] = &files! {
    HTML: "index.html";
    CSS: "styles.css";
    SVG: "shore.svg";
    JS: "announcer.js", "answer.js", "api.js", "blocks.js", "cache-words.js", "chat.js", "composer.js", "connect.js",
        "copy.js", "dom.js", "fault.js", "inline.js", "links.js", "main.js", "meter.js", "prose.js", "scroll.js",
        "settings.js", "sse.js", "store.js", "text.js", "theme.js", "turns.js";
};

/// A strong validator for each file, in the order of [`FILES`].
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| FILES.iter().map(|file| tag(file.content)).collect());

/// The page's answer, or `None` for a path that is not the page's. `headers` are the request's.
pub fn answer(method: &Method, path: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
    let name = match path {
        "/" => FILES[0].name,
        _ => path.strip_prefix(FOLDER)?,
    };
    // The document has one address.
    let found = FILES.iter().position(|file| file.name == name && (file.kind != HTML || path == "/"));
    let Some(i) = found else {
        return Some(plain(StatusCode::NOT_FOUND, "the playground has no such file; it begins at /\n"));
    };
    if method != Method::GET && method != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "the playground's files answer GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(response);
    }
    Some(serve(&FILES[i], &TAGS[i], method, headers))
}

fn serve(file: &File, tag: &HeaderValue, method: &Method, headers: &HeaderMap) -> Response<Bytes> {
    let mut response = if matches(headers, tag) {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let body = if method == Method::HEAD { Bytes::new() } else { Bytes::from_static(file.content) };
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(file.kind));
        response.headers_mut().insert(CONTENT_LENGTH, file.content.len().into());
        response
    };
    response.headers_mut().insert(ETAG, tag.clone());
    guard(response.headers_mut());
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    guard(response.headers_mut());
    response
}

/// What every answer of the page carries. `no-cache` means: keep it, and ask whether it is still the same.
fn guard(headers: &mut HeaderMap) {
    let pairs = [
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in pairs {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Whether the client has this very file (`If-None-Match`, RFC 9110, section 13.1.2: a list, compared weakly).
fn matches(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let given = headers.get_all(http::header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut candidates = given.flat_map(|list| list.split(',')).map(str::trim);
    candidates.any(|c| c == "*" || c.strip_prefix("W/").unwrap_or(c).as_bytes() == tag.as_bytes())
}

fn tag(content: &[u8]) -> HeaderValue {
    let digest = Sha256::digest(content);
    let first = digest.iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    HeaderValue::from_str(&format!("\"{first:016x}\"")).expect("quotes and hexadecimal digits can stand in a header")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::header::IF_NONE_MATCH;

    use super::*;

    fn get(path: &str) -> Option<Response<Bytes>> {
        answer(&Method::GET, path, &HeaderMap::new())
    }

    fn holding(tags: &str) -> HeaderMap {
        HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(tags).unwrap())])
    }

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/playground");
        let there = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert_eq!(there.collect::<BTreeSet<_>>(), FILES.iter().map(|f| f.name.to_string()).collect());
    }

    #[test]
    fn each_file_says_what_it_is_and_is_guarded() {
        for file in FILES {
            let path = if file.kind == HTML { "/".into() } else { format!("{FOLDER}{}", file.name) };
            let response = get(&path).unwrap();
            assert_eq!(response.status(), 200, "{path}");
            assert_eq!(response.headers()[CONTENT_TYPE], file.kind);
            assert_eq!(response.headers()[CONTENT_LENGTH], file.content.len().to_string());
            assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_eq!(response.headers()[CONTENT_SECURITY_POLICY], POLICY);
            assert_eq!(response.body(), file.content);
        }
    }

    #[test]
    fn the_document_keeps_the_policy_it_is_served_under() {
        let text = std::str::from_utf8(FILES[0].content).unwrap();
        for forbidden in ["<style", " style=", " onclick=", " onload=", "javascript:", "<script>", "//cdn"] {
            assert!(!text.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn other_paths_are_not_the_pages() {
        for path in ["/v1/models", "/playground", "/index.html", "/healthz", "//"] {
            assert!(get(path).is_none(), "{path}");
        }
        for path in ["/playground/", "/playground/index.html", "/playground/../page.rs", "/playground/nothing.js"] {
            assert_eq!(get(path).unwrap().status(), 404, "{path}");
        }
    }

    #[test]
    fn a_file_the_browser_has_is_not_sent_again() {
        let tag = get("/").unwrap().headers()[ETAG].to_str().unwrap().to_string();
        for have in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".into()] {
            let response = answer(&Method::GET, "/", &holding(&have)).unwrap();
            assert_eq!((response.status(), response.body().len()), (StatusCode::NOT_MODIFIED, 0), "{have}");
            assert_eq!(response.headers()[ETAG], tag.as_str());
        }
        assert_eq!(answer(&Method::GET, "/", &holding("\"other\"")).unwrap().status(), 200);
        assert_eq!(answer(&Method::GET, "/playground/main.js", &holding(&tag)).unwrap().status(), 200);
    }

    #[test]
    fn only_reading_is_answered() {
        let head = answer(&Method::HEAD, "/", &HeaderMap::new()).unwrap();
        assert!(head.body().is_empty() && head.headers()[CONTENT_LENGTH] != "0");
        let post = answer(&Method::POST, "/", &HeaderMap::new()).unwrap();
        assert_eq!(
            (post.status(), &post.headers()[ALLOW]),
            (StatusCode::METHOD_NOT_ALLOWED, &HeaderValue::from_static("GET, HEAD"))
        );
    }
}
