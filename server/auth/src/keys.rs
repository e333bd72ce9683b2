//! A set of keys as an issuer publishes it (RFC 7517). Pure. Which algorithms a key verifies is said by
//! the key alone, never by a token.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};

/// Keys that a set can have: issuers publish two or three.
const KEYS_MAX: usize = 100;

/// One key that verifies tokens.
pub(crate) struct Key {
    pub(crate) id: Option<String>,
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) decoding: DecodingKey,
}

/// The keys of an issuer.
#[derive(Default)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// Reads a key set. What is in it for other purposes is passed over; one without a single key that
    /// verifies tokens is refused.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let set: serde_json::Value = serde_json::from_slice(json)
            .map_err(|_| "is no JSON; a JSON Web Key Set is accepted".to_owned())?;
        let Some(listed) = set.get("keys").and_then(serde_json::Value::as_array) else {
            return Err("has no list `keys`; a JSON Web Key Set is accepted".to_owned());
        };
        if listed.len() > KEYS_MAX {
            let count = listed.len();
            return Err(format!("has {count} keys; at most {KEYS_MAX} are accepted"));
        }
        let keys: Vec<Key> = listed.iter().filter_map(key).collect();
        if keys.is_empty() {
            return Err(
                "has no key that verifies tokens; RSA, P-256, P-384 and Ed25519 are accepted"
                    .to_owned(),
            );
        }
        Ok(Self { keys })
    }

    /// The key that a token names; one that names none is verified by the only key that there is for
    /// its algorithm.
    pub(crate) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        match id {
            Some(id) => self.keys.iter().find(|key| key.id.as_deref() == Some(id)),
            None => {
                let mut fitting = self
                    .keys
                    .iter()
                    .filter(|key| key.algorithms.contains(&algorithm));
                let only = fitting.next()?;
                fitting.next().is_none().then_some(only)
            }
        }
    }
}

fn key(json: &serde_json::Value) -> Option<Key> {
    // A key of a kind that the library does not know must not spoil the others.
    let jwk: Jwk = serde_json::from_value(json.clone()).ok()?;
    if matches!(&jwk.common.public_key_use, Some(purpose) if *purpose != PublicKeyUse::Signature) {
        return None;
    }
    let operations = &jwk.common.key_operations;
    if matches!(operations, Some(all) if !all.contains(&KeyOperations::Verify)) {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(parameters) => match parameters.curve {
            EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
            _ => return None,
        },
        // A shared secret, or what is not known.
        _ => return None,
    };
    if let Some(named) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| Algorithm::try_from(named).ok() == Some(*algorithm));
    }
    if algorithms.is_empty() {
        return None;
    }
    Some(Key {
        id: jwk.common.key_id.clone(),
        algorithms,
        decoding: DecodingKey::from_jwk(&jwk).ok()?,
    })
}
