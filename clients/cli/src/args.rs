//! The command line: its commands, and the flags that several of them share. Holds no defaults of
//! the services; those are theirs.

use clap::{Args, Parser, Subcommand};
use touchline_client::{Caller, CallerArgs, Client};

use crate::{
    Error,
    commands::{
        admin::AdminArgs, completions::CompletionsArgs, event::EventCommand, fan::FanArgs,
        items::ItemsCommand, local::LocalArgs, page::PageArgs, replay::ReplayArgs,
        store::StoreCommandArgs, tables::TablesCommand, warm::WarmArgs, watch::WatchArgs,
    },
};

/// Live-event personalisation: the whole system on this machine, and the client of any installation.
///
/// Without a command it is `local`: everything on this machine, no account needed, replaying the
/// 2022 World Cup final.
#[derive(Debug, Parser)]
#[command(
    name = "touchline",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  touchline                                   the whole system here, data in ./.touchline
  touchline --memory --speed 120              nothing kept, twice as fast as a minute a second
  touchline watch 1 --consumer diego          what one consumer is shown, as it changes
  touchline event put 1 match_event=GOAL --merge
  touchline COMMAND --help                    more of each, with examples"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags of `local`, which needs not be named.
    #[command(flatten)]
    pub local: LocalArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[expect(
    clippy::large_enum_variant,
    reason = "made once, at the start of the process"
)]
pub enum Command {
    /// Run the whole system on this machine (the default)
    Local(LocalArgs),
    /// Write, read and delete events
    #[command(subcommand)]
    Event(EventCommand),
    /// Follow an event and what a consumer is shown
    Watch(WatchArgs),
    /// Be a fan: connect over WebSocket and show what is received
    Fan(FanArgs),
    /// Play a match into an event
    Replay(ReplayArgs),
    /// Fill the server's cache with the rankings of many consumers, before a match
    Warm(WarmArgs),
    /// See what the processes of an installation are doing, and have them drain, reload, log
    Admin(AdminArgs),
    /// Serve the page beside an installation
    Page(PageArgs),
    /// Serve the embedded DynamoDB alone
    Store(StoreCommandArgs),
    /// The item catalog
    #[command(subcommand)]
    Items(ItemsCommand),
    /// The DynamoDB tables
    #[command(subcommand)]
    Tables(TablesCommand),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// The server of a local stack on its default ports.
pub const SERVER: &str = "http://127.0.0.1:50051";
/// The gateway of a local stack on its default ports.
pub const GATEWAY: &str = "ws://127.0.0.1:8081/dev";

/// Which server is asked.
#[derive(Debug, Clone, Args)]
pub struct ServerAddress {
    /// The server's gRPC address
    #[arg(
        long,
        env = "TOUCHLINE_SERVER",
        default_value = SERVER,
        value_name = "URL"
    )]
    pub server: String,
    #[command(flatten)]
    /// What calls present
    pub presented: Presented,
}

impl ServerAddress {
    /// A client of that server; makes no call.
    pub fn client(&self) -> Result<Client, Error> {
        let caller = self.presented.caller()?;
        Client::connect_as(&self.server, caller).map_err(|source| Error::Server {
            server: self.server.clone(),
            source,
        })
    }
}

/// What is presented to who is called.
#[derive(Debug, Clone, Default, Args)]
pub struct Presented {
    /// Bearer token to present; better given by the environment or a file, since others see the command
    /// line
    #[arg(
        long,
        env = "TOUCHLINE_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file",
        value_name = "TOKEN"
    )]
    pub token: Option<String>,
    #[command(flatten)]
    /// Files
    pub files: CallerArgs,
}

impl Presented {
    /// Reads the files.
    pub fn caller(&self) -> Result<Caller, Error> {
        let caller = Caller::open(&self.files)?;
        Ok(match &self.token {
            Some(token) => caller.with_token(token)?,
            None => caller,
        })
    }
}

/// For whom the output is.
#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// Print JSON, one object a line, for machines
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_flags_of_local_need_no_command() {
        let cli = Cli::try_parse_from(["touchline", "--memory", "--speed", "120"]).unwrap();
        assert!(cli.command.is_none());
        assert!(cli.local.stack.memory);
    }

    #[test]
    fn flags_of_local_before_another_command_are_refused() {
        assert!(Cli::try_parse_from(["touchline", "--memory", "event", "list"]).is_err());
    }
}
