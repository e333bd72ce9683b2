//! Many WatchEvent streams on one server, and changes that all of them have to be told of. Knows
//! nothing of how a server learns of a change.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use prost::{Message, bytes::Bytes};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::{Request, Streaming, client::Grpc, transport::Channel};
use touchline_client::proto;

use super::{
    Args,
    bare::Bare,
    calls::client,
    raw::{Raw, WATCH_EVENT, path},
    script::{Script, watched},
    state_number,
    touchline::{EVENT, MATCH_EVENTS, Touchline},
};
use crate::{system::DEADLINE, tally::Slice};

/// Messages that wait to be looked at.
const MESSAGES_MAX: usize = 4_096;

/// Where changes are made, and whose processor time counts.
pub(super) trait Changed {
    /// Lets the match have this state.
    async fn change(&mut self, number: usize) -> Result<()>;

    /// Processor time that the server process has used so far.
    fn cpu(&self) -> Result<Duration>;
}

impl Changed for &Touchline {
    async fn change(&mut self, number: usize) -> Result<()> {
        Touchline::change(self, number).await
    }

    fn cpu(&self) -> Result<Duration> {
        self.server.cpu()
    }
}

impl Changed for Bare {
    async fn change(&mut self, number: usize) -> Result<()> {
        Self::change(self, number).await
    }

    fn cpu(&self) -> Result<Duration> {
        Self::cpu(self)
    }
}

/// A message of a stream.
struct Arrival {
    stream: usize,
    message: Bytes,
    at: Instant,
}

/// The streams of one server.
pub(super) struct Streams {
    count: usize,
    arrivals: mpsc::Receiver<Arrival>,
    /// The state that all were told of last.
    state: usize,
    _reading: JoinSet<()>,
}

/// What all streams were told of one change.
struct Told {
    /// By stream.
    messages: Vec<Bytes>,
    first_to_last: Duration,
}

impl Streams {
    /// Opens a stream for each consumer, and waits until all have a first message: the state with the
    /// number 0.
    pub(super) async fn open(url: &str, args: &Args, script: &Script) -> Result<Self> {
        let (sender, arrivals) = mpsc::channel(MESSAGES_MAX);
        let clients: Result<Vec<_>> = (0..args.connections).map(|_| client(url)).collect();
        let clients = clients?;
        let mut reading = JoinSet::new();
        let watchers = script.consumers.iter().take(args.streams).enumerate();
        for (stream, recorded) in watchers {
            let mut client = clients[stream % clients.len()].clone();
            let messages = watch(&mut client, &recorded.consumer_id).await?;
            reading.spawn(read(stream, messages, sender.clone()));
        }
        let mut streams = Self {
            count: args.streams,
            arrivals,
            state: 0,
            _reading: reading,
        };
        streams.told().await?;
        Ok(streams)
    }

    /// Changes the match at the pace that is wanted; fails at the first message that is not the one
    /// recorded.
    pub(super) async fn slice(
        &mut self,
        args: &Args,
        script: &Script,
        server: &mut impl Changed,
    ) -> Result<Slice> {
        let mut tick = interval(Duration::from_millis(args.interval_ms));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Vec::new();
        let (cpu, start) = (server.cpu()?, Instant::now());
        for _ in 0..args.changes {
            tick.tick().await;
            told.push((self.change(server).await?, self.state));
        }
        let (cpu, wall) = (server.cpu()?.saturating_sub(cpu), start.elapsed());
        for (told, state) in &told {
            check(told, *state, script)?;
        }
        let latencies: Vec<_> = told.iter().map(|(told, _)| told.first_to_last).collect();
        Ok(Slice {
            answers: told
                .iter()
                .map(|(told, _)| told.messages.len() as u64)
                .sum(),
            cpu,
            wall,
            latencies,
        })
    }

    /// Brings about the next state and waits until all streams have it.
    async fn change(&mut self, server: &mut impl Changed) -> Result<Told> {
        self.state = (self.state + 1) % MATCH_EVENTS.len();
        server.change(self.state).await?;
        self.told().await
    }

    /// Waits until each stream has one message more.
    async fn told(&mut self) -> Result<Told> {
        let mut messages = vec![Bytes::new(); self.count];
        let (mut first, mut last) = (None, None);
        for _ in 0..self.count {
            let arrival = timeout(DEADLINE, self.arrivals.recv()).await;
            let arrival = arrival.context("a stream is not told of a change")?;
            let arrival = arrival.context("all streams have ended")?;
            let message = &mut messages[arrival.stream];
            ensure!(message.is_empty(), "a stream is told of a change twice");
            *message = arrival.message;
            first = first.or(Some(arrival.at));
            last = last.max(Some(arrival.at));
        }
        let (first, last) = first.zip(last).context("there are streams")?;
        Ok(Told {
            messages,
            first_to_last: last.saturating_duration_since(first),
        })
    }
}

/// Whether each stream was told what was recorded for its consumer in this state.
fn check(told: &Told, state: usize, script: &Script) -> Result<()> {
    for (message, recorded) in told.messages.iter().zip(&script.consumers) {
        let (shown, _) = watched(message)?;
        let expected = recorded.watch.get(state).context("nothing is recorded")?;
        let (expected, _) = watched(expected)?;
        ensure!(shown == expected, "{shown:?} instead of {expected:?}");
    }
    Ok(())
}

/// Records what touchline-server tells each consumer's stream of each state.
pub(super) async fn record(
    touchline: &Touchline,
    streams: &mut Streams,
    script: &mut Script,
) -> Result<()> {
    let mut touchline = touchline;
    for recorded in &mut script.consumers {
        recorded.watch = vec![Bytes::new(); MATCH_EVENTS.len()];
    }
    for _ in MATCH_EVENTS {
        let told = streams.change(&mut touchline).await?;
        for (message, recorded) in told.messages.into_iter().zip(&mut script.consumers) {
            let (shown, _) = watched(&message)?;
            let set = shown.component_set.context("a message without set")?;
            ensure!(!set.components.is_empty(), "an empty set");
            let state = shown.state.context("a message without state")?;
            let number = state_number(&state.attributes["match_event"])?;
            ensure!(number == streams.state, "told of state {number}");
            recorded.watch[number] = message;
        }
    }
    Ok(())
}

async fn watch(client: &mut Grpc<Channel>, consumer_id: &str) -> Result<Streaming<Bytes>> {
    let request = proto::WatchEventRequest {
        event_id: EVENT.to_owned(),
        consumer_id: consumer_id.to_owned(),
        ..proto::WatchEventRequest::default()
    };
    let request: Bytes = request.encode_to_vec().into();
    client.ready().await.context("no connection")?;
    let answer = client.server_streaming(Request::new(request), path(WATCH_EVENT), Raw);
    Ok(answer.await?.into_inner())
}

/// Hands on what comes; that a stream has ended is noticed by whoever waits for its message.
async fn read(stream: usize, mut messages: Streaming<Bytes>, arrivals: mpsc::Sender<Arrival>) {
    while let Ok(Some(message)) = messages.message().await {
        let at = Instant::now();
        let arrival = Arrival {
            stream,
            message,
            at,
        };
        if arrivals.send(arrival).await.is_err() {
            return;
        }
    }
}
