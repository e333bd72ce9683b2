//! The server over real sockets, on an in-memory DynamoDB. What crosses to the push adapter or to a
//! fan is tested in `touchline-tests`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where, and clippy takes helpers for no tests"
)]

mod auth;
mod batch;
mod components;
mod events;
mod explain;
mod feedback;
mod follow_up;
mod harness;
mod limits;
mod metrics;
mod operators;
#[cfg(feature = "ssm")]
mod parameters;
mod policies;
mod process;
mod refinement;
mod standin;
mod watch;
