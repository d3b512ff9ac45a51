//! The guardian: a small process that lets the guest go when the agent cannot.
//!
//! ```text
//!            Arm(file systems, lease)              lease over, or the agent is gone
//!   idle ──────────────────────────────▶ armed ────────────────────────────────────▶ releasing
//!     ▲                                    │                                            │
//!     └────────────────────────────────────┴────────────────────────────────────────────┘
//!                                        Disarm                    (agent gone and all released: the process ends)
//! ```
//!
//! It is started once, before the agent has threads, from the agent's own program file. It has the ends of no channel
//! but the socket to the agent, never the virtio port: a port that the guardian kept open could not be opened by the
//! next agent. The agent hands it a descriptor of every mount *before* the first freeze.
//! A second one lets go of processes that stand still by their cgroups; their descriptors say what they are.
//!
//! While it releases, each file system has a thread of its own that thaws it again and again until the guardian is
//! disarmed or has nothing left to do: a freeze that was still under way when the lease ended may complete later, and
//! one file system that hangs must not keep the others frozen.

mod client;
mod message;
mod process;

pub use client::{Guardian, GuardianError};
pub use process::run;

/// Subcommand of the agent's program that is the guardian.
pub const SUBCOMMAND: &str = "guardian";
