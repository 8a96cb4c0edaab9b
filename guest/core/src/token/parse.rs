//! From a token's text to its header and claims, within bounds and without a second meaning.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::Value;

/// Longest token that is looked at.
pub const MAX_BYTES: usize = 8192;
/// Longest value of a claim that names something.
const MAX_NAME: usize = 256;
/// Headers that bring or name keys of the sender's own, or change what is signed (RFC 8725, 3.5 and 3.10).
const FORBIDDEN: [&str; 6] = ["crit", "jku", "jwk", "x5u", "x5c", "b64"];

/// A token that was read and not verified.
#[derive(Debug, PartialEq)]
pub struct Token<'a> {
    pub header: Header,
    pub claims: Claims,
    /// What the signature is over.
    pub signed: &'a [u8],
    pub signature: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    pub alg: String,
    pub kid: String,
}

/// Claims of an access token (RFC 9068, section 2.2). Times are Unix seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    pub aud: Vec<String>,
    pub exp: u64,
    pub nbf: Option<u64>,
    pub iat: u64,
    pub jti: String,
    pub client_id: String,
    pub scope: String,
    pub acr: String,
    pub amr: Vec<String>,
    pub auth_time: Option<u64>,
    pub other: BTreeMap<String, Value>,
}

/// Why a token is not taken. Clients are told as much, and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    TooLarge,
    Malformed,
    /// A header that is never taken.
    Header,
    Type,
    Algorithm,
    Claim(&'static str),
    Issuer,
    Audience,
    Expired,
    NotYet,
    TooLong {
        most_s: u64,
    },
    Key,
    Signature,
    Tenant,
    Revoked,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "the token has more than {MAX_BYTES} bytes"),
            Self::Malformed => f.write_str("the token cannot be read"),
            Self::Header => f.write_str("the token's header brings a key or an extension"),
            Self::Type => f.write_str("the token's typ is not at+jwt"),
            Self::Algorithm => f.write_str("the token's algorithm is not taken"),
            Self::Claim(name) => write!(f, "the token's claim '{name}' is missing or not what it must be"),
            Self::Issuer => f.write_str("the token's issuer is not known here"),
            Self::Audience => f.write_str("the token is for another audience"),
            Self::Expired => f.write_str("the token has expired"),
            Self::NotYet => f.write_str("the token is not valid yet"),
            Self::TooLong { most_s } => write!(f, "the token is valid for more than {most_s} seconds"),
            Self::Key => f.write_str("the token's key is not one of its issuer"),
            Self::Signature => f.write_str("the token's signature is wrong"),
            Self::Tenant => f.write_str("the token names no tenant, or none that can be one"),
            Self::Revoked => f.write_str("the token was revoked"),
        }
    }
}

impl<'a> Token<'a> {
    /// Whether `text` has the form of a token rather than of an API key.
    pub fn looks_like(text: &str) -> bool {
        let two = || text.split_once('.')?.1.split_once('.');
        text.len() > MAX_BYTES || two().is_some_and(|(_, signature)| !signature.contains('.'))
    }

    /// Reads a token of the compact form.
    pub fn parse(text: &'a str) -> Result<Self, TokenError> {
        if text.len() > MAX_BYTES {
            return Err(TokenError::TooLarge);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header = Header::read(object(header)?)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        let claims = Claims::read(object(claims)?)?;
        Ok(Self { header, claims, signed: signed.as_bytes(), signature })
    }
}

/// A JSON object without duplicate names, base64url without padding.
fn object(text: &str) -> Result<Fields, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?;
    // serde_json gives up at a depth of 128, and the text is short.
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

/// Whether it is short enough, and without control characters: names joined by line feeds shall be told apart.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && !text.bytes().any(|b| b.is_ascii_control())
}

/// The place of a field that has a meaning, in a header (the first three) or among the claims.
#[inline]
fn place(name: &str) -> Option<usize> {
    Some(match name {
        "typ" => 0,
        "alg" => 1,
        "kid" => 2,
        "iss" => 3,
        "sub" => 4,
        "aud" => 5,
        "exp" => 6,
        "nbf" => 7,
        "iat" => 8,
        "jti" => 9,
        "client_id" => 10,
        "scope" => 11,
        "acr" => 12,
        "amr" => 13,
        "auth_time" => 14,
        _ => return None,
    })
}

/// The fields of an object: those that have a [`place`] there, so that they cost no name and no search, and the others.
#[derive(Default)]
struct Fields {
    known: [Option<Value>; 15],
    other: BTreeMap<String, Value>,
}

impl Fields {
    #[inline]
    fn take(&mut self, name: &str) -> Option<Value> {
        match place(name) {
            Some(at) => self.known[at].take(),
            None => self.other.remove(name),
        }
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some(Name(name)) = map.next_key()? {
                    let twice = match place(&name) {
                        Some(at) => fields.known[at].replace(map.next_value()?).is_some(),
                        None => fields.other.insert(name.into_owned(), map.next_value()?).is_some(),
                    };
                    if twice {
                        return Err(A::Error::custom("a name stands twice"));
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// A name, borrowed unless something in it is escaped.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Header {
    fn read(mut fields: Fields) -> Result<Self, TokenError> {
        if FORBIDDEN.iter().any(|name| fields.other.contains_key(*name)) {
            return Err(TokenError::Header);
        }
        let mut text = |name: &str| match fields.take(name) {
            Some(Value::String(text)) if is_name(&text) => Some(text),
            _ => None,
        };
        let typ = text("typ").unwrap_or_default();
        if !["at+jwt", "application/at+jwt"].iter().any(|name| typ.eq_ignore_ascii_case(name)) {
            return Err(TokenError::Type);
        }
        let alg = text("alg").ok_or(TokenError::Algorithm)?;
        Ok(Self { alg, kid: text("kid").unwrap_or_default() })
    }
}

impl Claims {
    fn read(mut fields: Fields) -> Result<Self, TokenError> {
        fn name(fields: &mut Fields, claim: &'static str) -> Result<String, TokenError> {
            text(fields.take(claim), claim)
        }
        fn text(value: Option<Value>, claim: &'static str) -> Result<String, TokenError> {
            match value {
                Some(Value::String(text)) if !text.is_empty() && is_name(&text) => Ok(text),
                _ => Err(TokenError::Claim(claim)),
            }
        }
        fn optional(fields: &mut Fields, claim: &'static str) -> Result<String, TokenError> {
            fields.take(claim).map_or(Ok(String::new()), |value| text(Some(value), claim))
        }
        /// NumericDate: seconds, perhaps with a fraction.
        fn time(fields: &mut Fields, claim: &'static str) -> Result<Option<u64>, TokenError> {
            match fields.take(claim) {
                None => Ok(None),
                Some(value) => {
                    let seconds =
                        value.as_u64().or_else(|| value.as_f64().filter(|s| (0.0..1e15).contains(s)).map(|s| s as u64));
                    seconds.map(Some).ok_or(TokenError::Claim(claim))
                }
            }
        }
        fn names(fields: &mut Fields, claim: &'static str) -> Result<Vec<String>, TokenError> {
            match fields.take(claim) {
                None => Ok(Vec::new()),
                Some(Value::String(one)) => Ok(vec![one]),
                Some(Value::Array(many)) => many
                    .into_iter()
                    .map(|value| value.as_str().map(String::from).ok_or(TokenError::Claim(claim)))
                    .collect(),
                Some(_) => Err(TokenError::Claim(claim)),
            }
        }
        let fields = &mut fields;
        // They mean something in headers alone.
        for name in ["typ", "alg", "kid"] {
            fields.take(name).and_then(|value| fields.other.insert(name.into(), value));
        }
        Ok(Self {
            iss: name(fields, "iss")?,
            sub: name(fields, "sub")?,
            aud: names(fields, "aud")?,
            exp: time(fields, "exp")?.ok_or(TokenError::Claim("exp"))?,
            nbf: time(fields, "nbf")?,
            iat: time(fields, "iat")?.ok_or(TokenError::Claim("iat"))?,
            jti: name(fields, "jti")?,
            client_id: name(fields, "client_id")?,
            scope: optional(fields, "scope")?,
            acr: optional(fields, "acr")?,
            amr: names(fields, "amr")?,
            auth_time: time(fields, "auth_time")?,
            other: std::mem::take(&mut fields.other),
        })
    }
}
