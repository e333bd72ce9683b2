//! The binary as its users meet it: real processes, real ports, real signals.

#![expect(clippy::unwrap_used, reason = "what surprises a test ends it")]

mod apart;
mod local;
mod page;
mod support;
mod usage;
