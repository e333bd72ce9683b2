//! Fans of both protocols in one process, each with an account of what it was shown. Prints what the
//! benchmark needs of it, one JSON object a line, and ends with an error when an account is violated.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::{SinkExt, StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::mpsc, task::JoinSet};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message as Frame,
};
use touchline_tests::fan::registration;

use super::{
    account::{Account, News, Shown},
    spelling,
};
use crate::load::unix_ns;

/// Handshakes under way at one moment.
const CONNECTING_MAX: usize = 32;

/// Receipts that wait to be counted.
const RECEIPTS_MAX: usize = 4_096;

/// How many fans connect where.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// URL of the fans' WebSocket.
    #[arg(long)]
    gateway: String,
    /// How many fans to connect; every other one speaks protocol 2.
    #[arg(long)]
    fans: usize,
}

/// What the fans' process says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Said {
    /// Every fan is registered.
    Registered,
    /// A fan received a state that is newer than any before.
    First(Moment),
    /// The last fan received this state or a newer one.
    All(Moment),
    /// A fan received a state that it was shown already.
    Again(Repeat),
}

/// When fans came to a state.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Moment {
    /// The state's number.
    pub(super) number: u32,
    /// In nanoseconds since 1970.
    pub(super) unix_ns: u64,
    /// How many sets all fans together have received so far.
    pub(super) pushes: u64,
}

/// A state that came twice.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Repeat {
    /// Which fan.
    pub(super) fan: usize,
    /// The state's number.
    pub(super) number: u32,
    /// When it came before, in nanoseconds since 1970.
    pub(super) last_unix_ns: u64,
    /// When it came again.
    pub(super) unix_ns: u64,
}

/// What a fan tells the one who counts.
#[derive(Debug, Clone, Copy)]
enum Receipt {
    Registered,
    Set {
        fan: usize,
        number: u32,
        unix_ns: u64,
        news: News,
    },
}

/// A message of either protocol. Protocol 1 says nothing but items by type.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: Option<String>,
    status: Option<String>,
    #[serde(default)]
    version: String,
    #[serde(default)]
    set_id: String,
    epoch: Option<String>,
    sequence: Option<String>,
    #[serde(default)]
    components: Vec<Component>,
    #[serde(flatten)]
    items: HashMap<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Component {
    item_type: String,
    item_id: String,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects the fans and prints what they come to, until standard input ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let (receipts, mut received) = mpsc::channel(RECEIPTS_MAX);
    let mut fans = JoinSet::new();
    let mut connecting = stream::iter(1..=args.fans)
        .map(|fan| connect(&args.gateway, fan))
        .buffer_unordered(CONNECTING_MAX);
    while let Some((fan, socket)) = connecting.try_next().await? {
        fans.spawn(read(fan, socket, receipts.clone()));
    }
    let mut count = Count::new(args.fans);
    let mut stdin = tokio::io::stdin();
    let mut nothing = [0];
    loop {
        let receipt = tokio::select! {
            receipt = received.recv() => receipt.context("no fan is left")?,
            Some(ended) = fans.join_next() => return ended?,
            _ = stdin.read(&mut nothing) => return Ok(()),
        };
        for said in count.take(receipt) {
            println!("{}", serde_json::to_string(&said)?);
        }
    }
}

async fn connect(gateway: &str, fan: usize) -> Result<(usize, Socket)> {
    let connecting = connect_async(gateway).await;
    let (mut socket, _) = connecting.with_context(|| format!("fan {fan} cannot connect"))?;
    let mut message = registration(&format!("fan-{fan:03}"), "final");
    if is_protocol_2(fan) {
        message["protocol"] = 2.into();
    }
    socket.send(Frame::text(message.to_string())).await?;
    Ok((fan, socket))
}

fn is_protocol_2(fan: usize) -> bool {
    fan.is_multiple_of(2)
}

/// Keeps a fan's account; ends with an error when it is violated or the connection ends.
async fn read(fan: usize, mut socket: Socket, receipts: mpsc::Sender<Receipt>) -> Result<()> {
    let mut account = Account::default();
    while let Some(frame) = socket.next().await {
        let Frame::Text(text) = frame? else {
            continue;
        };
        let receipt = match shown(&text, unix_ns(SystemTime::now()))? {
            None => Receipt::Registered,
            Some(shown) => {
                let is_right = shown.names.is_some() == is_protocol_2(fan);
                ensure!(is_right, "fan {fan} was sent the other protocol: {text}");
                let (number, unix_ns) = (shown.number, shown.unix_ns);
                let taken = account.take(shown);
                let news = taken.map_err(|violation| anyhow!("fan {fan}: {violation}"))?;
                Receipt::Set {
                    fan,
                    number,
                    unix_ns,
                    news,
                }
            }
        };
        receipts.send(receipt).await?;
    }
    bail!("fan {fan}: its connection was closed")
}

/// What a message shows; `None` for protocol 1's answer to a registration.
fn shown(text: &str, unix_ns: u64) -> Result<Option<Shown>> {
    let message: Message = serde_json::from_str(text)?;
    if message.status.is_some() {
        return Ok(None);
    }
    let is_protocol_2 = message.kind.as_deref() == Some("components");
    let number = if is_protocol_2 {
        let components = message.components.iter();
        // As protocol 1 has it: the first item of each type.
        let mut items: HashMap<&str, &str> = HashMap::new();
        for Component { item_type, item_id } in components {
            items.entry(item_type).or_insert(item_id);
        }
        spelling::number(|item_type| items.get(item_type).copied())
    } else {
        spelling::number(|item_type| message.items.get(item_type)?.as_str())
    };
    Ok(Some(Shown {
        number: number.with_context(|| format!("not a set that spells a state: {text}"))?,
        position: message.epoch.zip(message.sequence),
        names: is_protocol_2.then_some((message.version, message.set_id)),
        text: text.to_owned(),
        unix_ns,
    }))
}

/// How far all fans together have come.
struct Count {
    fans: usize,
    registered: usize,
    /// The newest state of each fan that has one.
    newest: HashMap<usize, u32>,
    /// How many fans show which state.
    showing: BTreeMap<u32, usize>,
    first: Option<u32>,
    all: Option<u32>,
    pushes: u64,
}

impl Count {
    fn new(fans: usize) -> Self {
        Self {
            fans,
            registered: 0,
            newest: HashMap::new(),
            showing: BTreeMap::new(),
            first: None,
            all: None,
            pushes: 0,
        }
    }

    /// Takes what a fan tells, and gives what is news of all.
    fn take(&mut self, receipt: Receipt) -> Vec<Said> {
        let mut said = Vec::new();
        let Receipt::Set {
            fan,
            number,
            unix_ns,
            news,
        } = receipt
        else {
            self.register(&mut said);
            return said;
        };
        self.pushes += 1;
        let moment = |number| Moment {
            number,
            unix_ns,
            pushes: self.pushes,
        };
        if self.first.is_none_or(|first| number > first) {
            self.first = Some(number);
            said.push(Said::First(moment(number)));
        }
        if let News::Again { last_unix_ns } = news {
            said.push(Said::Again(Repeat {
                fan,
                number,
                last_unix_ns,
                unix_ns,
            }));
        }
        let last = self.newest.insert(fan, number);
        *self.showing.entry(number).or_default() += 1;
        if let Some(last) = last
            && let Some(showing) = self.showing.get_mut(&last)
        {
            *showing -= 1;
            if *showing == 0 {
                self.showing.remove(&last);
            }
        }
        let oldest = self.showing.keys().next().copied();
        if self.newest.len() == self.fans && oldest > self.all {
            self.all = oldest;
            said.extend(oldest.map(|oldest| Said::All(moment(oldest))));
        }
        // A fan of protocol 2 is answered with a set.
        if last.is_none() && is_protocol_2(fan) {
            self.register(&mut said);
        }
        said
    }

    fn register(&mut self, said: &mut Vec<Said>) {
        self.registered += 1;
        if self.registered == self.fans {
            said.push(Said::Registered);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_spell_the_number_of_their_state() -> Result<()> {
        let protocol_1 = r#"{"ONES":"ONES-4","TENS":"TENS-3","HUNDREDS":"HUNDREDS-0","THOUSANDS":"THOUSANDS-1"}"#;
        let one = shown(protocol_1, 9)?.context("a set")?;
        assert_eq!((one.number, one.unix_ns), (1_034, 9));
        assert_eq!((&one.names, &one.position), (&None, &None));
        let components = ["ONES-4", "TENS-3", "HUNDREDS-0", "THOUSANDS-1", "ONES-9"].map(|item| {
            let (item_type, _) = item.split_once('-').unwrap_or_default();
            format!(r#"{{"item_type":"{item_type}","item_id":"{item}"}}"#)
        });
        let protocol_2 = format!(
            r#"{{"type":"components","version":"v","set_id":"s","epoch":"e","sequence":"7",
                "components":[{}]}}"#,
            components.join(",")
        );
        let two = shown(&protocol_2, 9)?.context("a set")?;
        assert_eq!(two.number, 1_034);
        assert_eq!(two.names, Some(("v".to_owned(), "s".to_owned())));
        assert_eq!(two.position, Some(("e".to_owned(), "7".to_owned())));
        assert!(shown(r#"{"status": "success"}"#, 9)?.is_none());
        assert!(shown(r#"{"type":"error","code":"unavailable"}"#, 9).is_err());
        Ok(())
    }

    #[test]
    fn all_have_what_the_last_of_them_has() {
        let mut count = Count::new(2);
        let mut take = |fan, number| {
            let said = count.take(Receipt::Set {
                fan,
                number,
                unix_ns: 0,
                news: News::Newer,
            });
            let said = said.iter().filter_map(|said| match said {
                Said::First(moment) => Some(("first", moment.number)),
                Said::All(moment) => Some(("all", moment.number)),
                Said::Registered | Said::Again(_) => None,
            });
            said.collect::<Vec<_>>()
        };
        assert_eq!(take(1, 5), [("first", 5)]);
        assert_eq!(take(1, 7), [("first", 7)]);
        assert_eq!(take(2, 6), [("all", 6)]);
        assert_eq!(take(2, 8), [("first", 8), ("all", 7)]);
        assert_eq!(take(2, 8), []);
        assert_eq!(take(1, 8), [("all", 8)]);
    }

    #[test]
    fn fans_are_registered_when_each_is_answered() {
        let mut count = Count::new(2);
        assert!(count.take(Receipt::Registered).is_empty());
        let set = Receipt::Set {
            fan: 2,
            number: 0,
            unix_ns: 0,
            news: News::Newer,
        };
        let said = count.take(set);
        assert!(matches!(said[..], [Said::First(_), Said::Registered]));
    }
}
