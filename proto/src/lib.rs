//! Stillpoint's wire: generated code of every .proto file, and the only place where wire becomes domain.
//!
//! The `.proto` files are the documentation of each message and call; nothing is said twice here.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::wildcard_enum_match_arm, reason = "generated code")]

/// Host ↔ agent.
pub mod guest {
    /// `stillpoint.guest.v1`
    pub mod v1 {
        tonic::include_proto!("stillpoint.guest.v1");
    }
}
