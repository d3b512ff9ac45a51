//! Writers: the applications of the guest that take part in quiescing.
//!
//! ```text
//!   the host's session ──▶ conductor ── asks, one round after the other ──▶ registry ──▶ attach ══ socket ══ a writer
//!                              │                                                 └─────▶ local ── a built-in writer
//!                              └── course: who is asked next, who is out, may it go on     (pure)
//! ```
//! - [`registry`] knows who is registered, and how each stands. A registration lives as long as its connection.
//! - [`course`] decides, [`life`] says what state an answer leaves a writer in: both without side effects.
//! - [`conductor`] asks and waits, for one session. When it ends before its time, writers are told Abort.
//! - [`restore`] tells of a checkpoint that the guest was brought back to.
//! - [`attach`] serves writers of other processes, [`local`] those of our own, which are in [`builtin`].
//! - [`sdk`] is for whoever writes a writer in Rust.
//!
//! Nothing that a writer does keeps the file systems frozen: they are frozen after the last writer and thawed before
//! the first, under a lease that no writer is asked about.

pub mod attach;
pub mod builtin;
pub mod conductor;
pub mod course;
pub mod life;
pub mod local;
pub mod registration;
pub mod registry;
pub mod restore;
pub mod sdk;
mod wire;

/// Where the agent serves writers unless it is told otherwise.
pub const SOCKET: &str = "/run/stillpoint/writers.sock";
