//! Why a call did not succeed.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use stillpoint_common::{Failure, Reason};
use stillpoint_proto::convert::failure::Refusal;
use tonic::{Code, Status};

/// Why a call did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// Nothing answers on the socket, or it stopped answering.
    #[error("cannot reach the service on {}: {why}", socket.display())]
    Unreachable {
        /// Which socket.
        socket: PathBuf,
        /// What happened.
        why: String,
    },
    /// The service refused, or the operation failed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The service answered what this client does not understand.
    #[error("the service's answer cannot be understood: {0}")]
    Answer(#[from] Failure),
}

impl ClientError {
    /// An answer of many messages that ended before all was told.
    pub(super) fn cut_off(why: impl Into<String>) -> Self {
        Self::Answer(Failure::new(Reason::Interrupted, why))
    }

    /// The stable reason, if the service gave one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => Some(&refusal.reason),
            Self::Unreachable { .. } | Self::Answer(_) => None,
        }
    }

    pub(super) fn from_status(socket: &Path, status: &Status) -> Self {
        let refusal = Refusal::from(status);
        if !refusal.is_from_service() && is_transport(status) {
            let why = status.source().map_or_else(|| status.message().to_owned(), root_cause);
            return Self::Unreachable { socket: socket.to_path_buf(), why };
        }
        Self::Refused(refusal)
    }
}

/// True if the way to the service failed: connecting did, or the connection broke.
fn is_transport(status: &Status) -> bool {
    status.code() == Code::Unavailable || (status.code() == Code::Unknown && status.source().is_some())
}

/// The innermost cause: "No such file or directory" and not "transport error".
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
