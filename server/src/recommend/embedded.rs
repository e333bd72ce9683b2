//! The embedded contextual ranker: to be written.
