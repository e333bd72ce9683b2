//! Callers of GetComponents, each with one call under way. Knows nothing of who answers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use prost::{Message, bytes::Bytes};
use tokio::task::JoinSet;
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use touchline_client::proto;

use super::{
    bare::Bare,
    raw::{GET_COMPONENTS, Raw, path},
    script::{Script, called},
    touchline::{EVENT, Touchline},
};
use crate::{service::Service, tally::Slice};

/// Consumers who are asked for, in turn.
pub(super) const CONSUMERS: usize = 100;

/// A question, and the set that answers it.
#[derive(Debug)]
struct Question {
    request: Bytes,
    set: proto::ComponentSet,
}

/// Callers who are not connected yet.
pub(super) struct Load {
    connections: usize,
    callers: usize,
    questions: Arc<[Question]>,
}

/// Callers of one server.
pub(super) struct Callers {
    clients: Vec<Grpc<Channel>>,
    questions: Arc<[Question]>,
}

/// A server process whose processor time is known.
pub(super) trait Measured {
    /// Processor time that it has used so far.
    fn cpu(&self) -> Result<Duration>;
}

impl Measured for Service {
    fn cpu(&self) -> Result<Duration> {
        Self::cpu(self)
    }
}

impl Measured for Bare {
    fn cpu(&self) -> Result<Duration> {
        Self::cpu(self)
    }
}

impl Load {
    /// So many callers on each of so many connections.
    pub(super) fn new(connections: usize, callers: usize, script: &Script) -> Result<Self> {
        let recorded = script.consumers.iter().take(CONSUMERS);
        let questions = recorded.map(|recorded| {
            Ok(Question {
                request: request(&recorded.consumer_id),
                set: called(&recorded.call)?,
            })
        });
        Ok(Self {
            connections,
            callers,
            questions: questions.collect::<Result<_>>()?,
        })
    }

    /// The callers of a server.
    pub(super) fn on(&self, url: &str) -> Result<Callers> {
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            let client = client(url)?;
            clients.extend((0..self.callers).map(|_| client.clone()));
        }
        Ok(Callers {
            clients,
            questions: self.questions.clone(),
        })
    }
}

impl Callers {
    /// Calls for a while; fails at the first answer that is not the one recorded.
    pub(super) async fn slice(&self, length: Duration, server: &impl Measured) -> Result<Slice> {
        let mut calling = JoinSet::new();
        let (cpu, start) = (server.cpu()?, Instant::now());
        for (number, client) in self.clients.iter().enumerate() {
            let (client, questions) = (client.clone(), self.questions.clone());
            calling.spawn(call(client, questions, number, start + length));
        }
        let mut latencies = Vec::new();
        while let Some(called) = calling.join_next().await {
            latencies.extend(called??);
        }
        Ok(Slice {
            answers: latencies.len() as u64,
            cpu: server.cpu()?.saturating_sub(cpu),
            wall: start.elapsed(),
            latencies,
        })
    }
}

async fn call(
    mut client: Grpc<Channel>,
    questions: Arc<[Question]>,
    first: usize,
    end: Instant,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    for question in questions.iter().cycle().skip(first) {
        let start = Instant::now();
        if start >= end {
            break;
        }
        let answer = ask(&mut client, question.request.clone()).await?;
        latencies.push(start.elapsed());
        let set = called(&answer)?;
        ensure!(set == question.set, "{set:?} instead of {:?}", question.set);
    }
    Ok(latencies)
}

/// Records what touchline-server answers each consumer from its cache.
pub(super) async fn record(touchline: &Touchline, script: &mut Script) -> Result<()> {
    let mut client = client(touchline.url())?;
    // An age of whole seconds takes as many bytes as those that are measured.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for recorded in script.consumers.iter_mut().take(CONSUMERS) {
        recorded.call = ask(&mut client, request(&recorded.consumer_id)).await?;
    }
    Ok(())
}

fn request(consumer_id: &str) -> Bytes {
    use proto::get_components_request::Situation;
    let request = proto::GetComponentsRequest {
        consumer_id: consumer_id.to_owned(),
        situation: Some(Situation::EventId(EVENT.to_owned())),
        ..proto::GetComponentsRequest::default()
    };
    request.encode_to_vec().into()
}

async fn ask(client: &mut Grpc<Channel>, request: Bytes) -> Result<Bytes> {
    client.ready().await.context("no connection")?;
    let answer = client.unary(Request::new(request), path(GET_COMPONENTS), Raw);
    Ok(answer.await?.into_inner())
}

/// A client with a connection of its own.
pub(super) fn client(url: &str) -> Result<Grpc<Channel>> {
    Ok(Grpc::new(
        Endpoint::from_shared(url.to_owned())?.connect_lazy(),
    ))
}
