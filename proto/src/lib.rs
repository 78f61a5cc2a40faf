//! The contract of Conti, generated from `conti/v1/*.proto`.
//!
//! - [`v1`]: messages, and the client and server of each service;
//! - [`METHODS`]: the least role that each method needs;
//! - [`DESCRIPTORS`]: the same as a serialised `FileDescriptorSet`, for reflection and for tools.
//!
//! Nothing is written by hand here: what a field means is said in the proto files.

/// Version 1 of the contract.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("conti.v1");
}

/// Each method, by its path in HTTP/2, and the least role that may call it.
pub const METHODS: &[(&str, v1::Role)] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// The serialised `google.protobuf.FileDescriptorSet` of the contract.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
