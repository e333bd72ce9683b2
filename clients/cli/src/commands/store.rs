//! `touchline store`: the embedded DynamoDB alone, for services that run as processes or pods of their
//! own where there is no AWS. Makes no table: whoever uses it does.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use touchline_store::embedded::{Embedded, Place};

use crate::{Error, args::Format, output};

/// Flags of `touchline store`.
#[derive(Debug, Args)]
#[command(after_help = "\
It speaks DynamoDB's protocol and that of its Streams, and knows no callers: whoever reaches it reads
and writes everything. One process holds a folder at a time. For trials, not for production: on AWS it
is DynamoDB.

Examples:
  touchline store                                             data in ./.touchline
  touchline store --memory --listen 0.0.0.0:8000 --insecure   for the pods of a trial
  touchline tables create --dynamodb-endpoint http://127.0.0.1:8000")]
pub struct StoreCommandArgs {
    /// Address that it listens on; port 0 takes any free one
    #[arg(
        long,
        env = "TOUCHLINE_STORE_LISTEN",
        default_value = "127.0.0.1:8000",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// Folder of the data; made when absent, used by one process at a time
    #[arg(
        long,
        env = "TOUCHLINE_DATA_DIR",
        default_value = ".touchline",
        value_name = "FOLDER"
    )]
    pub data_dir: PathBuf,
    /// Keep everything in memory: gone at the end
    #[arg(long, env = "TOUCHLINE_MEMORY")]
    pub memory: bool,
    /// Listen beyond this machine although callers are not authenticated
    #[arg(long, env = "TOUCHLINE_INSECURE")]
    pub insecure: bool,
    #[command(flatten)]
    /// How it looks
    pub format: Format,
}

/// Serves until `shutdown`.
pub async fn run(args: StoreCommandArgs, shutdown: CancellationToken) -> Result<(), Error> {
    super::check_listen(args.listen, args.insecure)?;
    let place = match args.memory {
        true => Place::Memory,
        false => Place::Folder(args.data_dir.clone()),
    };
    let embedded = Embedded::start(place, args.listen).await?;
    let endpoint = format!("http://{}", embedded.address());
    match args.format.json {
        true => output::line(json!({ "dynamodb": endpoint }))?,
        false => output::line(format_args!("DynamoDB at {endpoint}; Ctrl-C ends it"))?,
    }
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = embedded.ended() => {
            let part = "the embedded DynamoDB";
            return Err(Error::PartEnded { part, ending: None });
        }
    }
    embedded.stop().await;
    Ok(())
}
