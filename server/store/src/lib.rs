//! What Touchline knows and where it is kept: domain types, the DynamoDB tables, the change stream.
//!
//! Invariant: only this crate knows table and attribute names, and no AWS type leaves it except
//! through [`aws`], which the mains use to build clients.
//!
//! In reading order:
//! - [`ids`], [`event`], [`item`], [`session`], [`position`]: the domain, plain values;
//! - [`change`], [`lineage`]: deciding over them, pure;
//! - [`feed`]: the newest state of each event, for whoever follows;
//! - `row`: the attributes' names, and rows to domain and back, pure;
//! - [`aws`], [`tables`], [`events`], [`items`], [`sessions`], [`lease`], [`stream`]: doing, on
//!   DynamoDB;
//! - `parameters`, by the feature `ssm`: the prototype's parameters in Systems Manager;
//! - [`embedded`]: a DynamoDB in this process, for a laptop and for tests.

pub mod aws;
pub mod change;
pub mod embedded;
mod error;
pub mod event;
pub mod events;
pub mod feed;
pub mod ids;
pub mod item;
pub mod items;
pub mod lease;
pub mod lineage;
#[cfg(feature = "ssm")]
pub mod parameters;
pub mod position;
mod row;
pub mod session;
pub mod sessions;
pub mod stream;
pub mod tables;

pub use error::{Error, Result};
