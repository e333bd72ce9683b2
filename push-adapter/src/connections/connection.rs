//! One open connection of this process's front: what waits for it, and its socket. Posting returns at
//! once and never waits for a fan. Does not decide when a connection ends.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;
use touchline_auth::Identity;
use touchline_store::ids::{ConnectionId, ConsumerId};

use super::{
    About, Frame, PostError,
    closing::Closing,
    mailbox::Mailbox,
    socket::{Sent, Socket},
    writers::Writer,
};
use crate::metrics::StateMetrics;

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// Where the fan connects from.
    pub source_ip: IpAddr,
    /// What the fan's software calls itself.
    pub user_agent: Option<Box<str>>,
    /// When things last happened.
    pub times: Times,
    /// Its socket.
    pub socket: Socket,
    /// Whose token it was opened with; the newest one, where it was refreshed.
    identity: Mutex<Option<Identity>>,
    inner: Mutex<Inner>,
    /// Something happened that its task has to look at.
    wake: Notify,
    writer: Arc<Writer>,
    /// Whether it stands in its writer's line.
    is_in_line: AtomicBool,
    states: Arc<StateMetrics>,
}

#[derive(Debug, Default)]
struct Inner {
    mailbox: Mailbox,
    ending: Option<Ending>,
}

/// How a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The fan is told why.
    Closing(Closing),
    /// Nobody can be told: the socket is broken, or the fan does not read.
    Broken,
}

/// What is known before the handshake is through.
#[derive(Debug)]
pub struct Opening {
    /// Its id.
    pub id: ConnectionId,
    /// Where the fan connects from.
    pub source_ip: IpAddr,
    /// What the fan's software calls itself.
    pub user_agent: Option<Box<str>>,
    /// Whose token was presented, where one is asked for.
    pub identity: Option<Identity>,
}

impl Connection {
    /// A connection that has just been opened.
    pub fn new(
        opening: Opening,
        socket: Socket,
        writer: Arc<Writer>,
        states: Arc<StateMetrics>,
    ) -> Self {
        Self {
            id: opening.id,
            source_ip: opening.source_ip,
            user_agent: opening.user_agent,
            times: Times::now(),
            socket,
            identity: Mutex::new(opening.identity),
            inner: Mutex::default(),
            wake: Notify::new(),
            writer,
            is_in_line: AtomicBool::new(false),
            states,
        }
    }

    /// The token is another one now, of the same consumer.
    pub fn identify(&self, identity: Option<Identity>) {
        // No code that holds the lock can panic half-way through a change.
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Whose token it was opened with; `None` where none was asked for.
    pub fn identity(&self) -> Option<Identity> {
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        identity.clone()
    }

    /// Who the fan is: by the token, else by the registration that is through.
    pub fn consumer(&self) -> Option<String> {
        let named = self.identity().and_then(|identity| identity.consumer_id);
        named.or_else(|| Some(self.lock().mailbox.consumer()?.as_str().to_owned()))
    }

    /// Puts a message where the connection's writer finds it.
    pub fn post(self: &Arc<Self>, frame: Frame) -> Result<(), PostError> {
        self.put(frame)?;
        if !self.is_in_line.swap(true, Ordering::AcqRel) {
            self.writer.enter(self.clone());
        }
        Ok(())
    }

    /// Writes a message here and now, as far as the socket takes it: for the connection's own task,
    /// which answers no faster than it writes.
    pub fn answer(&self, frame: Frame) -> Result<(), PostError> {
        self.put(frame)?;
        self.write();
        Ok(())
    }

    fn put(&self, frame: Frame) -> Result<(), PostError> {
        let is_state = matches!(frame.about(), About::State(_));
        let mut inner = self.lock();
        let put = match inner.ending {
            Some(_) => Err(PostError::Gone),
            None => inner.mailbox.put(frame),
        };
        if put == Err(PostError::Full) {
            inner.ending = Some(Ending::Closing(Closing::policy("too slow")));
        }
        drop(inner);
        if is_state {
            self.states.offered(&put);
        }
        if put == Err(PostError::Full) {
            self.wake.notify_one();
        }
        put.map(|_| ())
    }

    /// Writes what waits, as far as the socket takes it. Where it does not, the connection's task waits
    /// for it.
    pub fn write(&self) {
        // From here on whatever is posted enters the line again.
        self.is_in_line.store(false, Ordering::Release);
        let sent = self.socket.send(
            || self.take(),
            |frame| {
                frame.delivered();
                if matches!(frame.about(), About::State(_)) {
                    self.states.delivered.inc();
                }
                self.times.active();
                self.times.advances();
            },
            |sent| match sent {
                Sent::All => self.times.flows(),
                Sent::Blocked => {
                    if self.times.blocks() {
                        self.wake.notify_one();
                    }
                }
            },
        );
        if sent.is_err() {
            self.end(Ending::Broken);
        }
    }

    fn take(&self) -> Option<Frame> {
        let mut inner = self.lock();
        match inner.ending {
            Some(_) => None,
            None => inner.mailbox.take(),
        }
    }

    /// Asks the connection's task to close it; the first reason stands.
    pub fn close(&self, closing: Closing) {
        self.end(Ending::Closing(closing));
    }

    /// The same, for any reason.
    pub fn end(&self, ending: Ending) {
        self.lock().ending.get_or_insert(ending);
        self.wake.notify_one();
    }

    /// How it is to end, once it is.
    pub fn ending(&self) -> Option<Ending> {
        self.lock().ending.clone()
    }

    /// Nothing is written any more: counts what still waited.
    pub fn ended(&self) {
        let mut inner = self.lock();
        inner.ending.get_or_insert(Ending::Broken);
        let waited = inner.mailbox.empty();
        drop(inner);
        let begun = self.socket.abandon();
        let begun = begun.is_some_and(|frame| matches!(frame.about(), About::State(_)));
        self.states.closed.inc_by(waited as u64 + u64::from(begun));
    }

    /// Waits until its task has to look at it. Cancel safe.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// A registration is under way.
    pub fn registering(&self) {
        self.lock().mailbox.registering();
    }

    /// The fan is this consumer now.
    pub fn registered(&self, consumer: ConsumerId) {
        self.times.registrations.fetch_add(1, Ordering::Relaxed);
        let dropped = self.lock().mailbox.registered(consumer);
        self.states.stale.inc_by(dropped as u64);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that holds the lock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When things last happened to a connection, in milliseconds since it was opened.
#[derive(Debug)]
pub struct Times {
    /// When it was opened, by the machine's clock.
    pub opened_at: SystemTime,
    opened: Instant,
    active: AtomicU32,
    heard: AtomicU32,
    pinged: AtomicU32,
    registrations: AtomicU32,
    /// Since when the socket takes nothing; [`NOT`] while it does.
    blocked: AtomicU32,
}

/// No moment.
const NOT: u32 = u32::MAX;

impl Times {
    fn now() -> Self {
        Self {
            opened_at: SystemTime::now(),
            opened: Instant::now(),
            active: AtomicU32::new(0),
            heard: AtomicU32::new(0),
            pinged: AtomicU32::new(0),
            registrations: AtomicU32::new(0),
            blocked: AtomicU32::new(NOT),
        }
    }

    /// How old the connection is.
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    fn stamp(&self) -> u32 {
        // Connections live a day at most; beyond 49 the last moment stands.
        u32::try_from(self.age().as_millis()).unwrap_or(NOT - 1)
    }

    /// A message, or a ping of the fan's, went in or out.
    pub fn active(&self) {
        self.active.store(self.stamp(), Ordering::Relaxed);
    }

    /// Something came in.
    pub fn heard(&self) {
        self.heard.store(self.stamp(), Ordering::Relaxed);
    }

    /// The fan was asked whether it is there.
    pub fn pinged(&self) {
        self.pinged.store(self.stamp(), Ordering::Relaxed);
    }

    /// How many registrations are through.
    pub fn registrations(&self) -> u32 {
        self.registrations.load(Ordering::Relaxed)
    }

    /// The socket takes nothing more; says whether it did before.
    fn blocks(&self) -> bool {
        let stamp = self.stamp();
        let blocked =
            self.blocked
                .compare_exchange(NOT, stamp, Ordering::AcqRel, Ordering::Acquire);
        blocked.is_ok()
    }

    /// A frame went out whole: a fan who reads slowly is no fan who does not read.
    fn advances(&self) {
        if self.is_blocked() {
            self.blocked.store(self.stamp(), Ordering::Release);
        }
    }

    /// The socket took all there was.
    fn flows(&self) {
        self.blocked.store(NOT, Ordering::Release);
    }

    /// Whether the socket takes nothing at the moment.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire) != NOT
    }

    /// All of them.
    pub fn read(&self) -> Moments {
        let since =
            |moment: &AtomicU32| Duration::from_millis(moment.load(Ordering::Relaxed).into());
        Moments {
            now: self.age(),
            active: since(&self.active),
            heard: since(&self.heard),
            pinged: since(&self.pinged),
            is_registered: self.registrations() > 0,
            blocked: self.is_blocked().then(|| since(&self.blocked)),
        }
    }

    /// When a message last went in or out, by the machine's clock.
    pub fn last_active_at(&self) -> SystemTime {
        self.opened_at + self.read().active
    }
}

/// Moments of a connection, since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moments {
    /// Now.
    pub now: Duration,
    /// A message, or a ping of the fan's, last went in or out.
    pub active: Duration,
    /// Anything last came in.
    pub heard: Duration,
    /// The fan was last asked whether it is there.
    pub pinged: Duration,
    /// Whether it has registered.
    pub is_registered: bool,
    /// Since when its socket takes nothing, if it does not.
    pub blocked: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::SockRef;
    use tokio::{
        io::{AsyncReadExt, Interest},
        net::{TcpListener, TcpStream},
        task::JoinSet,
    };
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;
    use crate::{connections::writers::Writers, metrics::Metrics};

    const ROUNDS: usize = 5;
    const FRAMES: usize = 20;
    const TEXT_BYTES: usize = 100_000;
    /// Header of such a frame (RFC 6455, 5.2).
    const HEADER_BYTES: usize = 10;
    /// The socket keeps less than a frame.
    const BUFFER_BYTES: usize = 16 << 10;

    async fn pair(writers: &Writers) -> (Arc<Connection>, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (fan, accepted) = tokio::join!(connecting, listener.accept());
        let (fan, (stream, address)) = (fan.unwrap(), accepted.unwrap());
        SockRef::from(&stream)
            .set_send_buffer_size(BUFFER_BYTES)
            .unwrap();
        let opening = Opening {
            id: ConnectionId::new("connection").unwrap(),
            source_ip: address.ip(),
            user_agent: None,
            identity: None,
        };
        let socket = Socket::new(stream, None, Vec::new());
        let states = Metrics::new().0.states;
        let connection = Connection::new(opening, socket, writers.assign(), states);
        (Arc::new(connection), fan)
    }

    /// As the connection's task does: waits for a socket that is full.
    async fn unblock(connection: Arc<Connection>) {
        loop {
            match connection.times.is_blocked() {
                true => {
                    connection.socket.ready(Interest::WRITABLE).await.unwrap();
                    connection.write();
                }
                false => connection.woken().await,
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_fan_who_reads_slowly_is_written_everything_by_whoever_writes() {
        let writers = Writers::new();
        let (tracker, stopping) = (TaskTracker::new(), CancellationToken::new());
        writers.run(&tracker, &stopping);
        for round in 0..ROUNDS {
            let (connection, mut fan) = pair(&writers).await;
            let mut tasks = JoinSet::new();
            tasks.spawn(unblock(connection.clone()));
            tasks.spawn(async move {
                for _ in 0..FRAMES {
                    let frame = Frame::reply("x".repeat(TEXT_BYTES));
                    connection.post(frame).unwrap();
                    tokio::time::sleep(Duration::from_micros(rand::random_range(0..300))).await;
                }
                std::future::pending::<()>().await;
            });
            let mut all = vec![0; FRAMES * (HEADER_BYTES + TEXT_BYTES)];
            let read = fan.read_exact(&mut all);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await;
            assert!(read.is_ok_and(|read| read.is_ok()), "round {round} stalls");
        }
        stopping.cancel();
    }
}
