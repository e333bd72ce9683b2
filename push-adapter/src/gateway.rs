//! The WebSocket front: accepts fans and speaks API Gateway's protocol to them. What their messages
//! do is in `routes`; what they are sent is put into their mailboxes by others.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_auth::{Verifier, tls::ServerTls};
use touchline_store::ids::ConnectionId;

use crate::{
    config::{FanAccess, FanLimits},
    connections::{connection::Connection, local::Local, writers::Writers},
    fanout::components::Components,
    leader::Feeds,
    metrics::Metrics,
    sessions::Sessions,
};

mod conversation;
mod drain;
pub mod handshake;
mod places;
pub mod proxy;
mod rate;
mod rates;
mod sweep;
mod welcome;

pub use places::Places;
pub use rates::Rates;
pub use welcome::{Arrivals, Welcome, welcome};

use places::Place;

/// Everything that the front needs.
#[derive(Debug)]
pub struct Gateway {
    /// The sessions of the connections.
    pub sessions: Arc<dyn Sessions>,
    /// The open connections.
    pub local: Arc<Local>,
    /// Who writes to them.
    pub writers: Writers,
    /// The newest states.
    pub feeds: Feeds,
    /// Who gives component sets.
    pub components: Components,
    /// Answers registrations.
    pub welcome: Welcome,
    /// The path that fans connect to.
    pub stage: String,
    /// Where others post to connections of this front; empty where nobody does.
    pub endpoint: String,
    /// Who may come to it.
    pub access: FanAccess,
    /// Its limits.
    pub limits: FanLimits,
    /// `None`: plain text.
    pub tls: Option<ServerTls>,
    /// Calls to the session table in flight: each has a connection of its own to DynamoDB, and a
    /// crowd that comes back at once must not take them all.
    pub session_calls: Arc<Semaphore>,
    /// Who has a place here.
    pub places: Places,
    /// What connections share.
    pub rates: Rates,
    /// What happened.
    pub metrics: Arc<Metrics>,
    /// Looks at fans' tokens; `None`: none is asked for.
    pub verifier: Option<Arc<Verifier>>,
}

/// Accepts fans until `stopping`, then sends them away in waves and waits for them, `drain` at most.
pub async fn serve(
    gateway: Arc<Gateway>,
    arrivals: Arrivals,
    listener: TcpListener,
    stopping: CancellationToken,
    drain: Duration,
) {
    let (writing, ended) = (TaskTracker::new(), CancellationToken::new());
    gateway.writers.run(&writing, &ended);
    // All of this ends when it is dropped.
    let mut beside = JoinSet::new();
    beside.spawn(sweep::sweep(gateway.clone()));
    beside.spawn(welcome::answer_all(gateway.clone(), arrivals));
    let fans = TaskTracker::new();
    stopping
        .run_until_cancelled(accept(&gateway, &listener, &fans))
        .await;
    drop(listener);
    fans.close();
    drain::send_away(&gateway, &fans, drain).await;
    ended.cancel();
    writing.close();
    writing.wait().await;
}

/// Accepts fans for ever, at the rate that is allowed.
async fn accept(gateway: &Arc<Gateway>, listener: &TcpListener, fans: &TaskTracker) {
    loop {
        gateway.rates.admit().await;
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly too many open files: what is open goes on, and some of it will end.
                tracing::warn!(%error, "a fan could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let refused = &gateway.metrics.front.refused;
        let Some(mut place) = gateway.places.take() else {
            refused.full.inc();
            refuse(&stream);
            continue;
        };
        // Whoever says nothing for the time of a handshake has a place all the same: without a proxy it
        // is known already whose.
        if !gateway.access.is_by_proxy() && !place.of(address.ip()) {
            refused.address_full.inc();
            refuse(&stream);
            continue;
        }
        let (gateway, tracker) = (gateway.clone(), fans.clone());
        // The handshake has a task of its own, so that the connection's does not keep its size.
        fans.spawn(async move {
            let shaken = greet(&gateway, stream, address, place).await;
            if let Some((connection, place)) = shaken {
                tracker.spawn(async move {
                    conversation::hold(gateway, connection).await;
                    drop(place);
                });
            }
        });
    }
}

async fn greet(
    gateway: &Arc<Gateway>,
    stream: TcpStream,
    address: SocketAddr,
    mut place: Place,
) -> Option<(Arc<Connection>, Place)> {
    // Each message is written at once, so waiting to fill a segment only costs time.
    let _ = stream.set_nodelay(true);
    let shaking = handshake::shake_hands(gateway, stream, address.ip(), &mut place);
    let shaken = tokio::time::timeout(gateway.limits.fan_handshake_timeout, shaking).await;
    let Ok(shaken) = shaken else {
        gateway.metrics.front.refused.timeout.inc();
        return None;
    };
    let shaken = shaken?;
    let connection = Connection::new(
        shaken.opening,
        shaken.socket,
        gateway.writers.assign(),
        gateway.metrics.states.clone(),
    );
    let connection = Arc::new(connection);
    // Known before its session can be read, so that no message finds it gone.
    gateway.local.insert(connection.clone());
    Some((connection, place))
}

/// An id in API Gateway's shape: 11 random bytes in base64.
fn connection_id() -> ConnectionId {
    let id = URL_SAFE.encode(rand::random::<[u8; 11]>());
    ConnectionId::new(id).expect("16 characters are an id")
}

/// Tells a fan for whom there is no place, without waiting for anything.
fn refuse(stream: &TcpStream) {
    let answer = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\nconnection: close\r\n\
                  content-length: 0\r\n\r\n";
    // A fan who does not take it learns by the closed connection.
    let _ = stream.try_write(answer.as_bytes());
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
}
