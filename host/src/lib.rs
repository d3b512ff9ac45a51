//! The host service: wires the engine to QEMU, files and guests, and serves it over gRPC.

pub mod options;
pub mod pages;
mod reserve;
mod serve;
mod services;
mod wiring;

pub use serve::serve;
