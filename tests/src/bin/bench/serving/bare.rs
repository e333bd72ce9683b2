//! The bare thing: a tonic server of the same two methods that has nothing around its calls, and sends
//! what it was given, already encoded. It decides nothing.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use prost::{Message, bytes::Bytes};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    process::{Child, ChildStdin, Command},
    sync::watch,
};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
    transport::{Server, server::TcpIncoming},
};
use touchline_client::proto;

use super::{
    raw::{GET_COMPONENTS, Raw, SERVICE, WATCH_EVENT},
    script::Script,
};
use crate::system::{DEADLINE, cpu_of};

/// Streams of a connection: hyper's default of 200 is fewer than a connection has watchers here.
const STREAMS_MAX: u32 = 100_000;

/// What a bare server sends.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File of a script
    #[arg(long)]
    script: PathBuf,
}

/// The line by which the process says where it serves.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    url: String,
}

/// Serves; each line on standard input is the number of the state that streams are told of. Until
/// standard input ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let script = Script::decode(&*std::fs::read(args.script)?)?;
    let consumers = script.consumers.into_iter();
    let consumers = consumers.map(|recorded| {
        let answers = Answers {
            call: recorded.call,
            watch: recorded.watch.into(),
        };
        (recorded.consumer_id, answers)
    });
    let state = watch::Sender::new(0);
    let bare = Answering {
        consumers: Arc::new(consumers.collect()),
        state: state.subscribe(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    println!("{}", serde_json::to_string(&Ready { url })?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().max_concurrent_streams(STREAMS_MAX);
    let mut server = server.clone();
    let serving = server.add_service(bare).serve_with_incoming(incoming);
    let told = async {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await? {
            state.send_replace(line.parse()?);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        served = serving => Ok(served?),
        told = told => told,
    }
}

/// One consumer's.
#[derive(Debug, Clone)]
struct Answers {
    call: Bytes,
    watch: Arc<[Bytes]>,
}

/// The service, as tonic's generated code is shaped.
#[derive(Debug, Clone)]
struct Answering {
    consumers: Arc<HashMap<String, Answers>>,
    state: watch::Receiver<usize>,
}

impl Answering {
    fn answers(&self, consumer_id: &str) -> Result<&Answers, Status> {
        let answers = self.consumers.get(consumer_id);
        answers.ok_or_else(|| Status::not_found("no such consumer"))
    }
}

impl NamedService for Answering {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for Answering {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let bare = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw);
            Ok(match request.uri().path() {
                GET_COMPONENTS => grpc.unary(GetComponents(bare), request).await,
                WATCH_EVENT => grpc.server_streaming(WatchEvent(bare), request).await,
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

struct GetComponents(Answering);

impl UnaryService<Bytes> for GetComponents {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let bare = self.0.clone();
        Box::pin(async move {
            let request: proto::GetComponentsRequest = decoded(request)?;
            let answers = bare.answers(&request.consumer_id)?;
            Ok(Response::new(answers.call.clone()))
        })
    }
}

struct WatchEvent(Answering);

impl ServerStreamingService<Bytes> for WatchEvent {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let bare = self.0.clone();
        Box::pin(async move {
            let request: proto::WatchEventRequest = decoded(request)?;
            let messages = bare.answers(&request.consumer_id)?.watch.clone();
            let mut state = bare.state;
            state.mark_changed();
            let stream = stream::unfold((state, messages), |(mut state, messages)| async move {
                state.changed().await.ok()?;
                let number = *state.borrow_and_update();
                let message = messages.get(number).cloned();
                let message = message.ok_or_else(|| Status::not_found("no such state"));
                Some((message, (state, messages)))
            });
            Ok(Response::new(stream.boxed()))
        })
    }
}

fn decoded<M: Message + Default>(request: Request<Bytes>) -> Result<M, Status> {
    M::decode(request.into_inner()).map_err(|error| Status::internal(error.to_string()))
}

/// The process; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Bare {
    url: String,
    pid: u32,
    stdin: ChildStdin,
    _child: Child,
    _folder: TempDir,
}

impl Bare {
    /// Starts it and waits until it serves.
    pub(super) async fn start(script: &Script) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("script");
        std::fs::write(&path, script.encode_to_vec())?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("bare")
            .arg("--script")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await;
        let line = line.context("the bare server does not start")??;
        let Ready { url } = serde_json::from_str(&line.context("the bare server ended")?)?;
        Ok(Self {
            url,
            pid: child.id().context("it has not ended")?,
            stdin: child.stdin.take().context("standard input is piped")?,
            _child: child,
            _folder: folder,
        })
    }

    /// Where it serves.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Processor time that it has used so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid)
    }

    /// Lets it tell its streams of a state.
    pub(super) async fn change(&mut self, number: usize) -> Result<()> {
        self.stdin
            .write_all(format!("{number}\n").as_bytes())
            .await?;
        Ok(self.stdin.flush().await?)
    }
}
