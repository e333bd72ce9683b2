//! `touchline`: the whole system on one machine, and the command line client of any installation.
//!
//! Deliberately not here: anything that the services do. This crate starts them, talks to them over
//! their public interfaces, and shows what they say.
//!
//! In reading order:
//! - [`args`]: the command line; [`commands`]: one file a command; [`run`](mod@run): from one to
//!   the other, and Ctrl-C;
//! - [`stack`]: the services in one process, as `touchline local` and the tests start them;
//! - [`demo`], [`match_file`], [`items_csv`]: the demo's data, and the files that can be read;
//! - [`replay`], [`fan`], [`mod@warm`]: playing a match into the event table; a fan's WebSocket; filling
//!   the server's cache before a match;
//! - [`page`]: the page that `touchline local` serves;
//! - [`show`], [`output`], [`error`]: how states, sets and errors look to people and machines.

pub mod args;
pub mod commands;
pub mod demo;
pub mod error;
pub mod fan;
pub mod items_csv;
pub mod match_file;
pub mod output;
pub mod page;
pub mod replay;
pub mod run;
pub mod show;
pub mod stack;
pub mod warm;

pub use error::Error;
