//! How a VM has failed.

use jiff::Timestamp;
use serde::Serialize;
use stillpoint_proto::v1 as pb;

use super::read_time;

/// How a VM has failed last, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmFailure {
    /// When that was seen; `null`: it never has.
    pub fail_time: Option<Timestamp>,
    /// `VM_STOPPED_UNEXPECTEDLY`, `MEMORY_LOST` or `GUEST_PANICKED`; empty: it never has.
    pub reason: String,
    /// It is being brought back.
    pub at_work: bool,
    /// What was done about it, in words.
    pub outcome: String,
    /// How often it was brought back within the last hour.
    pub recoveries: u32,
    /// How often it is brought back within an hour at most.
    pub max_recoveries: u32,
}

impl From<pb::FailureStatus> for VmFailure {
    fn from(status: pb::FailureStatus) -> Self {
        let pb::FailureStatus { fail_time, reason, at_work, outcome, recoveries, max_recoveries } = status;
        Self { fail_time: read_time(fail_time.as_ref()), reason, at_work, outcome, recoveries, max_recoveries }
    }
}
