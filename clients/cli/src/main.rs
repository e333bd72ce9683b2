//! The binary `touchline`. Everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use touchline_cli::{args::Cli, run};

fn main() -> ExitCode {
    run::run(Cli::parse())
}
