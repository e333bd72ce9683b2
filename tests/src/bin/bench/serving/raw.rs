//! gRPC messages as the bytes that they are. Encodes and decodes nothing.

use prost::bytes::{Buf, BufMut, Bytes};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};

/// Name of the service.
pub(super) const SERVICE: &str = "touchline.v1.ComponentService";
/// Path of its method GetComponents.
pub(super) const GET_COMPONENTS: &str = "/touchline.v1.ComponentService/GetComponents";
/// Path of its method WatchEvent.
pub(super) const WATCH_EVENT: &str = "/touchline.v1.ComponentService/WatchEvent";

/// Takes and gives messages as they are on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A method's path, as a client names it.
pub(super) fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}
