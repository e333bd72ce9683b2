//! Who calls: what a caller presents, and what is made of it where it arrives. Decides who somebody is
//! and what they may do in general; whether a message concerns somebody else is for whoever reads it.
//!
//! Invariant: no token and no claim reaches a log or an error's text.
//!
//! In reading order:
//! - [`scopes`], [`identity`]: what a caller may do, and who they are;
//! - [`args`]: what can be set;
//! - [`token`]: a token verified, by [`jwks`], the issuer's keys, cached and rotated;
//! - [`offer`]: where a WebSocket handshake carries a token;
//! - [`grpc`]: the layer before every call;
//! - [`tls`]: connections accepted with TLS, from files that may change;
//! - [`caller`]: the other side: tokens and certificates for calls to others;
//! - `issue`: tokens for tests.

#[cfg(feature = "verify")]
pub mod args;
pub mod caller;
#[cfg(feature = "verify")]
mod crypto;
mod files;
#[cfg(feature = "verify")]
pub mod grpc;
#[cfg(feature = "verify")]
pub mod identity;
#[cfg(feature = "issue")]
pub mod issue;
#[cfg(feature = "verify")]
pub mod jwks;
#[cfg(feature = "verify")]
mod keys;
#[cfg(feature = "verify")]
pub mod offer;
#[cfg(feature = "verify")]
pub mod scopes;
#[cfg(feature = "verify")]
pub mod tls;
#[cfg(feature = "verify")]
pub mod token;

#[cfg(feature = "verify")]
pub use args::AuthArgs;
pub use caller::CallerArgs;
#[cfg(feature = "verify")]
pub use identity::Identity;
#[cfg(feature = "verify")]
pub use scopes::{Scope, Scopes};
#[cfg(feature = "verify")]
pub use token::{Refused, Verifier};

/// A flag that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {value}: {accepted}")]
pub struct InvalidFlag {
    /// The flag.
    pub flag: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it, or what would be accepted.
    pub accepted: String,
}

impl InvalidFlag {
    fn new(flag: &'static str, value: impl std::fmt::Display, accepted: impl Into<String>) -> Self {
        Self {
            flag,
            value: value.to_string(),
            accepted: accepted.into(),
        }
    }
}
