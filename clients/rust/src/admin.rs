//! `AdminService`: one process of an installation, as its operators reach it. Unlike [`Client`](crate::Client)
//! it never passes on to another replica: what is asked concerns the one that is named.

use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use touchline_auth::caller::{Caller, CallerChannel};
use touchline_proto::v1::{self as proto, admin_service_client::AdminServiceClient};

use crate::{
    Deadlines, Error,
    client::{configure, timed},
};

/// A connection to one process, made when the first call needs it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    service: AdminServiceClient<CallerChannel>,
    health: HealthClient<CallerChannel>,
    deadlines: Deadlines,
}

impl Admin {
    /// The process at `endpoint`, such as `http://127.0.0.1:50051`, whose calls present what `caller`
    /// has. Must be called in a tokio runtime; makes no connection yet. [`Error::Endpoint`] if it is
    /// no address.
    pub fn connect_as(endpoint: &str, caller: &Caller) -> Result<Self, Error> {
        let parsed = Endpoint::from_shared(endpoint.to_owned());
        let channel = parsed.and_then(|parsed| caller.channel(parsed.uri(), None, configure));
        let channel = channel.map_err(|source| Error::Endpoint {
            endpoint: endpoint.to_owned(),
            source,
        })?;
        Ok(Self {
            service: AdminServiceClient::new(channel.clone()),
            health: HealthClient::new(channel),
            deadlines: Deadlines::default(),
        })
    }

    /// Whether it serves, by gRPC's health protocol: for callers without the scope `admin`.
    pub async fn serves(&self) -> Result<bool, Error> {
        let mut health = self.health.clone();
        let ask = async |request| health.check(request).await;
        let answer = timed(self.deadlines.call, HealthCheckRequest::default(), ask).await?;
        Ok(answer.status() == ServingStatus::Serving)
    }

    /// What it is doing.
    pub async fn status(&self) -> Result<proto::GetStatusResponse, Error> {
        let mut service = self.service.clone();
        let request = proto::GetStatusRequest {};
        let ask = async |request| service.get_status(request).await;
        Ok(timed(self.deadlines.call, request, ask).await?)
    }

    /// Ends it in order.
    pub async fn drain(&self) -> Result<(), Error> {
        let mut service = self.service.clone();
        let ask = async |request| service.drain(request).await;
        timed(self.deadlines.call, proto::DrainRequest {}, ask).await?;
        Ok(())
    }

    /// Lets it take the moderation policies as their file holds them; says whether others are in force
    /// now.
    pub async fn reload_policies(&self) -> Result<bool, Error> {
        let mut service = self.service.clone();
        let request = proto::ReloadPoliciesRequest {};
        let ask = async |request| service.reload_policies(request).await;
        Ok(timed(self.deadlines.call, request, ask).await?.changed)
    }

    /// Changes what it logs; says what that was before.
    pub async fn set_log(&self, log: &str) -> Result<String, Error> {
        let mut service = self.service.clone();
        let log = log.to_owned();
        let ask = async |request| service.set_log(request).await;
        let answer = timed(self.deadlines.call, proto::SetLogRequest { log }, ask);
        Ok(answer.await?.before)
    }
}
