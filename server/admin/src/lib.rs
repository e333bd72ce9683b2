//! `AdminService`: what a replica tells its operators about itself, and does for them. What it is doing
//! is for each process to say, by its [`Role`]; nothing here knows events, fans or rankings.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use touchline_auth::{Identity, tls::Peer};
use touchline_proto::v1::{
    DrainRequest, DrainResponse, GetStatusRequest, GetStatusResponse, ReloadPoliciesRequest,
    ReloadPoliciesResponse, SetLogRequest, SetLogResponse, admin_service_server::AdminService,
};
pub use touchline_proto::v1::{
    admin_service_server::AdminServiceServer, get_status_response::Role as RoleStatus,
};
use touchline_runtime::{log, observe::Ready};

/// Longest filter of the log, in characters.
const LOG_MAX: usize = 1_000;
/// Requests are small.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// `ErrorInfo.domain` of every error.
const DOMAIN: &str = "touchline";

/// What a process is for.
pub trait Role: Send + Sync + 'static {
    /// What it is doing.
    fn status(&self) -> impl Future<Output = RoleStatus> + Send;

    /// Takes the moderation policies as their file holds them; says whether others are in force now.
    fn reload_policies(&self) -> impl Future<Output = Result<bool, Reload>> + Send;
}

/// Why policies were not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// This process has none.
    Absent,
    /// Theirs is no file that can be used; what is wrong with it.
    Invalid(String),
}

/// One replica.
pub struct Admin<R> {
    /// Its process's version.
    pub version: &'static str,
    /// When it started.
    pub started_at: SystemTime,
    /// Whether it is ready for what it is for.
    pub ready: Ready,
    /// Cancelled, it ends in order.
    pub shutdown: CancellationToken,
    /// What it is for.
    pub role: R,
}

impl<R> fmt::Debug for Admin<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut admin = formatter.debug_struct("Admin");
        admin
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl<R: Role> Admin<R> {
    /// As a service that a gRPC port serves.
    pub fn service(self) -> AdminServiceServer<Self> {
        AdminServiceServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl<R: Role> AdminService for Admin<R> {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        check(&request)?;
        let not_ready = (self.ready)().err().unwrap_or_default();
        Ok(Response::new(GetStatusResponse {
            version: self.version.to_owned(),
            started_at: Some(self.started_at.into()),
            not_ready: not_ready.to_owned(),
            log: log::current(),
            role: Some(self.role.status().await),
        }))
    }

    async fn drain(
        &self,
        request: Request<DrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        check(&request)?;
        tracing::info!("draining, as an operator asked");
        self.shutdown.cancel();
        Ok(Response::new(DrainResponse {}))
    }

    async fn reload_policies(
        &self,
        request: Request<ReloadPoliciesRequest>,
    ) -> Result<Response<ReloadPoliciesResponse>, Status> {
        check(&request)?;
        match self.role.reload_policies().await {
            Ok(changed) => Ok(Response::new(ReloadPoliciesResponse { changed })),
            Err(Reload::Absent) => {
                let message = "there are no policies here; --policies of a server names their file";
                Err(refused(Code::Unimplemented, "NO_POLICIES", message))
            }
            Err(Reload::Invalid(problem)) => {
                let message = format!("{problem}; the last good policies stay");
                Err(refused(
                    Code::FailedPrecondition,
                    "INVALID_POLICIES",
                    message,
                ))
            }
        }
    }

    async fn set_log(
        &self,
        request: Request<SetLogRequest>,
    ) -> Result<Response<SetLogResponse>, Status> {
        check(&request)?;
        let filter = request.into_inner().log;
        if filter.is_empty() || filter.chars().count() > LOG_MAX {
            let accepted = "1 to 1000 characters are accepted, such as info,touchline_store=debug";
            return Err(invalid_log(accepted));
        }
        let before = log::current();
        log::change(&filter).map_err(|problem| invalid_log(&problem))?;
        tracing::info!(%before, now = filter, "an operator changed what is logged");
        Ok(Response::new(SetLogResponse { before }))
    }
}

/// Who may call at all was looked at where authentication is on. Without it whoever reaches the port
/// may ask what it serves, but only this machine may touch the process itself.
fn check<T>(request: &Request<T>) -> Result<(), Status> {
    let is_identified = request.extensions().get::<Identity>().is_some();
    let is_local = |peer: &Peer| {
        let address = peer.address();
        address.is_some_and(|address| address.ip().to_canonical().is_loopback())
    };
    if is_identified || request.extensions().get::<Peer>().is_some_and(is_local) {
        return Ok(());
    }
    Err(refused(
        Code::PermissionDenied,
        "LOCAL_ONLY",
        "without authentication only callers on this machine may administer it; a port forwarded to \
         its pod is one",
    ))
}

fn invalid_log(problem: &str) -> Status {
    let mut details = ErrorDetails::with_bad_request_violation("log", problem);
    details.set_error_info("INVALID_REQUEST", DOMAIN, HashMap::new());
    Status::with_error_details(Code::InvalidArgument, format!("log: {problem}"), details)
}

fn refused(code: Code, reason: &str, message: impl Into<Cow<'static, str>>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, message.into(), details)
}

/// A time span as a message holds it.
pub fn span(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).expect("it is below a thousand million"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use touchline_auth::{Scope, Scopes};
    use touchline_proto::v1::PushStatus;

    use super::*;

    struct Nothing;

    impl Role for Nothing {
        async fn status(&self) -> RoleStatus {
            RoleStatus::Push(PushStatus::default())
        }

        async fn reload_policies(&self) -> Result<bool, Reload> {
            Err(Reload::Invalid("p.toml: is empty".to_owned()))
        }
    }

    fn admin() -> Admin<Nothing> {
        Admin {
            version: "1.2.3",
            started_at: SystemTime::UNIX_EPOCH,
            ready: Arc::new(|| Err("the kettle is cold")),
            shutdown: CancellationToken::new(),
            role: Nothing,
        }
    }

    fn known<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Identity {
            consumer_id: None,
            scopes: Scopes::of(&[Scope::Admin]),
            expires_at: None,
        });
        request
    }

    #[tokio::test]
    async fn who_is_not_known_and_not_on_this_machine_does_nothing() {
        let admin = admin();
        let refused = admin
            .drain(Request::new(DrainRequest {}))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(!admin.shutdown.is_cancelled());
        let asked = [
            admin
                .get_status(Request::new(GetStatusRequest {}))
                .await
                .map(drop),
            admin
                .set_log(Request::new(SetLogRequest::default()))
                .await
                .map(drop),
            admin
                .reload_policies(Request::new(ReloadPoliciesRequest {}))
                .await
                .map(drop),
        ];
        for refused in asked {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied);
            let info = refused.get_details_error_info().unwrap();
            assert_eq!(info.reason, "LOCAL_ONLY");
        }
        admin.drain(known(DrainRequest {})).await.unwrap();
        assert!(admin.shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn a_replica_that_is_not_ready_says_why() {
        let status = admin().get_status(known(GetStatusRequest {})).await;
        let status = status.unwrap().into_inner();
        assert_eq!(status.not_ready, "the kettle is cold");
        assert_eq!(status.version, "1.2.3");
    }

    #[tokio::test]
    async fn policies_that_cannot_be_used_are_named_with_what_is_wrong() {
        let request = known(ReloadPoliciesRequest {});
        let refused = admin().reload_policies(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(
            refused.message(),
            "p.toml: is empty; the last good policies stay"
        );
    }
}
