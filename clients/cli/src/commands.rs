//! The commands, one file each: its flags, and what it does with them.

use std::net::SocketAddr;

use crate::Error;

pub mod admin;
pub mod completions;
pub mod event;
pub mod fan;
pub mod items;
pub mod local;
pub mod page;
pub mod replay;
pub mod store;
pub mod tables;
pub mod warm;
pub mod watch;

/// Whether a service without authentication may listen there.
fn check_listen(listen: SocketAddr, insecure: bool) -> Result<(), Error> {
    if listen.ip().is_loopback() || insecure {
        return Ok(());
    }
    Err(Error::Value {
        flag: "--listen",
        value: listen.to_string(),
        accepted: "this listens beyond this machine and knows no callers; a loopback address is \
                   accepted, or any with --insecure",
    })
}
