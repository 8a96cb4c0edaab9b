//! An identity provider: key pairs, tokens signed with them, and a server of its key set.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::SystemTime,
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use littoral_core::token::jwks;
use serde_json::{Value, json};

/// `iss` of the tokens of [`claims`].
pub const ISSUER: &str = "https://id.example";

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A key pair of an identity provider.
pub enum Pair {
    Es(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rs(RsaKeyPair),
}

impl Pair {
    pub fn es() -> Self {
        Self::Es(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    pub fn rs() -> Self {
        Self::Rs(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Es(_) => "ES256",
            Self::Ed(_) => "EdDSA",
            Self::Rs(_) => "RS256",
        }
    }

    /// The public key.
    pub fn jwk(&self, kid: &str) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Es(pair) => jwks::es256(kid, pair.public_key().as_ref()).unwrap(),
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encode(pair.public_key().as_ref())})
            }
            Self::Rs(pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                json!({
                    "kty": "RSA", "kid": kid, "use": "sig",
                    "n": encode(n.big_endian_without_leading_zero()), "e": encode(e.big_endian_without_leading_zero()),
                })
            }
        }
    }

    /// A signed access token.
    pub fn token(&self, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "typ": "at+jwt", "kid": kid});
        let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Es(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
            Self::Rs(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What a good token for tenant `acme` says.
pub fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "ada", "aud": "littoral", "iat": now(), "exp": now() + 300, "jti": "j1",
        "client_id": "app", "tenant": "acme",
    })
}

/// A server of a key set, which may change.
pub struct Served {
    address: SocketAddr,
    set: Arc<Mutex<String>>,
    /// How often it was asked.
    pub asked: Arc<AtomicU32>,
}

impl Served {
    /// Answers every request with these keys.
    pub fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the system gives a port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let served = Self { address, set: Arc::default(), asked: Arc::default() };
        served.serve(keys);
        let (set, asked) = (served.set.clone(), served.asked.clone());
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                asked.fetch_add(1, Relaxed);
                let _ = stream.read(&mut [0; 2048]);
                let body = set.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
            }
        });
        served
    }

    pub fn url(&self) -> String {
        format!("http://{}/jwks", self.address)
    }

    /// Answers with these keys from now on.
    pub fn serve(&self, keys: &[Value]) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = json!({ "keys": keys }).to_string();
    }
}
