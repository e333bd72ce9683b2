//! A DynamoDB in this process, behind its real wire protocol on loopback: `dynoxide`, with what it
//! lacks mended around it (an index on the stream's records, their trimming, TTL sweeps).

use std::{net::SocketAddr, path::PathBuf};

use crate::Result;

/// Where an embedded DynamoDB keeps its data.
#[derive(Debug, Clone)]
pub enum Place {
    /// In memory: gone when it stops.
    Memory,
    /// In this folder, which only one process can use at a time.
    Folder(PathBuf),
}

/// A running embedded DynamoDB. Dropping it stops it; [`Embedded::stop`] waits.
#[derive(Debug)]
pub struct Embedded {
    // to be written
}

impl Embedded {
    /// Opens the data and serves it on `listen` (port 0: any free one).
    pub async fn start(place: Place, listen: SocketAddr) -> Result<Self> {
        let _ = (place, listen);
        todo!()
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        todo!()
    }

    /// Ends serving and closes the data.
    pub async fn stop(self) {
        todo!()
    }
}
