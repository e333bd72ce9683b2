//! The store over the real DynamoDB wire protocol, each test on tables of its own: those of an
//! embedded DynamoDB, or of the one that `TOUCHLINE_TEST_DYNAMODB` names.
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
