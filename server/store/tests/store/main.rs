//! The store over the real DynamoDB wire protocol, each test on an embedded DynamoDB of its own.

mod common;
mod events;
mod items;
mod lease;
mod sessions;
mod stream;
mod tables;
