//! How long to wait before trying again: the same everywhere in Touchline.

pub use touchline_runtime::backoff::Backoff;
