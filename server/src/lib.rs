//! The gRPC recommendation service: decides which components a consumer is shown.

pub mod recommend;
