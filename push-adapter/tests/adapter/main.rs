//! The push adapter over real sockets: an embedded DynamoDB behind its wire protocol, a stub of the
//! server that answers by consumer, and WebSocket clients.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod api_gateway;
mod fan_out;
mod gateway;
mod leader;
mod management;
mod process;
mod replicas;
mod routes;
mod support;
