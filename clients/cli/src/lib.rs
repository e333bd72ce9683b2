//! `touchline`.

pub mod demo;
pub mod items_csv;
pub mod match_file;
