//! What every process of Touchline does, whatever it is for: it keeps a [`log`], it ends when
//! [`signals`] ask for it, and it waits longer each time before it tries again ([`backoff`]). Knows
//! nothing of events, tables or the contract.

#[cfg(feature = "process")]
pub mod log;

#[cfg(feature = "process")]
pub mod signals;

pub mod backoff;
