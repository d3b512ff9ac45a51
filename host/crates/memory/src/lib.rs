//! Memory states as plain files: what QEMU wrote, as it wrote it.
//!
//! ```text
//! begin ─▶ <checkpoint>.memory.part ─▶ (QEMU writes) ─▶ seal: check, hash, sync, rename ─▶ <checkpoint>.memory
//! ```
//! A file under its final name is whole and durable. Whatever has another name was never promised to anybody.

mod files;
pub mod stream;
mod whole;

pub use files::FileMemoryStates;
