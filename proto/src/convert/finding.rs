//! Findings as clients see them.

use stillpoint_common::{CheckpointId, Finding, VmId};

use super::{names, spec};
use crate::v1 as pb;

/// The finding as it travels.
#[must_use]
pub fn finding(finding: &Finding) -> pb::Finding {
    let vm = finding.vm.as_ref();
    pb::Finding {
        kind: finding.kind.code().to_owned(),
        vm: vm.map(names::vm).unwrap_or_default(),
        path: finding.path.as_deref().map(spec::text).unwrap_or_default(),
        message: finding.message.clone(),
        advice: finding.kind.advice().to_owned(),
        checkpoints: vm.map(|vm| checkpoints(vm, &finding.checkpoints)).unwrap_or_default(),
        now: finding.now,
        note: finding.kind.is_note(),
    }
}

/// Names of checkpoints.
#[must_use]
pub fn checkpoints(vm: &VmId, ids: &[CheckpointId]) -> Vec<String> {
    ids.iter().map(|id| names::checkpoint(vm, *id)).collect()
}
