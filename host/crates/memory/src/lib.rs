//! Memory states: what QEMU saves of a running VM, kept small, checked, and given back.
//!
//! ```text
//! begin ─▶ (QEMU writes into a pipe) ─▶ <checkpoint>.pages.part ─▶ seal ─▶ <checkpoint>.pages, <checkpoint>.memory
//! open  ─▶ (QEMU reads from a pipe)
//! ```
//! A file under its final name is whole and durable. Whatever has another name was never promised to anybody.
//!
//! [`stream`] is QEMU's format, [`state`] ours. Without the feature `port` there is nothing but them: enough for a tool
//! that reads files.

// What writes states has no caller without the port.
#![cfg_attr(not(feature = "port"), allow(dead_code, unused_imports))]

#[cfg(feature = "port")]
mod capture;
#[cfg(feature = "port")]
mod collect;
#[cfg(feature = "port")]
mod files;
#[cfg(feature = "port")]
mod plain;
#[cfg(feature = "port")]
mod serve;
pub mod state;
pub mod stream;

#[cfg(feature = "port")]
pub use files::{FileMemoryStates, MemoryConfig};
#[cfg(feature = "port")]
pub use serve::{Serve, serve};
/// What [`FileMemoryStates`] does.
#[cfg(feature = "port")]
pub use stillpoint_engine::ports::MemoryStates;
