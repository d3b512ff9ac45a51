//! Why the program did not do it, and with which code it ends.

use std::io;

use stillpoint_proto::convert::failure::Refusal;

use crate::client::ClientError;

/// Why the program did not do what was typed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The service refused, the operation failed, or the service cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What was typed does not fit together.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to type instead.
        advice: String,
    },
    /// A person was asked and did not agree.
    #[error("nothing was done: it was not confirmed")]
    NotConfirmed,
    /// The time to wait is over; the operation goes on.
    #[error("operation {operation} is still at work")]
    StillAtWork {
        /// Which operation.
        operation: String,
    },
    /// The user stopped waiting; the operation goes on.
    #[error("stopped waiting; operation {operation} goes on")]
    Interrupted {
        /// Which operation.
        operation: String,
    },
    /// A memory state cannot be read.
    #[error("{message}")]
    Memory {
        /// What is wrong with it.
        message: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// A file or the terminal failed.
    #[error("{what}: {source}")]
    Io {
        /// Which one.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

impl CliError {
    /// A mistake in what was typed.
    pub(crate) fn usage(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), advice: advice.into() }
    }

    /// 1: refused or failed; 2: typed wrongly; 3: the service cannot be reached; 130: stopped waiting.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Client(ClientError::Refused(_) | ClientError::Answer(_))
            | Self::NotConfirmed
            | Self::StillAtWork { .. }
            | Self::Memory { .. }
            | Self::Io { .. } => 1,
            Self::Usage { .. } => 2,
            Self::Client(ClientError::Unreachable { .. }) => 3,
            Self::Interrupted { .. } => 130,
        }
    }

    /// The stable reason, where there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.refusal().map(|refusal| refusal.reason.as_str())
    }

    /// The field of the request that is wrong, if one is.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.refusal().and_then(|refusal| refusal.field.as_deref())
    }

    /// What to do about it, if anything is known.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Client(ClientError::Refused(refusal)) => refusal.advice.clone().or_else(|| guess(refusal)),
            Self::Client(ClientError::Unreachable { why, .. }) => Some(unreachable_advice(why).to_owned()),
            Self::Client(ClientError::Answer(_)) => {
                Some("Service and program do not fit together: use the same version of both.".to_owned())
            }
            Self::Usage { advice, .. } => Some(advice.clone()),
            Self::Memory { advice, .. } => Some((*advice).to_owned()),
            Self::NotConfirmed | Self::Io { .. } => None,
            Self::StillAtWork { operation } | Self::Interrupted { operation } => Some(format!(
                "Watch it with `stillpoint operation watch {operation}`, give it up with `stillpoint operation cancel \
                 {operation}`."
            )),
        }
    }

    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Client(ClientError::Refused(refusal)) => Some(refusal),
            Self::Client(ClientError::Answer(_) | ClientError::Unreachable { .. })
            | Self::Usage { .. }
            | Self::NotConfirmed
            | Self::StillAtWork { .. }
            | Self::Interrupted { .. }
            | Self::Memory { .. }
            | Self::Io { .. } => None,
        }
    }
}

impl From<io::Error> for CliError {
    fn from(source: io::Error) -> Self {
        Self::Io { what: "cannot print the answer".to_owned(), source }
    }
}

fn unreachable_advice(why: &str) -> &'static str {
    if why.contains("ermission denied") {
        return "The service runs but its socket is not open to you: use sudo, or join the socket's group.";
    }
    "Start the service with `systemctl start stillpointd` (or run `stillpointd` by hand), or name its socket with \
     --socket or STILLPOINT_SOCKET."
}

/// Advice for what comes from the way to the service and not from the service.
fn guess(refusal: &Refusal) -> Option<String> {
    match refusal.reason.as_str() {
        "UNIMPLEMENTED" => Some("The service is older than this program: use the same version of both.".to_owned()),
        "PERMISSION_DENIED" | "UNAUTHENTICATED" => {
            Some("Ask the host's administrator for the right to do it.".to_owned())
        }
        "DEADLINE_EXCEEDED" => Some("The service did not answer in time; its log may say why.".to_owned()),
        _ => None,
    }
}
