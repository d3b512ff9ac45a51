//! QMP: one JSON object a line, over a unix socket.
//!
//! ```text
//! connect ─▶ greeting ─▶ qmp_capabilities ─▶ command … reply … event … reply
//! ```
//! Every command carries an id that no earlier connection used, so that a late reply, to us or to a service that was
//! killed, is never taken for an answer. Unknown fields, members and events pass. Every call has a deadline.

mod client;
pub mod commands;
mod fds;
mod wire;

pub use client::Client;
pub use commands::Command;
pub use wire::Event;

use std::{path::PathBuf, time::Duration};

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody listens on the socket.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// QEMU took the connection and did not greet: another client may hold the socket.
    #[error("no greeting within {waited:?}")]
    NoGreeting {
        /// How long we waited.
        waited: Duration,
    },
    /// The connection ended. Whether the command was done is not known.
    #[error("the control connection is closed")]
    Closed,
    /// No answer in time. Whether the command was or will be done is not known.
    #[error("no answer to {command} within {waited:?}")]
    Unanswered {
        /// Which command.
        command: &'static str,
        /// How long we waited.
        waited: Duration,
    },
    /// QEMU refused.
    #[error("{command} was refused: {message}")]
    Refused {
        /// Which command.
        command: &'static str,
        /// QEMU's words.
        message: String,
    },
    /// An answer, or a command, that is not what the types say.
    #[error("{command} cannot be encoded or its answer not be understood")]
    Malformed {
        /// Which command.
        command: &'static str,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}
