//! The replicas behind one name, such as a headless service: a channel to each, which of them a
//! consumer belongs to ([`rendezvous`]), and who cannot be reached at the moment. Makes no call and
//! retries none: who asks says what failed.
//!
//! Where the name is an address, or has one address only, there is one channel and nothing to choose.

use std::{
    cmp::Reverse,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::transport::{Endpoint, Uri};
use touchline_auth::caller::{Caller, CallerChannel};

mod batch;
pub mod rendezvous;

pub use batch::{Answers, Configure as ConfigureCall, batch};

/// Replicas that are known at a time; of more, the first by address, so that all agree on them.
const REPLICAS_MAX: usize = 64;
/// How often the name is resolved again.
const RESOLVE_PAUSE: Duration = Duration::from_secs(5);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a replica that could not be reached is tried, and the name resolved early because of it.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Another replica is a better use of a caller's time than waiting for one that does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Gives the addresses behind a name, as of now.
pub type Resolve = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Sets limits and timeouts of each channel.
pub type Configure = fn(Endpoint) -> Endpoint;

/// The replicas behind one URL. Cheap to clone; looking after them ends with the last clone.
#[derive(Clone)]
pub struct Replicas {
    shared: Arc<Shared>,
    /// Aborted when the last clone goes.
    _looking: Arc<JoinSet<()>>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Replica(Arc<Known>);

#[derive(Debug)]
struct Known {
    /// `None`: whoever answers to the name.
    address: Option<SocketAddr>,
    hash: u64,
    channel: CallerChannel,
    /// It could not be reached when it was last tried.
    is_resting: AtomicBool,
    wanted: Arc<AtomicBool>,
}

struct Shared {
    uri: Uri,
    configure: Configure,
    caller: Caller,
    named: Replica,
    /// Never empty once it is known; sorted by address.
    known: watch::Sender<Option<Arc<[Replica]>>>,
    /// A replica could not be reached: the name may have other addresses now.
    wanted: Arc<AtomicBool>,
}

impl fmt::Debug for Replicas {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.known.borrow();
        formatter.debug_tuple("Replicas").field(&*known).finish()
    }
}

impl Replicas {
    /// Those behind a URL, as the system resolves its host. Must be called in a tokio runtime; makes
    /// no connection yet.
    pub fn new(
        url: &str,
        configure: Configure,
        caller: Caller,
    ) -> Result<Self, tonic::transport::Error> {
        let shared = Shared::new(url, configure, caller)?;
        let host = shared.uri.host().unwrap_or_default();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        if host.is_empty() || host.parse::<IpAddr>().is_ok() {
            let only: Arc<[Replica]> = Arc::new([shared.named.clone()]);
            shared.known.send_replace(Some(only));
            return Ok(Self {
                shared: Arc::new(shared),
                _looking: Arc::default(),
            });
        }
        let is_https = shared.uri.scheme_str() == Some("https");
        let port = shared
            .uri
            .port_u16()
            .unwrap_or(if is_https { 443 } else { 80 });
        let resolve: Resolve = Arc::new(move || {
            let host = host.clone();
            Box::pin(async move { Ok(lookup_host((host, port)).await?.collect()) })
        });
        Ok(Self::looking(shared, resolve))
    }

    /// Those that `resolve` names, for who knows replicas by other means than their host name.
    pub fn resolving(
        url: &str,
        configure: Configure,
        caller: Caller,
        resolve: Resolve,
    ) -> Result<Self, tonic::transport::Error> {
        Ok(Self::looking(Shared::new(url, configure, caller)?, resolve))
    }

    fn looking(shared: Shared, resolve: Resolve) -> Self {
        let shared = Arc::new(shared);
        let mut looking = JoinSet::new();
        looking.spawn(shared.clone().look_after(resolve));
        Self {
            shared,
            _looking: Arc::new(looking),
        }
    }

    /// Whoever answers to the name: for calls that concern no consumer.
    pub fn any(&self) -> CallerChannel {
        self.shared.named.channel()
    }

    /// The replicas in a consumer's order, at least one: the one that they belong to first, those
    /// that could not be reached last.
    pub async fn of(&self, consumer_id: &str) -> Vec<Replica> {
        let known = self.known().await;
        let hashes: Vec<u64> = known.iter().map(|replica| replica.0.hash).collect();
        let order = rendezvous::order(rendezvous::consumer_hash(consumer_id), &hashes);
        let mut replicas: Vec<_> = order
            .into_iter()
            .map(|place| known[place].clone())
            .collect();
        replicas.sort_by_key(Replica::is_resting);
        replicas
    }

    /// Consumers by the replica that each is to be asked of, leaving out those in `tried`. Who has
    /// no replica left is in no group.
    pub(crate) async fn split(
        &self,
        consumers: impl Iterator<Item = (u32, &str)>,
        tried: &[Replica],
    ) -> Vec<(Replica, Vec<u32>)> {
        let known = self.known().await;
        let open: Vec<&Replica> = known
            .iter()
            .filter(|known| !tried.contains(known))
            .collect();
        let mut groups: Vec<(Replica, Vec<u32>)> = open
            .iter()
            .map(|replica| ((*replica).clone(), Vec::new()))
            .collect();
        for (place, consumer_id) in consumers {
            let consumer = rendezvous::consumer_hash(consumer_id);
            let best = (0..open.len()).max_by_key(|place| {
                let replica = &open[*place];
                let score = rendezvous::score(consumer, replica.0.hash);
                // The first of equals, as in a consumer's order.
                (!replica.is_resting(), score, Reverse(*place))
            });
            if let Some(best) = best {
                groups[best].1.push(place);
            }
        }
        groups.retain(|(_, consumers)| !consumers.is_empty());
        groups
    }

    async fn known(&self) -> Arc<[Replica]> {
        if let Some(known) = &*self.shared.known.borrow() {
            return known.clone();
        }
        let mut known = self.shared.known.subscribe();
        // The sender lives as long as `self`, and the first look ends within its time-out.
        match known.wait_for(Option::is_some).await {
            Ok(known) => known.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| Arc::new([self.shared.named.clone()]))
    }
}

impl Replica {
    /// The channel to it.
    pub fn channel(&self) -> CallerChannel {
        self.0.channel.clone()
    }

    /// It could not be reached or does not serve: until it can be reached again, others are asked.
    pub fn failed(&self) {
        self.0.is_resting.store(true, Relaxed);
        self.0.wanted.store(true, Relaxed);
    }

    fn is_resting(&self) -> bool {
        self.0.is_resting.load(Relaxed)
    }

    /// Whether it takes connections again.
    async fn probe(&self) {
        if let Some(address) = self.0.address
            && let Ok(Ok(_)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await
        {
            self.0.is_resting.store(false, Relaxed);
        }
    }
}

impl PartialEq for Replica {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Shared {
    fn new(
        url: &str,
        configure: Configure,
        caller: Caller,
    ) -> Result<Self, tonic::transport::Error> {
        let uri = Endpoint::from_shared(url.to_owned())?.uri().clone();
        let channel = caller.channel(&uri, None, configure)?;
        let wanted = Arc::new(AtomicBool::new(false));
        let named = Replica(Arc::new(Known {
            address: None,
            hash: 0,
            channel,
            is_resting: AtomicBool::new(false),
            wanted: wanted.clone(),
        }));
        Ok(Self {
            uri,
            configure,
            caller,
            named,
            known: watch::Sender::new(None),
            wanted,
        })
    }

    async fn look_after(self: Arc<Self>, resolve: Resolve) {
        loop {
            self.wanted.store(false, Relaxed);
            let resolved_at = Instant::now();
            // What was known stays while the name cannot be resolved.
            let addresses = timeout(RESOLVE_TIMEOUT, resolve()).await;
            self.take(addresses.ok().and_then(Result::ok).unwrap_or_default());
            while resolved_at.elapsed() < RESOLVE_PAUSE && !self.wanted.load(Relaxed) {
                self.look().await;
            }
            if self.wanted.load(Relaxed) {
                self.look().await;
            }
        }
    }

    /// Waits a moment, and tries who could not be reached.
    async fn look(&self) {
        sleep(LOOK_PAUSE).await;
        let known = self.known.borrow().clone();
        let known = known.iter().flat_map(|known| known.iter());
        join_all(
            known
                .filter(|replica| replica.is_resting())
                .map(Replica::probe),
        )
        .await;
    }

    /// These are the addresses now.
    fn take(&self, mut addresses: Vec<SocketAddr>) {
        // A replica that has an address of each family is still one.
        if addresses.iter().any(SocketAddr::is_ipv4) {
            addresses.retain(SocketAddr::is_ipv4);
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(REPLICAS_MAX);
        let before = self.known.borrow().clone();
        let before = before.as_deref().unwrap_or_default();
        let is_spread = before.iter().any(|replica| replica.0.address.is_some());
        let now: Vec<Replica> = match addresses.len() {
            0 if !before.is_empty() => return,
            0 | 1 if !is_spread => vec![self.named.clone()],
            _ => addresses
                .into_iter()
                .filter_map(|address| {
                    let same = |replica: &&Replica| replica.0.address == Some(address);
                    let known = before.iter().find(same);
                    known.cloned().or_else(|| self.replica(address))
                })
                .collect(),
        };
        if !now.is_empty() && now != before {
            self.known.send_replace(Some(now.into()));
        }
    }

    /// A channel to one address, which is still called by its name.
    fn replica(&self, address: SocketAddr) -> Option<Replica> {
        let configure = |endpoint| (self.configure)(endpoint).connect_timeout(CONNECT_TIMEOUT);
        let channel = self.caller.channel(&self.uri, Some(address), configure);
        let channel = channel.ok()?;
        Some(Replica(Arc::new(Known {
            address: Some(address),
            hash: rendezvous::replica_hash(address),
            channel,
            is_resting: AtomicBool::new(false),
            wanted: self.wanted.clone(),
        })))
    }
}
