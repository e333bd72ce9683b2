//! `touchline event`: the rows of the event table, through the server. Checks nothing that the
//! server checks.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use futures::TryStreamExt;
use serde_json::json;
use touchline_client::proto::EventState;

use crate::{
    Error,
    args::{Format, ServerAddress},
    output, show,
};

/// Write, read and delete events.
#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// Write an event's row: replace it, or with --merge change it
    Put(PutArgs),
    /// Show an event's newest state
    Get(OneArgs),
    /// List all events
    List(ListArgs),
    /// Delete an event's row, and so end the event
    Delete(OneArgs),
}

/// Flags of `touchline event put`.
#[derive(Debug, Args)]
#[command(after_help = "\
The attributes that decide are, by default, match_event, match_timing, score_difference, match_type
and match_venue. Those whose name starts with display_ are carried along and decide nothing.

Examples:
  touchline event put 1 match_event=GOAL match_timing=FIRST-HALF-1 score_difference=1
  touchline event put 1 match_event=PENALTY --merge        the other attributes stay
  touchline event put 1 match_event=GOAL --content-id tv   only for sessions that watch `tv`")]
pub struct PutArgs {
    /// The event
    #[arg(value_name = "EVENT")]
    pub event_id: String,
    /// Attributes
    #[arg(value_name = "NAME=VALUE", value_parser = attribute)]
    pub attributes: Vec<(String, String)>,
    /// Reach only sessions that watch this content; can be given several times [default: everybody]
    #[arg(long = "content-id", value_name = "CONTENT")]
    pub content_ids: Vec<String>,
    /// Keep the attributes that are not given
    #[arg(long)]
    pub merge: bool,
    #[command(flatten)]
    /// Where
    pub at: ServerAddress,
    #[command(flatten)]
    /// How it looks
    pub format: Format,
}

/// Flags of the commands that name one event.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  touchline event get 1 --json
  touchline event delete 1 --server http://10.0.0.7:50051")]
pub struct OneArgs {
    /// The event
    #[arg(value_name = "EVENT")]
    pub event_id: String,
    #[command(flatten)]
    /// Where
    pub at: ServerAddress,
    #[command(flatten)]
    /// How it looks
    pub format: Format,
}

/// Flags of `touchline event list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  touchline event list
  touchline event list --json | jq -r .event_id")]
pub struct ListArgs {
    #[command(flatten)]
    /// Where
    pub at: ServerAddress,
    #[command(flatten)]
    /// How it looks
    pub format: Format,
}

/// Runs the command.
pub async fn run(command: EventCommand) -> Result<(), Error> {
    let at = match &command {
        EventCommand::Put(args) => &args.at,
        EventCommand::Get(args) | EventCommand::Delete(args) => &args.at,
        EventCommand::List(args) => &args.at,
    };
    let (server, client) = (at.server.clone(), at.client()?);
    let failed = |source| Error::Server {
        server: server.clone(),
        source,
    };
    match command {
        EventCommand::Put(args) => {
            let event = EventState {
                event_id: args.event_id,
                attributes: args.attributes.into_iter().collect::<BTreeMap<_, _>>(),
                content_ids: args.content_ids,
                ..Default::default()
            };
            let state = client.put_event(event, args.merge).await.map_err(failed)?;
            print(&state, args.format)
        }
        EventCommand::Get(args) => {
            let state = client.get_event(&args.event_id).await.map_err(failed)?;
            print(&state, args.format)
        }
        EventCommand::Delete(args) => {
            client.delete_event(&args.event_id).await.map_err(failed)?;
            match args.format.json {
                true => output::line(json!({ "deleted": args.event_id })),
                false => output::line(format_args!(
                    "{} deleted: the event has ended",
                    show::printable(&args.event_id)
                )),
            }
        }
        EventCommand::List(args) => {
            let mut states = client.list_events();
            let mut listed = 0_usize;
            while let Some(state) = states.try_next().await.map_err(failed)? {
                listed += 1;
                match args.format.json {
                    true => output::line(show::state_json(&state))?,
                    false => output::line(show::state_line(&state))?,
                }
            }
            if listed == 0 && !args.format.json {
                output::note("there are no events; `touchline event put` writes one");
            }
            Ok(())
        }
    }
}

fn print(state: &EventState, format: Format) -> Result<(), Error> {
    if format.json {
        return output::line(show::state_json(state));
    }
    show::state_lines(state).iter().try_for_each(output::line)
}

fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("an attribute is given as NAME=VALUE, such as match_event=GOAL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_split_at_its_first_equals_sign() {
        assert_eq!(attribute("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(attribute("a="), Ok(("a".to_owned(), String::new())));
        assert!(attribute("=b").is_err());
        assert!(attribute("GOAL").is_err());
    }
}
