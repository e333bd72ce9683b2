//! The gRPC recommendation service: decides which components a consumer is shown.
//!
//! Deliberately not here: pushing. Whoever wants to be told of changes asks [`watch`] through
//! `WatchEvent`, or runs the push adapter, which talks to this crate over gRPC only.
//!
//! In reading order:
//! - [`config`], [`startup`]: what can be set, and a server's life from binding to draining;
//! - [`components`]: moderation, pure: from a ranking to a component set;
//! - [`catalog`]: the item table, cached whole;
//! - [`recommend`]: the recommender port, its two implementations and the path that serves from it;
//! - [`policies`], [`users`], [`impressions`], [`moderation`]: what moderation goes by, beside the ranking;
//! - [`sets`]: all of these together: which components does a consumer see;
//! - [`users`]: what is known of each consumer;
//! - [`watch`]: one change feed, many readers of event states;
//! - `service`: tonic, translating between `touchline.v1` and the above;
//! - `layers`, `listener`, `status`: around every call: admission and deadlines, connections, and
//!   how errors look to a caller;
//! - [`counters`], [`metrics`]: what all of these count and measure.

mod admin;
pub mod catalog;
pub mod components;
pub mod config;
pub mod counters;
mod error;
pub mod impressions;
mod layers;
mod listener;
pub mod metrics;
pub mod moderation;
pub mod policies;
pub mod recommend;
mod service;
pub mod sets;
pub mod startup;
mod status;
pub mod users;
pub mod watch;

pub use config::ServerArgs;
pub use error::{Error, Violation};
pub use startup::{Running, start};
