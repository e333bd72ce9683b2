//! A bearer token, verified: a JWT (RFC 7519) of one issuer for one audience, signed by one of the
//! issuer's keys. Gives an [`Identity`] or says why not, in words that repeat nothing of the token.

use std::time::{Duration, SystemTime};

use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use serde_json::{Map, Value};

use crate::{
    InvalidFlag,
    args::AuthArgs,
    crypto,
    identity::Identity,
    jwks::{Jwks, NoKeys},
    keys::Key,
    scopes::{Scope, Scopes},
};

/// Largest token. API Gateway's handshake carries 10 kB in all its headers.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Longest consumer id, as everywhere in Touchline (Personalize: 256 characters).
const CONSUMER_CHARACTERS_MAX: usize = 256;

/// Why a caller is nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing was presented.
    #[error("a token is needed and none was presented")]
    Missing,
    /// It is larger than any token.
    #[error("the token is larger than 8 kB")]
    TooLarge,
    /// It is no token.
    #[error("the token cannot be read")]
    Malformed,
    /// Its algorithm is not one that the key verifies.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// The issuer has no such key.
    #[error("the token is signed by a key that is not known")]
    UnknownKey,
    /// It was not signed by the key that it names.
    #[error("the token's signature is wrong")]
    Signature,
    /// It was valid once.
    #[error("the token has expired")]
    Expired,
    /// It will be valid.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Somebody else issued it.
    #[error("the token is of another issuer")]
    Issuer,
    /// It was issued for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// It lacks something, or has it in a wrong form.
    #[error("the token's claim {0} is missing or cannot be used")]
    Claim(String),
    /// The issuer's keys cannot be had at the moment; nothing is said about the token.
    #[error("tokens cannot be verified at the moment")]
    Unavailable,
}

impl Refused {
    /// The same for programs; stable.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "TOKEN_MISSING",
            Self::TooLarge => "TOKEN_TOO_LARGE",
            Self::Malformed => "TOKEN_MALFORMED",
            Self::Algorithm => "TOKEN_ALGORITHM",
            Self::UnknownKey => "TOKEN_KEY_UNKNOWN",
            Self::Signature => "TOKEN_SIGNATURE",
            Self::Expired => "TOKEN_EXPIRED",
            Self::NotYetValid => "TOKEN_NOT_YET_VALID",
            Self::Issuer => "TOKEN_ISSUER",
            Self::Audience => "TOKEN_AUDIENCE",
            Self::Claim(_) => "TOKEN_CLAIM",
            Self::Unavailable => "KEYS_UNAVAILABLE",
        }
    }
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Verifier {
    jwks: Jwks,
    issuers: Vec<String>,
    audiences: Vec<String>,
    audience_claim: String,
    clock_skew: Duration,
    consumer_claim: String,
    scope_claim: String,
    scope_prefix: String,
    default_scopes: Scopes,
}

impl Verifier {
    /// What these flags say; `None` while tokens are off.
    ///
    /// # Errors
    /// A file with keys that cannot be read.
    pub fn open(args: &AuthArgs) -> Result<Option<Self>, InvalidFlag> {
        let Some(place) = &args.auth_jwks else {
            return Ok(None);
        };
        crypto::install();
        let jwks = Jwks::open(place, args.auth_jwks_refresh)
            .map_err(|reason| InvalidFlag::new("--auth-jwks", "cannot be used", reason))?;
        Ok(Some(Self {
            jwks,
            issuers: args.auth_issuer.clone(),
            audiences: args.auth_audience.clone(),
            audience_claim: args.auth_audience_claim.clone(),
            clock_skew: args.auth_clock_skew,
            consumer_claim: args.auth_consumer_claim.clone(),
            scope_claim: args.auth_scope_claim.clone(),
            scope_prefix: args.auth_scope_prefix.clone(),
            default_scopes: Scopes::NONE.granting(args.auth_default_scopes.iter().copied()),
        }))
    }

    /// Who presents this token.
    pub async fn verify(&self, token: &str) -> Result<Identity, Refused> {
        if token.is_empty() {
            return Err(Refused::Missing);
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        let header = decode_header(token).map_err(|error| match error.kind() {
            // `none`, and whatever the library does not know.
            ErrorKind::Json(error) if error.is_data() => Refused::Algorithm,
            _ => Refused::Malformed,
        })?;
        // What must be understood and is not (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(Refused::Malformed);
        }
        let keys = self.jwks.keys().await;
        let keys = keys.map_err(|NoKeys::Unavailable| Refused::Unavailable)?;
        let id = header.kid.as_deref();
        if let Some(key) = keys.find(id, header.alg) {
            return self.verify_by(key, token);
        }
        let newer = self.jwks.newer(&keys).await;
        let newer = newer.ok_or(Refused::UnknownKey)?;
        let key = newer.find(id, header.alg).ok_or(Refused::UnknownKey)?;
        self.verify_by(key, token)
    }

    fn verify_by(&self, key: &Key, token: &str) -> Result<Identity, Refused> {
        let mut validation = Validation::default();
        validation.algorithms.clone_from(&key.algorithms);
        validation.leeway = self.clock_skew.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&self.issuers);
        let mut required = vec!["exp", "iss"];
        // Another claim than `aud` is looked at below; no audience means that none was wanted.
        validation.validate_aud = !self.audiences.is_empty() && self.audience_claim == "aud";
        if validation.validate_aud {
            validation.set_audience(&self.audiences);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        let verified = decode::<Map<String, Value>>(token, &key.decoding, &validation);
        let claims = verified.map_err(|error| refusal(error.kind()))?.claims;
        if !self.audiences.is_empty() && !validation.validate_aud {
            self.check_audience(&claims)?;
        }
        self.identify(&claims)
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), Refused> {
        let claim = &self.audience_claim;
        let given = texts(claims.get(claim)).ok_or_else(|| Refused::Claim(claim.clone()))?;
        let is_ours = given
            .iter()
            .any(|given| self.audiences.iter().any(|ours| ours == given));
        is_ours.then_some(()).ok_or(Refused::Audience)
    }

    fn identify(&self, claims: &Map<String, Value>) -> Result<Identity, Refused> {
        let wrong = |claim: &str| Refused::Claim(claim.to_owned());
        let consumer_id = match claims.get(&self.consumer_claim) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if is_id(text) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(_) => return Err(wrong(&self.consumer_claim)),
        };
        let expires_at = claims.get("exp").and_then(Value::as_f64);
        let expires_at = expires_at.ok_or_else(|| wrong("exp"))?;
        // A time that no clock can show is as good as never.
        let expires_at = Duration::try_from_secs_f64(expires_at)
            .ok()
            .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since + self.clock_skew));
        let named = claims.get(&self.scope_claim).or_else(|| claims.get("scp"));
        let scopes = texts(named).unwrap_or_default();
        let scopes = scopes
            .iter()
            .flat_map(|text| text.split(' '))
            .filter_map(|name| name.strip_prefix(&self.scope_prefix))
            // Scopes of others stand in the same claim.
            .filter_map(|name| name.parse::<Scope>().ok());
        Ok(Identity {
            consumer_id,
            scopes: self.default_scopes.granting(scopes),
            expires_at,
        })
    }
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= CONSUMER_CHARACTERS_MAX
}

/// A text, or each of a list of them.
fn texts(claim: Option<&Value>) -> Option<Vec<&str>> {
    match claim? {
        Value::String(text) => Some(vec![text]),
        Value::Array(list) => list.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn refusal(kind: &ErrorKind) -> Refused {
    match kind {
        ErrorKind::ExpiredSignature => Refused::Expired,
        ErrorKind::ImmatureSignature => Refused::NotYetValid,
        ErrorKind::InvalidIssuer => Refused::Issuer,
        ErrorKind::InvalidAudience => Refused::Audience,
        ErrorKind::InvalidSignature => Refused::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Refused::Algorithm,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            Refused::Claim(claim.clone())
        }
        _ => Refused::Malformed,
    }
}
