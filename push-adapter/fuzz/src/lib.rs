//! What the fuzz targets share. `cargo fuzz run TARGET` in the folder above runs one;
//! `tests/real/fuzz/run` runs each for a bounded time, from the messages of the tests.
//!
//! - [`wire`]: the gateway's WebSocket layer, as the targets reach it;
//! - [`script`]: bytes as a fan's frames, so that what is mutated is what the frames say;
//! - [`reference`]: RFC 6455 once more, in the plainest words, to compare with;
//! - [`fields`]: bytes as the texts of a component set.

pub mod fields;
pub mod reference;
pub mod script;
pub mod wire;
