//! The WebSocket front: accepts fans and speaks API Gateway's protocol to them. What their messages
//! do is in `routes`; what they are sent is put into their mailboxes by others.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_auth::Verifier;
use touchline_store::{ids::ConnectionId, tables::Store};

use crate::{
    config::FanLimits,
    connections::local::{Connection, Local},
    fanout::components::Components,
    leader::Feeds,
    metrics::Metrics,
};

mod conversation;
mod handshake;
mod rate;
mod registered;

/// Everything that the front needs.
#[derive(Debug)]
pub struct Gateway {
    /// The tables.
    pub store: Store,
    /// The open connections.
    pub local: Arc<Local>,
    /// The newest states.
    pub feeds: Feeds,
    /// Who gives component sets.
    pub components: Components,
    /// The path that fans connect to.
    pub stage: String,
    /// Where others post to connections of this front.
    pub endpoint: String,
    /// Its limits.
    pub limits: FanLimits,
    /// Calls to the session table in flight: each has a connection of its own to DynamoDB, and a
    /// crowd that comes back at once must not take them all.
    pub session_calls: Arc<Semaphore>,
    /// Who has a place here.
    pub addresses: Addresses,
    /// What happened.
    pub metrics: Arc<Metrics>,
    /// Looks at fans' tokens; `None`: none is asked for.
    pub verifier: Option<Arc<Verifier>>,
}

/// Accepts fans until `stopping`, then closes them all and waits for them, `drain` at most.
pub async fn serve(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    stopping: CancellationToken,
    drain: Duration,
) {
    let fans = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly too many open files: what is open goes on, and some of it will end.
                tracing::warn!(%error, "a fan could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let place = match Place::take(&gateway, address.ip()) {
            Ok(place) => place,
            Err(full) => {
                let refused = &gateway.metrics.front.refused;
                match full {
                    Full::InAll => refused.full.inc(),
                    Full::OfAddress => refused.address_full.inc(),
                };
                refuse(&stream);
                continue;
            }
        };
        let (gateway, stopping) = (gateway.clone(), stopping.clone());
        fans.spawn(async move {
            fan(gateway, stream, address, stopping).await;
            drop(place);
        });
    }
    drop(listener);
    fans.close();
    let open = fans.len();
    if tokio::time::timeout(drain, fans.wait()).await.is_err() {
        tracing::warn!(open, left = fans.len(), "fans were not closed in time");
    }
}

async fn fan(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    address: SocketAddr,
    stopping: CancellationToken,
) {
    // Each message is written at once, so waiting to fill a segment only costs time.
    let _ = stream.set_nodelay(true);
    let shaking = handshake::shake_hands(&gateway, stream);
    let shaken = tokio::select! {
        () = stopping.cancelled() => return,
        shaken = tokio::time::timeout(gateway.limits.fan_handshake_timeout, shaking) => shaken,
    };
    let shaken = match shaken {
        Ok(Some(shaken)) => shaken,
        Ok(None) => return,
        Err(_) => {
            gateway.metrics.front.refused.timeout.inc();
            return;
        }
    };
    let connection = Connection::new(connection_id(), address.ip(), shaken.user_agent);
    let connection = Arc::new(connection.with_identity(shaken.identity));
    // Known before its row can be read, so that no message finds it gone.
    gateway.local.insert(connection.clone());
    conversation::hold(&gateway, shaken.socket, &connection, &stopping).await;
}

/// An id in API Gateway's shape: 11 random bytes in base64.
fn connection_id() -> ConnectionId {
    let id = URL_SAFE.encode(rand::random::<[u8; 11]>());
    ConnectionId::new(id).expect("16 characters are an id")
}

/// Tells a fan for whom there is no place, without waiting for anything.
fn refuse(stream: &TcpStream) {
    let answer = "HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    // A fan who does not take it learns by the closed connection.
    let _ = stream.try_write(answer.as_bytes());
}

/// How many fans each address has.
#[derive(Debug)]
pub struct Addresses {
    total_max: usize,
    each_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    InAll,
    OfAddress,
}

impl Addresses {
    /// Nobody has a place yet.
    pub fn new(limits: &FanLimits) -> Self {
        Self {
            total_max: limits.fans_max,
            each_max: limits.fans_per_address_max,
            open: Mutex::default(),
        }
    }

    fn take(&self, address: IpAddr) -> Result<(), Full> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = open.by_address.get(&address).copied().unwrap_or(0);
        if open.total >= self.total_max {
            return Err(Full::InAll);
        }
        if of_address >= self.each_max {
            return Err(Full::OfAddress);
        }
        open.total += 1;
        open.by_address.insert(address, of_address + 1);
        Ok(())
    }

    fn give_back(&self, address: IpAddr) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        if let Some(of_address) = open.by_address.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

/// One fan's place among the open connections, given back on drop.
struct Place {
    gateway: Arc<Gateway>,
    address: IpAddr,
}

impl Place {
    fn take(gateway: &Arc<Gateway>, address: IpAddr) -> Result<Self, Full> {
        gateway.addresses.take(address)?;
        Ok(Self {
            gateway: gateway.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gateway.addresses.give_back(self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_ids_have_api_gateways_shape() {
        let (one, other) = (connection_id(), connection_id());
        assert_ne!(one, other);
        assert_eq!(one.as_str().len(), 16);
        assert!(one.as_str().ends_with('='));
    }

    #[test]
    fn places_are_limited_in_all_and_by_address_and_are_given_back() {
        let addresses = Addresses {
            total_max: 3,
            each_max: 2,
            open: Mutex::default(),
        };
        let [one, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!([one, one].map(|one| addresses.take(one)), [Ok(()); 2]);
        assert_eq!(addresses.take(one), Err(Full::OfAddress));
        assert_eq!(addresses.take(other), Ok(()));
        assert_eq!(addresses.take(other), Err(Full::InAll));
        addresses.give_back(one);
        assert_eq!(addresses.take(other), Ok(()));
    }
}
