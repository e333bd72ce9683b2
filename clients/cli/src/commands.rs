//! The commands, one file each: its flags, and what it does with them.

pub mod completions;
pub mod event;
pub mod fan;
pub mod items;
pub mod local;
pub mod replay;
pub mod tables;
pub mod warm;
pub mod watch;
