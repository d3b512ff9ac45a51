//! Refusals, both ways: [`Failure`] ↔ `tonic::Status` and `google.rpc.Status`, with `ErrorInfo` and `BadRequest`.

use prost::Message as _;
use stillpoint_common::{Category, Failure, Reason};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::rpc;

/// The `domain` of every `ErrorInfo` of Stillpoint.
pub const DOMAIN: &str = "stillpoint";
/// The key of the advice in the metadata of an `ErrorInfo`.
pub const ADVICE: &str = "advice";

/// A status travels in HTTP/2 trailers, which peers bound to 16 KiB: text is cut well before that.
const MESSAGE_LIMIT: usize = 1500;

/// The failure as the status of a call: code from its category, reason and advice in an `ErrorInfo`, the field that is
/// wrong in a `BadRequest`.
#[must_use]
pub fn status(failure: &Failure) -> Status {
    let message = bounded(&failure.message, MESSAGE_LIMIT);
    let advice = [(ADVICE.to_owned(), failure.reason.advice().to_owned())];
    let mut details = ErrorDetails::with_error_info(failure.reason.code(), DOMAIN, advice);
    if let Some(field) = &failure.field {
        details.add_bad_request_violation(bounded(field, 200), message.clone());
    }
    Status::with_error_details(code(failure.reason.category()), message, details)
}

/// The failure as the result of an operation.
#[must_use]
pub fn rpc_status(failure: &Failure) -> rpc::Status {
    let status = status(failure);
    rpc::Status::decode(status.details()).unwrap_or_else(|_| rpc::Status {
        code: i32::from(status.code()),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// The status code of a family of reasons.
#[must_use]
pub const fn code(category: Category) -> Code {
    match category {
        Category::InvalidArgument => Code::InvalidArgument,
        Category::NotFound => Code::NotFound,
        Category::AlreadyExists => Code::AlreadyExists,
        Category::FailedPrecondition => Code::FailedPrecondition,
        Category::Aborted => Code::Aborted,
        Category::ResourceExhausted => Code::ResourceExhausted,
        Category::DeadlineExceeded => Code::DeadlineExceeded,
        Category::Cancelled => Code::Cancelled,
        Category::Unavailable => Code::Unavailable,
        Category::Internal => Code::Internal,
        Category::DataLoss => Code::DataLoss,
    }
}

/// A failure as a client received it. Its reason may be one that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The status code.
    pub code: Code,
    /// The stable reason, `VM_NOT_FOUND`; the name of the status code if the peer gave no reason.
    pub reason: String,
    /// What went wrong.
    pub message: String,
    /// What to do about it, if the peer or we know.
    pub advice: Option<String>,
    /// Path of the wrong field in the request, if one is.
    pub field: Option<String>,
}

impl Refusal {
    /// The reason, if this version knows it.
    #[must_use]
    pub fn known(&self) -> Option<Reason> {
        Reason::ALL.iter().copied().find(|reason| reason.code() == self.reason)
    }

    /// True if the service itself said so; false if something on the way to it failed.
    #[must_use]
    pub fn is_from_service(&self) -> bool {
        self.reason != code_name(self.code)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self {
            code: code(failure.reason.category()),
            reason: failure.reason.code().to_owned(),
            advice: Some(failure.reason.advice().to_owned()),
            message: failure.message,
            field: failure.field,
        }
    }
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let field = details.bad_request().and_then(|bad| bad.field_violations.first());
        Self {
            code: status.code(),
            reason: info.map_or_else(|| code_name(status.code()).to_owned(), |info| info.reason.clone()),
            message: status.message().to_owned(),
            advice: info.and_then(|info| info.metadata.get(ADVICE).cloned()),
            field: field.map(|violation| violation.field.clone()),
        }
    }
}

impl From<&rpc::Status> for Refusal {
    fn from(status: &rpc::Status) -> Self {
        let details = status.encode_to_vec().into();
        Self::from(&Status::with_details(Code::from_i32(status.code), status.message.clone(), details))
    }
}

/// The name of a status code as gRPC writes it.
#[must_use]
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// `text`, cut at a character if it is longer than `limit` bytes.
fn bounded(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_arrives_as_it_was_sent() {
        for reason in Reason::ALL {
            let failure = Failure::new(*reason, "VM web does not run").at("vm.spec");
            let direct = Refusal::from(&status(&failure));
            assert_eq!(direct, Refusal::from(failure.clone()));
            assert_eq!(Refusal::from(&rpc_status(&failure)), direct);
            assert_eq!(direct.known(), Some(*reason));
            assert!(direct.is_from_service());
        }
    }

    #[test]
    fn a_reason_of_a_newer_service_stays_readable() {
        let details = ErrorDetails::with_error_info("MOON_IN_THE_WAY", DOMAIN, [("advice".into(), "Wait.".into())]);
        let status = Status::with_error_details(Code::FailedPrecondition, "no line of sight", details);
        let refusal = Refusal::from(&status);
        assert_eq!((refusal.reason.as_str(), refusal.known()), ("MOON_IN_THE_WAY", None));
        assert_eq!(refusal.advice.as_deref(), Some("Wait."));
    }

    #[test]
    fn a_status_without_details_is_known_by_its_code() {
        let refusal = Refusal::from(&Status::unavailable("connection refused"));
        assert_eq!((refusal.reason.as_str(), refusal.is_from_service()), ("UNAVAILABLE", false));
    }

    #[test]
    fn a_very_long_message_still_fits_into_the_trailers() {
        let status = status(&Failure::new(Reason::LaunchFailed, "é".repeat(100_000)).at("x".repeat(100_000)));
        assert!(status.message().len() < 2000 && status.details().len() < 5000);
    }
}
