//! An issuer's keys: JSON Web Key Sets (RFC 7517), read within bounds.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use serde::{Deserialize, Serialize};

/// Largest set that is read, bytes.
pub const MAX_BYTES: usize = 256 << 10;
/// Keys of a set that are taken.
const MAX_KEYS: usize = 100;

/// One key that signatures can be verified with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    #[serde(default)]
    pub kid: String,
    /// The one algorithm it is for.
    pub algorithm: String,
    /// Base64: uncompressed point (ES256), 32 bytes (EdDSA), DER of RSAPublicKey (RS256).
    pub public: String,
}

impl Key {
    /// The public key's bytes.
    pub fn public(&self) -> Option<Vec<u8>> {
        STANDARD_NO_PAD.decode(&self.public).ok()
    }
}

/// Why a set was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksError {
    TooLarge,
    Malformed(String),
}

impl std::fmt::Display for JwksError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge => write!(f, "the key set has more than {MAX_BYTES} bytes"),
            Self::Malformed(error) => write!(f, "the key set cannot be read: {error}"),
        }
    }
}

impl std::error::Error for JwksError {}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: String,
    r#use: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

/// The keys of a set that can be used; none where an issuer has withdrawn them all. Those of other kinds are passed over,
/// as RFC 7517 asks (section 5).
pub fn parse(json: &[u8]) -> Result<Vec<Key>, JwksError> {
    if json.len() > MAX_BYTES {
        return Err(JwksError::TooLarge);
    }
    let set: Set = serde_json::from_slice(json).map_err(|e| JwksError::Malformed(e.to_string()))?;
    Ok(set.keys.into_iter().take(MAX_KEYS).filter_map(key).collect())
}

fn key(jwk: serde_json::Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(jwk).ok()?;
    if jwk.r#use.as_deref().is_some_and(|usage| usage != "sig") {
        return None;
    }
    let part = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    let (algorithm, public) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("EC", Some("P-256")) => {
            let (x, y) = (part(&jwk.x)?, part(&jwk.y)?);
            ("ES256", (x.len() == 32 && y.len() == 32).then(|| [&[4][..], &x, &y].concat())?)
        }
        ("OKP", Some("Ed25519")) => ("EdDSA", part(&jwk.x).filter(|x| x.len() == 32)?),
        ("RSA", _) => {
            let (n, e) = (part(&jwk.n)?, part(&jwk.e)?);
            let n = &n[n.iter().position(|b| *b != 0)?..];
            ((256..=1024).contains(&n.len()) && (1..=8).contains(&e.len())).then_some(())?;
            ("RS256", der(0x30, &[integer(n), integer(&e)].concat()))
        }
        _ => return None,
    };
    if jwk.alg.as_deref().is_some_and(|named| named != algorithm) {
        return None;
    }
    Some(Key { kid: jwk.kid, algorithm: algorithm.into(), public: STANDARD_NO_PAD.encode(public) })
}

/// An unsigned integer in DER: a zero stands before a first byte that would make it negative.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if bytes.first().is_some_and(|b| *b >= 0x80) { &[0] } else { &[] };
    der(2, &[sign, bytes].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let n = content.len();
    let length = match n {
        0..128 => vec![n as u8],
        128..256 => vec![0x81, n as u8],
        _ => vec![0x82, (n >> 8) as u8, n as u8],
    };
    [&[tag][..], &length, content].concat()
}

/// The JWK of an ES256 key, whose public part is an uncompressed point.
pub fn es256(kid: &str, point: &[u8]) -> Option<serde_json::Value> {
    let (x, y) = point.strip_prefix(&[4])?.split_at_checked(32)?;
    let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
    Some(serde_json::json!({
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": encode(x), "y": encode(y),
    }))
}
