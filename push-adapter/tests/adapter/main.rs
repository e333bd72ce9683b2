//! The push adapter over real sockets: an embedded DynamoDB behind its wire protocol, a stub of the
//! server that answers by consumer, and WebSocket clients.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod api_gateway;
mod api_gateway_faults;
mod auth;
mod conformance;
mod fan_out;
mod gateway;
mod gateway_figure;
mod gateway_hostile;
mod gateway_role;
mod gateway_tls;
mod lambda;
mod late_joiners;
mod leader;
mod management;
mod metrics;
#[cfg(feature = "ssm")]
mod parameters;
mod process;
mod replicas;
mod stream_faults;
mod support;
mod takeover;
