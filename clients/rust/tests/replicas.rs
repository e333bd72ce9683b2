//! Several replicas on addresses of loopback, and a resolver of the test's own: who is asked, when
//! one leaves, and when it comes back.

#![expect(clippy::unwrap_used, reason = "what surprises a test ends it")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use touchline_client::{
    Client, Situation, Watched, proto,
    replicas::{Resolve, rendezvous},
};
use touchline_proto::v1::{
    component_service_server::{ComponentService, ComponentServiceServer},
    consumer_answer::Answer,
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Waits for something that has to happen, with a deadline.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future)
        .await
        .expect("what was waited for did not happen within 20 s")
}

/// A replica that names itself in each set.
#[derive(Clone)]
struct Replica {
    address: SocketAddr,
    /// A batch ends with an error after its first answer.
    breaks: Arc<AtomicBool>,
    leaves: watch::Receiver<bool>,
}

impl Replica {
    fn set(&self, consumer_id: &str) -> proto::ComponentSet {
        proto::ComponentSet {
            set_id: self.address.to_string(),
            recommendation_id: consumer_id.to_owned(),
            ..Default::default()
        }
    }
}

#[tonic::async_trait]
impl ComponentService for Replica {
    async fn get_components(
        &self,
        request: Request<proto::GetComponentsRequest>,
    ) -> Result<Response<proto::GetComponentsResponse>, Status> {
        let request = request.into_inner();
        let recommender = proto::RecommenderState {
            limit_per_second: f64::from(self.address.port()),
            ..Default::default()
        };
        Ok(Response::new(proto::GetComponentsResponse {
            component_set: Some(self.set(&request.consumer_id)),
            explanation: request.explain.then(|| proto::Explanation {
                recommender: Some(recommender),
                ..Default::default()
            }),
        }))
    }

    type BatchGetComponentsStream = Answers<proto::BatchGetComponentsResponse>;

    async fn batch_get_components(
        &self,
        request: Request<proto::BatchGetComponentsRequest>,
    ) -> Result<Response<Self::BatchGetComponentsStream>, Status> {
        let consumers = request.into_inner().consumer_ids;
        let mut parts: Vec<_> = (0_u32..)
            .zip(&consumers)
            .map(|(index, consumer_id)| {
                Ok(proto::BatchGetComponentsResponse {
                    component_sets: vec![self.set(consumer_id)],
                    answers: vec![proto::ConsumerAnswer {
                        consumer_index: index,
                        answer: Some(Answer::ComponentSetIndex(index)),
                        recommendation_id: String::new(),
                    }],
                })
            })
            .collect();
        if self.breaks.load(SeqCst) {
            parts.truncate(1);
            parts.push(Err(Status::unavailable("in the middle")));
        }
        Ok(Response::new(stream::iter(parts).boxed()))
    }

    type WatchEventStream = Answers<proto::WatchEventResponse>;

    async fn watch_event(
        &self,
        request: Request<proto::WatchEventRequest>,
    ) -> Result<Response<Self::WatchEventStream>, Status> {
        let message = proto::WatchEventResponse {
            state: Some(proto::EventState::default()),
            component_set: Some(self.set(&request.into_inner().consumer_id)),
        };
        let mut leaves = self.leaves.clone();
        let end = async move {
            // Whoever cannot be told to leave any more has left.
            let _ = leaves.wait_for(|leaves| *leaves).await;
            Err(Status::unavailable("leaving"))
        };
        let messages = stream::once(async { Ok(message) }).chain(end.into_stream());
        Ok(Response::new(messages.boxed()))
    }
}

/// Where a replica is, or was.
struct Place {
    address: SocketAddr,
    breaks: Arc<AtomicBool>,
    leaves: watch::Sender<bool>,
    serving: JoinSet<()>,
}

impl Place {
    async fn start(last: u8) -> Self {
        let mut place = Self {
            address: SocketAddr::from(([127, 0, 0, last], 0)),
            breaks: Arc::default(),
            leaves: watch::Sender::new(false),
            serving: JoinSet::new(),
        };
        place.come().await;
        place
    }

    async fn come(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        self.leaves.send_replace(false);
        let replica = Replica {
            address: self.address,
            breaks: self.breaks.clone(),
            leaves: self.leaves.subscribe(),
        };
        let mut leaves = self.leaves.subscribe();
        self.serving.spawn(async move {
            Server::builder()
                .add_service(ComponentServiceServer::new(replica))
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
                    let _ = leaves.wait_for(|leaves| *leaves).await;
                })
                .await
                .unwrap();
        });
    }

    async fn go(&mut self) {
        self.leaves.send_replace(true);
        soon(self.serving.join_next()).await.unwrap().unwrap();
    }
}

/// Three replicas behind one name.
struct World {
    places: Vec<Place>,
    /// What the name resolves to.
    named: Arc<Mutex<Vec<SocketAddr>>>,
    client: Client,
}

impl World {
    async fn start() -> Self {
        let mut places = Vec::new();
        for last in 1..=3 {
            places.push(Place::start(last).await);
        }
        let addresses: Vec<_> = places.iter().map(|place| place.address).collect();
        let named = Arc::new(Mutex::new(addresses));
        let resolve: Resolve = {
            let named = named.clone();
            Arc::new(move || {
                let addresses = named.lock().unwrap().clone();
                async move { Ok(addresses) }.boxed()
            })
        };
        let client = Client::connect_resolving("http://touchline-server:50051", resolve).unwrap();
        Self {
            places,
            named,
            client,
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.places.iter().map(|place| place.address).collect()
    }

    /// Which replica answers each consumer.
    async fn answering(&self) -> BTreeMap<String, String> {
        let mut answering = BTreeMap::new();
        for consumer_id in consumers() {
            let situation = Situation::Event("1".to_owned());
            let set = soon(self.client.get_components(&consumer_id, situation)).await;
            answering.insert(consumer_id, set.unwrap().set_id);
        }
        answering
    }

    /// Waits until each consumer is answered by the one that they belong to of these.
    async fn until_owned(&self, addresses: &[SocketAddr]) {
        let owned = owned(addresses);
        soon(async {
            while self.answering().await != owned {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// Which replica answers each consumer of a batch; each is answered once.
    async fn batch(&self) -> BTreeMap<String, String> {
        let consumers: Vec<_> = consumers().collect();
        let answers = self
            .client
            .batch(proto::EventState::default(), consumers.clone());
        let answers: Vec<_> = soon(answers.try_collect()).await.unwrap();
        assert_eq!(answers.len(), consumers.len());
        let answering: BTreeMap<_, _> = answers
            .into_iter()
            .map(|answer| {
                let set = answer.component_set.unwrap();
                let consumer_id = consumers[answer.consumer_index].clone();
                assert_eq!(set.recommendation_id, consumer_id, "their own set");
                (consumer_id, set.set_id.clone())
            })
            .collect();
        assert_eq!(answering.len(), consumers.len());
        answering
    }
}

fn consumers() -> impl Iterator<Item = String> {
    (0..60).map(|number| format!("fan-{number}"))
}

/// The replica that each consumer belongs to.
fn owned(addresses: &[SocketAddr]) -> BTreeMap<String, String> {
    consumers()
        .map(|consumer_id| {
            let owner = order(&consumer_id, addresses)[0];
            (consumer_id, owner.to_string())
        })
        .collect()
}

fn order(consumer_id: &str, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let hashes: Vec<u64> = addresses
        .iter()
        .map(|address| rendezvous::replica_hash(*address))
        .collect();
    let order = rendezvous::order(rendezvous::consumer_hash(consumer_id), &hashes);
    order.into_iter().map(|place| addresses[place]).collect()
}

#[tokio::test]
async fn a_consumers_calls_go_to_one_replica_to_the_next_when_it_leaves_and_back_when_it_comes() {
    let mut world = World::start().await;
    let all = world.addresses();
    assert_eq!(world.answering().await, owned(&all));
    assert_eq!(world.batch().await, owned(&all));

    // The name still says that it is there.
    world.places[1].go().await;
    let rest = [all[0], all[2]];
    assert_eq!(world.answering().await, owned(&rest), "nobody else moves");
    assert_eq!(world.batch().await, owned(&rest));

    world.places[1].come().await;
    world.until_owned(&all).await;
    assert_eq!(world.batch().await, owned(&all));
}

#[tokio::test]
async fn who_has_which_share_of_the_consumers_is_known_also_when_a_replica_is_gone() {
    let mut world = World::start().await;
    let all = world.addresses();
    let consumers: Vec<_> = consumers().collect();
    let consumers: Vec<_> = consumers.iter().map(String::as_str).collect();
    let shares = async |client: &Client| {
        let shares = soon(client.shares(BTreeMap::new(), &consumers)).await;
        let by_port = shares.unwrap().into_iter().map(|share| {
            let recommender = share.recommender.unwrap();
            (recommender.limit_per_second as u16, share.consumers)
        });
        by_port.collect::<BTreeMap<_, _>>()
    };
    let expected = |addresses: &[SocketAddr]| {
        let mut counts = BTreeMap::new();
        for address in owned(addresses).into_values() {
            let port = address.parse::<SocketAddr>().unwrap().port();
            *counts.entry(port).or_default() += 1_usize;
        }
        counts
    };
    assert_eq!(shares(&world.client).await, expected(&all));
    world.places[1].go().await;
    assert_eq!(shares(&world.client).await, expected(&[all[0], all[2]]));
    world.places[0].go().await;
    world.places[2].go().await;
    let nobody = soon(world.client.shares(BTreeMap::new(), &consumers)).await;
    assert!(nobody.unwrap_err().is_unreachable());
}

#[tokio::test]
async fn a_batch_that_finds_a_replica_gone_is_answered_by_the_others() {
    let mut world = World::start().await;
    let all = world.addresses();
    world.places[0].go().await;
    assert_eq!(world.batch().await, owned(&all[1..]));
}

#[tokio::test]
async fn who_was_not_answered_when_a_replica_broke_off_is_answered_by_the_next() {
    let world = World::start().await;
    let all = world.addresses();
    assert_eq!(world.batch().await, owned(&all));
    world.places[2].breaks.store(true, SeqCst);
    let answering = world.batch().await;
    let by_last = answering
        .values()
        .filter(|address| **address == all[2].to_string());
    assert_eq!(by_last.count(), 1, "one had their answer before");
    let next = owned(&all[..2]);
    let before = owned(&all);
    let moved = answering
        .iter()
        .filter(|(consumer_id, address)| before[*consumer_id] != **address);
    for (consumer_id, address) in moved {
        assert_eq!(before[consumer_id], all[2].to_string(), "nobody else moves");
        assert_eq!(next[consumer_id], *address);
    }
}

#[tokio::test]
async fn replicas_come_and_go_by_the_name() {
    let world = World::start().await;
    let all = world.addresses();
    *world.named.lock().unwrap() = all[..2].to_vec();
    world.until_owned(&all[..2]).await;
    *world.named.lock().unwrap() = all.clone();
    world.until_owned(&all).await;
    // While the name says nothing, what it said last holds.
    world.named.lock().unwrap().clear();
    assert_eq!(world.answering().await, owned(&all));
}

#[tokio::test]
async fn a_watch_is_on_its_consumers_replica_and_goes_to_the_next_when_that_leaves() {
    let mut world = World::start().await;
    let all = world.addresses();
    let order = order("fan-7", &all);
    let mut watch = world.client.watch("1", Some("fan-7"));
    let shown = |watched: Watched| match watched {
        Watched::State { component_set, .. } => component_set.map(|set| set.set_id),
        Watched::Interrupted { .. } => None,
    };
    let first = soon(watch.next()).await.unwrap().unwrap();
    assert_eq!(shown(first), Some(order[0].to_string()));
    let place = all.iter().position(|address| *address == order[0]).unwrap();
    let going = async {
        // The reader must read for its connection to end.
        let interrupted = soon(watch.next()).await.unwrap().unwrap();
        assert!(matches!(interrupted, Watched::Interrupted { .. }));
        soon(watch.next()).await.unwrap().unwrap()
    };
    let ((), next) = tokio::join!(world.places[place].go(), going);
    assert_eq!(shown(next), Some(order[1].to_string()));
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_called_as_it_is() {
    let place = Place::start(1).await;
    let resolve: Resolve =
        Arc::new(|| async { Err(std::io::Error::other("no such name")) }.boxed());
    let url = format!("http://{}", place.address);
    let client = Client::connect_resolving(&url, resolve).unwrap();
    let situation = Situation::Event("1".to_owned());
    let set = soon(client.get_components("fan", situation)).await.unwrap();
    assert_eq!(set.set_id, place.address.to_string());
}
