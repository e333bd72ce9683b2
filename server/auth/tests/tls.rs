//! TLS and mutual TLS of a gRPC port, both ways, with files that change under them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::StreamExt;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use touchline_auth::{
    AuthArgs, CallerArgs, Scope,
    args::Open,
    caller::Caller,
    grpc::{self, AuthLayer},
    tls::Accepted,
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Authority::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn authority(&self, name: &str, authority: &Authority) {
        fs::write(self.path(name), authority.pem()).unwrap();
    }

    /// `NAME.pem` and `NAME.key`.
    fn certificate(&self, name: &str, authority: &Authority) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
    }
}

/// A port with health, which needs an identity here.
struct Port {
    url: http::Uri,
    _serving: JoinSet<()>,
}

impl Port {
    async fn start(args: AuthArgs) -> Self {
        args.validate().unwrap();
        let tls = Arc::new(args.server_tls().unwrap().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let incoming = incoming.map(move |stream| stream.map(|stream| tls.accept(stream)));
        let (_, health) = tonic_health::server::health_reporter();
        let layer = AuthLayer::new(&args, None, grpc::common);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let server = tonic::transport::Server::builder()
                .layer(layer)
                .add_service(health);
            let _ = server.serve_with_incoming(incoming).await;
        });
        Self {
            url: format!("https://localhost:{port}").parse().unwrap(),
            _serving: serving,
        }
    }

    async fn ask(&self, caller: &Caller) -> Result<(), tonic::Status> {
        let channel = caller
            .channel(&self.url, None, |endpoint| endpoint)
            .unwrap();
        let asking = HealthClient::new(channel);
        let answer = { asking }
            .check(Request::new(HealthCheckRequest::default()))
            .await;
        answer.map(drop)
    }
}

fn port_args(files: &Files) -> AuthArgs {
    AuthArgs {
        tls_certificate: Some(files.path("server.pem")),
        tls_key: Some(files.path("server.key")),
        auth_open: vec![Open::None],
        ..AuthArgs::default()
    }
}

fn caller(ca: PathBuf, client: Option<(PathBuf, PathBuf)>) -> Caller {
    let (client_certificate, client_key) = client.unzip();
    let args = CallerArgs {
        ca_file: Some(ca),
        client_certificate,
        client_key,
        ..CallerArgs::default()
    };
    Caller::open(&args).unwrap()
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority_alone() {
    let (files, ours, strangers) = (Files::new(), authority(), authority());
    files.authority("ours.pem", &ours);
    files.authority("strangers.pem", &strangers);
    files.certificate("server", &ours);
    let port = Port::start(port_args(&files)).await;
    port.ask(&caller(files.path("ours.pem"), None))
        .await
        .unwrap();
    let stranger = port
        .ask(&caller(files.path("strangers.pem"), None))
        .await
        .unwrap_err();
    assert_eq!(stranger.code(), Code::Unavailable);
    let system = port.ask(&Caller::default()).await.unwrap_err();
    assert_eq!(system.code(), Code::Unavailable);
}

#[tokio::test]
async fn who_is_called_at_an_address_proves_to_be_the_name_that_was_given() {
    let (files, ours) = (Files::new(), authority());
    files.authority("ours.pem", &ours);
    files.certificate("server", &ours);
    let named = |name: Option<&str>| {
        let args = CallerArgs {
            ca_file: Some(files.path("ours.pem")),
            tls_name: name.map(str::to_owned),
            ..CallerArgs::default()
        };
        Caller::open(&args)
    };
    let mut port = Port::start(port_args(&files)).await;
    // Who is called by a name has to have that one.
    port.ask(&named(Some("elsewhere")).unwrap()).await.unwrap();
    let at = port.url.to_string().replace("localhost", "127.0.0.1");
    port.url = at.parse().unwrap();
    port.ask(&named(Some("localhost")).unwrap()).await.unwrap();
    for name in [None, Some("elsewhere")] {
        let refused = port.ask(&named(name).unwrap()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
    }
    let error = named(Some("no name")).unwrap_err().to_string();
    assert!(error.starts_with("--tls-name no name: "), "{error}");
}

#[tokio::test]
async fn with_mutual_tls_a_caller_needs_a_certificate_and_has_the_scopes_given_to_it() {
    let (files, ours, strangers) = (Files::new(), authority(), authority());
    files.authority("ours.pem", &ours);
    files.certificate("server", &ours);
    files.certificate("client", &ours);
    files.certificate("stranger", &strangers);
    let port = Port::start(AuthArgs {
        tls_client_ca: Some(files.path("ours.pem")),
        tls_client_scopes: vec![Scope::EventsRead],
        ..port_args(&files)
    })
    .await;
    let pair = |name: &str| {
        let [certificate, key] = ["pem", "key"].map(|kind| files.path(&format!("{name}.{kind}")));
        Some((certificate, key))
    };
    let ca = || files.path("ours.pem");
    port.ask(&caller(ca(), pair("client"))).await.unwrap();
    for refused in [None, pair("stranger")] {
        let status = port.ask(&caller(ca(), refused)).await.unwrap_err();
        assert_ne!(status.code(), Code::Ok);
    }
}

#[tokio::test]
async fn files_that_change_are_read_again_by_both_sides() {
    let (files, before, after) = (Files::new(), authority(), authority());
    files.authority("ca.pem", &before);
    files.certificate("server", &before);
    let port = Port::start(port_args(&files)).await;
    let caller = caller(files.path("ca.pem"), None);
    port.ask(&caller).await.unwrap();
    files.certificate("server", &after);
    files.authority("ca.pem", &after);
    // A caller who believes the new authority only shows that both have read the new files.
    let fresh = self::caller(files.path("ca.pem"), None);
    let renewed = async {
        while port.ask(&fresh).await.is_err() || port.ask(&caller).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), renewed)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_caller_who_never_shakes_hands_holds_up_nobody() {
    let (files, ours) = (Files::new(), authority());
    files.authority("ours.pem", &ours);
    files.certificate("server", &ours);
    let port = Port::start(port_args(&files)).await;
    let address = ("127.0.0.1", port.url.port_u16().unwrap());
    let silent = tokio::net::TcpStream::connect(address).await.unwrap();
    port.ask(&caller(files.path("ours.pem"), None))
        .await
        .unwrap();
    drop(silent);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_before_anything_listens() {
    let (files, ours, others) = (Files::new(), authority(), authority());
    files.certificate("server", &ours);
    files.certificate("other", &others);
    let args = AuthArgs {
        tls_key: Some(files.path("other.key")),
        ..port_args(&files)
    };
    let error = args.server_tls().unwrap_err().to_string();
    assert!(
        error.starts_with("--tls-certificate") && error.contains("do not fit"),
        "{error}"
    );
    fs::write(files.path("server.pem"), "no certificate").unwrap();
    let error = port_args(&files).server_tls().unwrap_err().to_string();
    assert!(error.contains("is no PEM certificate"), "{error}");
    let _: fn(tokio::net::TcpStream) -> Accepted = Accepted::plain;
}
