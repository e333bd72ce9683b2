//! Touchline's push adapter: from the event table's stream to the fans' WebSocket connections.
//!
//! Invariant: it never imports the server; component sets come over gRPC. AWS types stay inside
//! `connections::api_gateway`.
//!
//! In reading order:
//! - [`config`], [`start`](mod@start): flags, and a process's life;
//! - [`leader`]: the lease, the stream, the checkpoint, and what is pushed when;
//! - [`change_feed`]: what the leader reads, for servers and other adapters to follow;
//! - [`grpc`], `admin`: the gRPC port, and what operators are told there;
//! - [`fanout`], [`messages`]: one change, from its audience to its messages;
//! - [`connections`]: where messages are posted, in this process or at API Gateway;
//! - [`routes`], [`sessions`]: what a fan's messages do, and to what; shared with the Lambdas;
//! - [`lambda`]: the same behind API Gateway;
//! - [`gateway`], [`management`]: the WebSocket front and its `/@connections`;
//! - [`expiry`]: connections elsewhere whose token has expired;
//! - [`metrics`]: what all of these count and measure.

mod admin;
pub mod change_feed;
pub mod config;
pub mod connections;
mod convert;
pub mod expiry;
pub mod fanout;
pub mod gateway;
pub mod grpc;
pub mod lambda;
pub mod leader;
pub mod management;
pub mod messages;
pub mod metrics;
pub mod routes;
pub mod sessions;
pub mod start;

pub use config::{GatewayArgs, PushArgs};
pub use fanout::Round;
pub use start::{Running, RunningGateway, start, start_gateway};
