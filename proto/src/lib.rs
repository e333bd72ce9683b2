//! The gRPC contract of Touchline, generated from `touchline/v1/*.proto`.
//!
//! Deliberately nothing else: conversions between these messages and the domain types live with
//! whoever serves or calls them.

pub mod encoded;
pub mod received;

/// Package `touchline.v1`.
pub mod v1 {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::pedantic,
        reason = "generated code"
    )]
    tonic::include_proto!("touchline.v1");

    /// The compiled file descriptors, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/touchline_descriptors.bin"));
}

/// `ComponentService` for a server: the requests of [`v1`], and answers of [`encoded`] parts. On the
/// wire there is no difference.
pub mod serving {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::pedantic,
        reason = "generated code"
    )]
    include!(concat!(env!("OUT_DIR"), "/serving/touchline.v1.rs"));
}
