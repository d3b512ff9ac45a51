//! The system in a VM, and what became of its parts in a quiesce session.

use stillpoint_common::{FileSystemOutcome, GuestDescription, VmId, WriterOutcome};

use super::{advice, names, time, writer as writers};
use crate::v1 as pb;

/// The description of a guest as it travels.
#[must_use]
pub fn guest(vm: &VmId, description: &GuestDescription) -> pb::Guest {
    pb::Guest {
        name: names::guest(vm),
        agent_version: description.agent_version.clone(),
        hostname: description.hostname.clone(),
        kernel: description.kernel.clone(),
        file_systems: description.file_systems.iter().map(file_system).collect(),
        writers: description.writers.iter().map(writer).collect(),
        services: description.services.iter().map(advice::service).collect(),
    }
}

/// A file system of a guest as it travels.
#[must_use]
pub fn file_system(outcome: &FileSystemOutcome) -> pb::FileSystemOutcome {
    pb::FileSystemOutcome {
        mount_point: outcome.mount_point.clone(),
        source: outcome.source.clone(),
        fs_type: outcome.fs_type.clone(),
        result: pb::OutcomeResult::from(outcome.result).into(),
        detail: outcome.detail.clone(),
        took: Some(time::duration(outcome.took)),
    }
}

/// A writer of a guest as it travels.
#[must_use]
pub fn writer(outcome: &WriterOutcome) -> pb::WriterOutcome {
    pb::WriterOutcome {
        writer: outcome.name.clone(),
        result: pb::OutcomeResult::from(outcome.result).into(),
        detail: outcome.detail.clone(),
        facts: Some(writers::facts(&outcome.facts)),
        took: Some(time::duration(outcome.facts.froze_in)),
    }
}
