//! Where messages for a connection are posted: the port, and which of its two implementations a
//! connection belongs to. Does not know what a message says.

use std::{fmt, sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;
use touchline_store::{
    ids::{ConnectionId, ConsumerId, EventId},
    position::Position,
};

pub mod api_gateway;
pub mod closing;
pub mod connection;
pub mod delivery;
pub mod local;
pub mod mailbox;
pub mod socket;
pub mod writers;

use api_gateway::ApiGateway;
use delivery::Mark;
use local::Local;

use crate::leader::lease::Tenure;

/// Posts messages to connections, wherever these are held.
#[async_trait]
pub trait Connections: fmt::Debug + Send + Sync {
    /// Hands a message to the connection's front. `endpoint` is what the session's row names.
    /// Posts of one connection are made one after another.
    async fn post(
        &self,
        connection: &ConnectionId,
        endpoint: Option<&str>,
        frame: Frame,
        limits: &Limits,
    ) -> Result<(), PostError>;

    /// Closes the connection.
    async fn close(
        &self,
        connection: &ConnectionId,
        endpoint: Option<&str>,
    ) -> Result<(), PostError>;
}

/// How long a post is wanted.
#[derive(Debug, Clone)]
pub struct Limits {
    /// When trying ends.
    pub deadline: Instant,
    /// Cancelled when a newer state makes the post pointless; one that is under way is finished.
    pub superseded: CancellationToken,
    /// Whether this process may post at all.
    pub tenure: Tenure,
}

impl Limits {
    /// Looked at right before each post.
    pub fn allow(&self) -> Result<(), PostError> {
        if self.superseded.is_cancelled() {
            return Err(PostError::Superseded);
        }
        match self.tenure.holds() {
            true => Ok(()),
            false => Err(PostError::Lapsed),
        }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The connection is closed; its session can go.
    #[error("the connection is gone")]
    Gone,
    /// The fan does not read; the front closes the connection.
    #[error("the connection takes no more messages")]
    Full,
    /// The front asked for less until the deadline passed.
    #[error("the front throttles")]
    Throttled,
    /// The front refuses this message; trying again does not help.
    #[error("the front refuses: {0}")]
    Refused(String),
    /// The front could not be reached, or failed, until the deadline passed.
    #[error("the front is not available: {0}")]
    Unavailable(String),
    /// Something newer is on its way.
    #[error("something newer replaced the message")]
    Superseded,
    /// The lease has ended, or may have: whoever leads now posts.
    #[error("the lease has lapsed")]
    Lapsed,
}

/// One text message for one connection. Cloning shares the text.
#[derive(Debug, Clone)]
pub struct Frame {
    text: Utf8Bytes,
    about: About,
    mark: Option<Mark>,
}

/// What decides over a message that still waits when another comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// Sent in its turn, and never replaced.
    Reply,
    /// The state of an event for one consumer: newer replaces older.
    State(StateOf),
}

/// Whose state of what a message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateOf {
    /// The event.
    pub event_id: EventId,
    /// The consumer that the message is for; no other ever receives it.
    pub consumer_id: ConsumerId,
    /// Where in the event's history.
    pub position: Option<Position>,
    /// Whether it answers a registration: such a message never replaces a newer state, but repeats
    /// an equal one.
    pub answers: bool,
}

impl Frame {
    /// A message that is sent in its turn.
    pub fn reply(text: impl Into<Utf8Bytes>) -> Self {
        Self {
            text: text.into(),
            about: About::Reply,
            mark: None,
        }
    }

    /// A message with the state of an event.
    pub fn state(text: Utf8Bytes, of: StateOf) -> Self {
        Self {
            text,
            about: About::State(of),
            mark: None,
        }
    }

    /// The same message, whose way to the socket is measured.
    pub fn measured(self, mark: Mark) -> Self {
        Self {
            mark: Some(mark),
            ..self
        }
    }

    /// What it says.
    pub fn text(&self) -> &Utf8Bytes {
        &self.text
    }

    /// What it says, as bytes, without a copy.
    pub fn bytes(&self) -> Bytes {
        self.text.clone().into()
    }

    /// What decides over it.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Says that the front has it now.
    pub fn delivered(&self) {
        if let Some(mark) = &self.mark {
            mark.delivered(Instant::now());
        }
    }
}

/// The fronts that this process can reach: its own, and any that speaks API Gateway's protocol.
#[derive(Debug)]
pub struct Fronts {
    own: Option<(String, Arc<Local>)>,
    api_gateway: Arc<ApiGateway>,
}

impl Fronts {
    /// `own`: this process's management URL, as its session rows name it, and its registry.
    pub fn new(own: Option<(String, Arc<Local>)>, api_gateway: Arc<ApiGateway>) -> Self {
        Self { own, api_gateway }
    }

    /// A row that names no endpoint belongs to the configured front: the one given by
    /// `--api-gateway-endpoint`, else this process's own.
    fn front(&self, endpoint: Option<&str>) -> &dyn Connections {
        match (&self.own, endpoint) {
            (Some((own, local)), Some(endpoint)) if own == endpoint => local.as_ref(),
            (Some((_, local)), None) if !self.api_gateway.has_default() => local.as_ref(),
            _ => self.api_gateway.as_ref(),
        }
    }
}

#[async_trait]
impl Connections for Fronts {
    async fn post(
        &self,
        connection: &ConnectionId,
        endpoint: Option<&str>,
        frame: Frame,
        limits: &Limits,
    ) -> Result<(), PostError> {
        self.front(endpoint)
            .post(connection, endpoint, frame, limits)
            .await
    }

    async fn close(
        &self,
        connection: &ConnectionId,
        endpoint: Option<&str>,
    ) -> Result<(), PostError> {
        self.front(endpoint).close(connection, endpoint).await
    }
}
