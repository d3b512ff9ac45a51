//! What becomes of a production checkpoint that was not possible. Pure.

use stillpoint_common::{CheckpointPolicy, FallbackReason};

/// What to do after an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Make a standard checkpoint, and say why.
    Standard(FallbackReason),
    /// Fail.
    Fail,
}

/// `reason` is there if, and only if, making the guest quiet is what failed.
pub(crate) const fn next(policy: CheckpointPolicy, reason: Option<FallbackReason>) -> Next {
    match (policy, reason) {
        (CheckpointPolicy::Production, Some(reason)) => Next::Standard(reason),
        (CheckpointPolicy::Production, None)
        | (CheckpointPolicy::ProductionOnly | CheckpointPolicy::Standard | CheckpointPolicy::Disabled, _) => Next::Fail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quiesce_failure_under_the_production_policy_falls_back() {
        let reason = FallbackReason::HoldLapsed;
        assert_eq!(next(CheckpointPolicy::Production, Some(reason)), Next::Standard(reason));
        assert_eq!(next(CheckpointPolicy::Production, None), Next::Fail);
        for policy in [CheckpointPolicy::ProductionOnly, CheckpointPolicy::Standard, CheckpointPolicy::Disabled] {
            assert_eq!(next(policy, Some(reason)), Next::Fail);
        }
    }
}
