//! What every process of Touchline does, whatever it is for: it keeps a [`log`], it ends when
//! [`signals`] ask for it, it counts what it does ([`metrics`]) and shows that and its health to whoever
//! operates it ([`observe`]), it tells a collector what led to what ([`traces`]), it asks a service as often as that bears ([`bucket`]), and it waits longer
//! each time before it tries again ([`backoff`]). Knows nothing of events, tables or the contract.

#[cfg(feature = "process")]
pub mod bucket;

#[cfg(feature = "process")]
pub mod log;

#[cfg(feature = "process")]
pub mod signals;

#[cfg(feature = "process")]
pub mod metrics;

#[cfg(feature = "process")]
pub mod observe;

#[cfg(feature = "process")]
pub mod traces;

pub mod backoff;
