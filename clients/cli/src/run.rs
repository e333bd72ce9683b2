//! From the command line to an exit code: 0 it worked, 1 it failed, 2 the command line is wrong
//! (clap's), 130 interrupted before there was an answer. Decides nothing else.

use std::{future::ready, process::ExitCode};

use futures::{FutureExt, future::BoxFuture};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use touchline_runtime::signals;

use crate::{
    Error,
    args::{Cli, Command},
    commands::{
        admin, completions, event, fan, items, local, page, replay, store, tables, warm, watch,
    },
    output,
};

/// Runs a command to its end.
pub fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(format_args!("touchline: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(interruptible(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = exit_code(&error);
            if code != 0 {
                output::note(format_args!("touchline: {error}"));
            }
            ExitCode::from(code)
        }
    }
}

fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Interrupted => signals::INTERRUPTED,
        error if error.is_broken_pipe() => 0,
        _ => 1,
    }
}

/// Runs the command on a task of its own, so that a second Ctrl-C ends a busy one too.
async fn interruptible(cli: Cli) -> Result<(), Error> {
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(command(cli, shutdown.clone()));
    let ended = signals::obeying(&shutdown, tasks.join_next()).await;
    let ended = ended.map_err(|source| Error::Part {
        what: "signals cannot be listened for",
        source: source.into(),
    })?;
    match ended {
        Some(Ok(result)) => result,
        Some(Err(panic)) => Err(Error::Part {
            what: "a bug in touchline",
            source: panic.into(),
        }),
        None => Ok(()),
    }
}

/// The command's work. Boxed, since a command holds whole clients of AWS.
fn command(cli: Cli, shutdown: CancellationToken) -> BoxFuture<'static, Result<(), Error>> {
    match cli.command.unwrap_or(Command::Local(cli.local)) {
        // These end in order by themselves.
        Command::Local(args) => local::run(args, shutdown).boxed(),
        Command::Watch(args) => watch::run(args, shutdown).boxed(),
        Command::Fan(args) => fan::run(args, shutdown).boxed(),
        Command::Replay(args) => replay::run(args, shutdown).boxed(),
        Command::Admin(args) => admin::run(args, shutdown).boxed(),
        Command::Page(args) => page::run(args, shutdown).boxed(),
        Command::Store(args) => store::run(args, shutdown).boxed(),
        Command::Warm(args) => warm::run(args, shutdown).boxed(),
        // These can be left anywhere: each of their writes stands for itself.
        Command::Event(command) => until(shutdown, event::run(command).boxed()).boxed(),
        Command::Items(command) => until(shutdown, items::run(command).boxed()).boxed(),
        Command::Tables(command) => until(shutdown, tables::run(command).boxed()).boxed(),
        Command::Completions(args) => ready(completions::run(&args)).boxed(),
    }
}

async fn until(
    shutdown: CancellationToken,
    command: BoxFuture<'static, Result<(), Error>>,
) -> Result<(), Error> {
    tokio::select! {
        result = command => result,
        () = shutdown.cancelled() => Err(Error::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_that_lost_a_part_ends_with_1() {
        let part = "the server";
        assert_eq!(exit_code(&Error::PartEnded { part, ending: None }), 1);
    }
}
