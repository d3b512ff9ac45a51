//! What a failed call means to the engine.

use std::{error::Error, future::Future, time::Duration};

use stillpoint_engine::ports::QuiesceError;
use stillpoint_transport::DialError;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::convert::clean;

/// Waits for a call, but no longer than this.
pub(crate) async fn within<T>(
    call: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, QuiesceError> {
    match timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(status)) => Err(failure(call, limit, &status)),
        Err(_) => Err(QuiesceError::Unanswered { call, waited: limit }),
    }
}

/// What a status means.
pub(crate) fn failure(call: &'static str, waited: Duration, status: &Status) -> QuiesceError {
    if let Some(why) = broken(status) {
        return QuiesceError::Unreachable { why };
    }
    let message = clean(status.message());
    match status.code() {
        Code::DeadlineExceeded => QuiesceError::Unanswered { call, waited },
        Code::Unimplemented => QuiesceError::Incompatible {
            version: "of another make".to_owned(),
            why: format!("it does not know the call {call}"),
        },
        Code::Unavailable => QuiesceError::Unreachable { why: message },
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => QuiesceError::Failed { message: format!("{call}: {message}") },
    }
}

/// Why the connection, not the agent, ended the call; none if the agent did.
///
/// Only a status that was made on this side has a cause.
pub(crate) fn broken(status: &Status) -> Option<String> {
    let mut cause = status.source();
    let mut last = cause?.to_string();
    while let Some(error) = cause {
        if let Some(dial) = error.downcast_ref::<DialError>() {
            let detail = dial.source().map(|source| format!(": {source}")).unwrap_or_default();
            return Some(format!("{dial}{detail}"));
        }
        last = error.to_string();
        cause = error.source();
    }
    Some(format!("the connection broke: {last}"))
}
