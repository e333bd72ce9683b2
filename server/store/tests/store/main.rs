//! The store over the real DynamoDB wire protocol, each test on an embedded DynamoDB of its own.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what it expects by unwrapping"
)]

mod common;
mod embedded;
mod events;
mod items;
mod lease;
mod sessions;
mod shards;
mod stream;
mod tables;
