//! `touchline watch`: an event as it changes, through the server. Ends when the event ends.

use clap::Args;
use futures::TryStreamExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use touchline_client::{
    Watched,
    proto::{ComponentSet, EventState},
};

use crate::{
    Error,
    args::{Format, ServerAddress},
    output,
    show::{self, Slot},
};

/// Flags of `touchline watch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Shows the newest state at once, then each change. When the connection breaks it says so and goes on
with a new one; when the event's row is deleted it ends. With --json each line is an object of type
`state` or `ended`.

Examples:
  touchline watch 1                        the states of event 1
  touchline watch 1 --consumer diego       and what this consumer is shown in them
  touchline watch 1 --states 1             the newest state, and no more
  touchline watch 1 --consumer diego --json | jq '.component_set.components[].item_id'")]
pub struct WatchArgs {
    /// The event
    #[arg(value_name = "EVENT")]
    pub event_id: String,
    /// Also show what this consumer is shown
    #[arg(long, value_name = "CONSUMER")]
    pub consumer: Option<String>,
    /// End after this many states, the one that stands included [default: when the event ends]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub states: Option<u64>,
    #[command(flatten)]
    /// Where
    pub at: ServerAddress,
    #[command(flatten)]
    /// How it looks
    pub format: Format,
}

/// Runs the command.
pub async fn run(args: WatchArgs, shutdown: CancellationToken) -> Result<(), Error> {
    let failed = |source| Error::Server {
        server: args.at.server.clone(),
        source,
    };
    let client = args.at.client()?;
    let mut watch = client.watch(&args.event_id, args.consumer.as_deref());
    let mut shown = Shown::default();
    let mut answered = false;
    let mut left = args.states;
    while left != Some(0) {
        let next = tokio::select! {
            next = watch.try_next() => next.map_err(failed)?,
            () = shutdown.cancelled() => return Ok(()),
        };
        match next {
            // An address that never answered is more likely wrong than broken.
            Some(Watched::Interrupted { error, .. }) if !answered => return Err(failed(error)),
            Some(Watched::Interrupted { error, retry_in }) => output::note(format_args!(
                "interrupted: {error}; trying again in {:.1} s",
                retry_in.as_secs_f64()
            )),
            Some(Watched::State {
                state,
                component_set,
            }) => {
                answered = true;
                let set = component_set.as_ref();
                match args.format.json {
                    true => print_json(&state, set)?,
                    false => shown.show(state, set)?,
                }
                left = left.map(|left| left - 1);
            }
            None => return print_end(&args),
        }
    }
    Ok(())
}

fn print_json(state: &EventState, set: Option<&ComponentSet>) -> Result<(), Error> {
    output::line(json!({
        "type": "state",
        "state": show::state_json(state),
        "component_set": set.map(show::set_json),
    }))
}

/// What a person has on the screen.
#[derive(Debug, Default)]
struct Shown {
    state: Option<EventState>,
    slots: Vec<Slot>,
}

impl Shown {
    /// The whole of the first state, then what changes.
    fn show(&mut self, state: EventState, set: Option<&ComponentSet>) -> Result<(), Error> {
        match &self.state {
            None => show::state_lines(&state)
                .iter()
                .try_for_each(output::line)?,
            Some(before) => output::line(show::change_line(&state, before))?,
        }
        self.state = Some(state);
        let Some(set) = set else {
            return Ok(());
        };
        let slots: Vec<_> = set.components.iter().map(Slot::from).collect();
        if slots == self.slots {
            return Ok(());
        }
        let provenance =
            show::provenance(show::origin(set.origin()), show::freshness(set.freshness()));
        output::line(format_args!("    {provenance}"))?;
        show::slot_lines(&slots, &self.slots)
            .iter()
            .try_for_each(output::line)?;
        self.slots = slots;
        Ok(())
    }
}

fn print_end(args: &WatchArgs) -> Result<(), Error> {
    match args.format.json {
        true => output::line(json!({ "type": "ended", "event_id": args.event_id })),
        false => output::line(format_args!(
            "{} has ended: its row was deleted",
            show::printable(&args.event_id)
        )),
    }
}
