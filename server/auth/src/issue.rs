//! An issuer of tokens, for tests: keys made for the occasion, and tokens in any shape, wrong ones too.
//! No process of Touchline issues tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaPublic, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
        RsaKeyPair,
    },
};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

/// Who issues, in tests.
pub const ISSUER: &str = "https://issuer.test";
/// For whom, in tests.
pub const AUDIENCE: &str = "touchline";

/// A key that signs tokens.
#[derive(Debug)]
pub struct SigningKey {
    id: String,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(RsaKeyPair),
}

impl SigningKey {
    /// A new key on the curve P-256.
    pub fn es256(id: &str) -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let made = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("there is randomness");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, made.as_ref(), &random);
        Self::of(id, Pair::Es256(pair.expect("it was just made")))
    }

    /// A new key of Ed25519.
    pub fn eddsa(id: &str) -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let made = made.expect("there is randomness");
        let pair = Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("it was just made");
        Self::of(id, Pair::EdDsa(pair))
    }

    /// An RSA key, always the same one.
    pub fn rs256(id: &str) -> Self {
        let pem = include_bytes!("issue/rsa.pem");
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).expect("the file is a key");
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("the file is an RSA key");
        Self::of(id, Pair::Rs256(pair))
    }

    fn of(id: &str, pair: Pair) -> Self {
        Self {
            id: id.to_owned(),
            pair,
        }
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Es256(_) => "ES256",
            Pair::EdDsa(_) => "EdDSA",
            Pair::Rs256(_) => "RS256",
        }
    }

    /// The public half, as a key set lists it.
    pub fn public(&self) -> Value {
        let mut key = match &self.pair {
            Pair::Es256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)})
            }
            Pair::EdDsa(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())})
            }
            Pair::Rs256(pair) => {
                let public: PublicKeyComponents<Vec<u8>> = RsaPublic::public(pair).into();
                json!({"kty": "RSA", "n": encode(&public.n), "e": encode(&public.e)})
            }
        };
        key["kid"] = self.id.clone().into();
        key["use"] = "sig".into();
        key["alg"] = self.algorithm().into();
        key
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"typ": "JWT", "alg": self.algorithm(), "kid": self.id});
        self.sign_with(&header, claims)
    }

    /// A token with this header, whatever it says.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Es256(pair) => {
                let signed = pair.sign(&random, message.as_bytes());
                signed.expect("there is randomness").as_ref().to_vec()
            }
            Pair::EdDsa(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &random,
                    message.as_bytes(),
                    &mut signature,
                )
                .expect("the key is long enough");
                signature
            }
        };
        format!("{message}.{}", encode(&signature))
    }
}

/// A token that a shared secret signs: what a forger makes of a public key.
pub fn sign_by_secret(secret: &[u8], header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let signature = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, secret),
        message.as_bytes(),
    );
    format!("{message}.{}", encode(signature.as_ref()))
}

/// A key set with these keys.
pub fn key_set(keys: &[&SigningKey]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| key.public()).collect();
    json!({ "keys": keys }).to_string()
}

/// Claims of a consumer, good for so long, with these scopes, as they stand in the claim.
pub fn claims(consumer_id: &str, lifetime: Duration, scopes: &str) -> Value {
    json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": consumer_id,
        "exp": seconds_from_now(lifetime),
        "scope": scopes,
    })
}

/// A time, as claims give it.
pub fn seconds_from_now(duration: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    (now.unwrap_or_default() + duration).as_secs()
}

fn message(header: &Value, claims: &Value) -> String {
    let part = |json: &Value| encode(json.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
