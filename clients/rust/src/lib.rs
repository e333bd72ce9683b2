//! The typed client of Touchline's gRPC services. Deliberately without retries of single calls: an
//! [`Error`] says whether asking again helps, and only the caller knows whether it still matters.
//! A [`Client::watch`] is different: it goes on for hours, so it reconnects by itself.
//!
//! ```no_run
//! use futures::StreamExt;
//! use touchline_client::{Client, Situation, Watched};
//!
//! # async fn example() -> Result<(), touchline_client::Error> {
//! let client = Client::connect("http://127.0.0.1:50051")?;
//!
//! // What is this consumer shown right now?
//! let situation = Situation::Event("world-cup-final-2022".to_owned());
//! let set = client.get_components("consumer-1", situation).await?;
//! for component in &set.components {
//!     println!("{}: {}", component.item_type, component.item_id);
//! }
//!
//! // And after each change, until the event's row is deleted.
//! let mut watch = client.watch("world-cup-final-2022", Some("consumer-1"));
//! while let Some(watched) = watch.next().await {
//!     match watched? {
//!         Watched::State { state, component_set } => println!("{state:?} {component_set:?}"),
//!         Watched::Interrupted { error, retry_in } => println!("{error}; again in {retry_in:?}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Where the server has several replicas behind one name, each consumer's calls go to one of them:
//! [`replicas`].
//!
//! What one process is doing, and how it is administered: [`Admin`].
//!
//! In reading order: [`Client`], [`Watched`], [`Error`], [`replicas`]. The messages are those of
//! [`touchline_proto::v1`], as the services send them.

mod admin;
mod client;
mod error;
pub mod replicas;
mod watch;

pub use admin::Admin;
pub use client::{BatchAnswer, Client, Deadlines, Share, Situation};
pub use error::{Error, Violation};
/// What calls present: a token, a certificate.
pub use touchline_auth::{CallerArgs, InvalidFlag, caller::Caller};
/// The messages of package `touchline.v1`.
pub use touchline_proto::v1 as proto;
pub use watch::Watched;
