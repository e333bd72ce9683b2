//! `touchline fan`: a fan's phone in a terminal, over a real WebSocket. Shows only what the gateway
//! sends.

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    args::{Format, GATEWAY, Presented},
    demo,
    fan::{Fan, Heard, Protocol, listen},
    output::{self, STRONG, styled},
    show::{self, Slot},
};

/// Flags of `touchline fan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Connects, registers, and shows what is received until Ctrl-C. A connection that is lost is made
again, saying which set is shown already. With --json each message is printed as it came. What
becomes of the connection is said on standard error.

Examples:
  touchline fan diego
  touchline fan camille --protocol 1          the messages of the prototype
  touchline fan diego --content-id tv --gateway wss://ID.execute-api.REGION.amazonaws.com/dev")]
pub struct FanArgs {
    /// The consumer to be
    #[arg(value_name = "CONSUMER")]
    pub consumer: String,
    /// The device to register with
    #[arg(long, default_value = "terminal", value_name = "DEVICE")]
    pub device: String,
    /// The content to watch
    #[arg(long, default_value = demo::CONTENT_ID, value_name = "CONTENT")]
    pub content_id: String,
    /// The messages to ask for
    #[arg(long, value_enum, default_value = "2", value_name = "VERSION")]
    pub protocol: Protocol,
    /// The WebSocket address of the gateway or of API Gateway, stage included
    #[arg(
        long,
        env = "TOUCHLINE_GATEWAY",
        default_value = GATEWAY,
        value_name = "URL"
    )]
    pub gateway: String,
    #[command(flatten)]
    /// What is presented
    pub presented: Presented,
    #[command(flatten)]
    /// How it looks
    pub format: Format,
}

/// Runs the command.
pub async fn run(args: FanArgs, shutdown: CancellationToken) -> Result<(), Error> {
    let connected = format!("{} is connected to {}", args.consumer, args.gateway);
    let fan = Fan {
        caller: args.presented.caller()?,
        consumer_id: args.consumer,
        device_id: args.device,
        content_id: args.content_id,
        protocol: args.protocol,
    };
    let mut screen = Screen::default();
    let mut messages = listen(args.gateway, fan).boxed();
    loop {
        let heard = tokio::select! {
            heard = messages.try_next() => heard?,
            () = shutdown.cancelled() => return Ok(()),
        };
        match heard {
            Some(Heard::Message(text)) if args.format.json => output::line(text)?,
            Some(Heard::Message(text)) => screen.show(&text)?,
            Some(Heard::Connected) => output::note(&connected),
            Some(Heard::Interrupted { reason, retry_in }) => output::note(format_args!(
                "interrupted: {reason}; trying again in {:.1} s",
                retry_in.as_secs_f64()
            )),
            None => return Ok(()),
        }
    }
}

/// What the fan sees.
#[derive(Debug, Default)]
struct Screen {
    slots: Vec<Slot>,
}

impl Screen {
    fn show(&mut self, text: &str) -> Result<(), Error> {
        let Ok(Value::Object(message)) = serde_json::from_str::<Value>(text) else {
            return output::line(show::printable(text));
        };
        let of = |name: &str| {
            message
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        match (of("type"), of("status")) {
            ("components", _) => {
                let head = styled(
                    STRONG,
                    format_args!("event {}", show::printable(of("event_id"))),
                );
                let provenance = show::provenance(
                    &show::printable(of("origin")),
                    &show::printable(of("freshness")),
                );
                let components = message.get("components").and_then(Value::as_array);
                let slots = components.into_iter().flatten().map(slot).collect();
                self.replace(&format!("{head}  {provenance}"), slots)
            }
            ("ended", _) => output::line(format_args!(
                "event {} has ended",
                show::printable(of("event_id"))
            )),
            ("error", _) => Err(Error::Refused(show::printable(of("message")))),
            (_, "success") if message.len() == 1 => output::line("registered"),
            _ if message.contains_key("connectionId") => {
                Err(Error::Refused(show::printable(of("message"))))
            }
            _ => {
                let item = |(item_type, item_id): (&String, &Value)| Slot {
                    item_type: item_type.clone(),
                    item_id: item_id.as_str().unwrap_or_default().to_owned(),
                    label: String::new(),
                    score: None,
                };
                let slots = message.iter().map(item).collect();
                self.replace(&styled(STRONG, "shown now"), slots)
            }
        }
    }

    fn replace(&mut self, head: &str, slots: Vec<Slot>) -> Result<(), Error> {
        if slots == self.slots && !slots.is_empty() {
            return output::line(format_args!("{head}  nothing moves"));
        }
        output::line(head)?;
        show::slot_lines(&slots, &self.slots)
            .iter()
            .try_for_each(output::line)?;
        self.slots = slots;
        Ok(())
    }
}

fn slot(component: &Value) -> Slot {
    let of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Slot {
        item_type: of(&component["item_type"]),
        item_id: of(&component["item_id"]),
        label: of(&component["attributes"]["item_label"]),
        score: component["score"]
            .as_f64()
            .filter(|score| *score > 0.0)
            .map(|score| format!("{score:.3}")),
    }
}
