//! Sends every text message back over the gateway's own WebSocket layer, for conformance suites that
//! need an echo: the gateway itself answers what a fan says, and never repeats it.
//!
//! It knows nobody, so it listens on loopback only.

use std::net::SocketAddr;

use clap::Parser;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};
use tokio_util::task::TaskTracker;

mod wire;

/// Sends every text message back; what a fan may not send closes the connection as at the gateway.
#[derive(Debug, Parser)]
struct Args {
    /// Address to listen on, loopback only. Port 0: a free one.
    #[arg(long, default_value = "127.0.0.1:8084")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    anyhow::ensure!(
        args.listen.ip().is_loopback(),
        "--listen {} is not a loopback address",
        args.listen
    );
    let listener = TcpListener::bind(args.listen).await?;
    println!("ws://{}", listener.local_addr()?);
    let mut terminated = signal(SignalKind::terminate())?;
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            _ = terminated.recv() => return Ok(()),
        };
        let (stream, _) = accepted?;
        connections.spawn(echo(stream));
    }
}

/// Until one side closes the connection or breaks it.
async fn echo(stream: TcpStream) {
    let Some(mut socket) = wire::Socket::accept(stream).await else {
        return;
    };
    while let Some(text) = socket.receive().await {
        if socket.send(text).await.is_none() {
            return;
        }
    }
}
