//! Why the demo ended early.

use std::{io, time::Duration};

use stillpoint_cli::client::ClientError;

use crate::lab::LabError;

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    /// A sentence of the story does not hold.
    #[error("this is not so: {claim}\n  expected: {expected}\n  seen:     {seen}")]
    NotSo { claim: String, expected: String, seen: String },
    /// The channel into the guest failed.
    #[error("the guest could not be asked: {0}")]
    Guest(#[from] LabError),
    /// The service refused, or went away.
    #[error("the service: {0}")]
    Service(#[from] ClientError),
    /// A file or a program of the host failed.
    #[error("on this machine: {0}")]
    Machine(#[from] io::Error),
    /// It hangs.
    #[error("the story has not ended after {0:?}")]
    TooLong(Duration),
    /// A command hangs.
    #[error("`{command}` has not ended after {waited:?}")]
    CommandTooLong { command: String, waited: Duration },
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}
