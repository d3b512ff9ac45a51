//! Between the words of the wire and our own.

use std::time::Duration;

use stillpoint_common::{
    FileSystemOutcome, FileSystemResult, KeyValues, ObservedService, Restore, RestoredWriter, ServiceRole, Thawed,
    WriterOutcome, WriterRequest, WriterResult,
};
use stillpoint_proto::{convert::writer, guest::v1 as pb};

use crate::{
    clock::Reference,
    freezer::{FrozenReport, Refusal, RefusalReason, ThawReport},
};

/// File systems told to the host, at most: the rest is of no use to a person, and messages are bounded.
const MAX_FILE_SYSTEMS: usize = 512;
/// A detail is cut here.
const MAX_DETAIL: usize = 512;

pub(super) fn duration(value: Duration) -> prost_types::Duration {
    // No clock of ours shows more than the wire can carry.
    prost_types::Duration::try_from(value).unwrap_or_default()
}

/// A duration that is there and not negative.
pub(super) fn positive(value: Option<prost_types::Duration>) -> Option<Duration> {
    Duration::try_from(value?).ok()
}

pub(super) fn signed_duration(nanos: i128) -> prost_types::Duration {
    let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX });
    let nanos = i32::try_from(nanos % 1_000_000_000).unwrap_or_default();
    prost_types::Duration { seconds, nanos }
}

pub(super) fn timestamp(since_1970: Duration) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since_1970.subsec_nanos()).unwrap_or_default(),
    }
}

/// A reference that makes sense: between the years 2020 and 2200, and less than a century of uptime.
pub(super) fn reference(value: &pb::ClockReference) -> Option<Reference> {
    const YEAR_2020: i64 = 1_577_836_800;
    const YEAR_2200: i64 = 7_258_118_400;
    const CENTURY: Duration = Duration::from_secs(100 * 366 * 86_400);
    let time = value.time.as_ref().filter(|time| (YEAR_2020..YEAR_2200).contains(&time.seconds))?;
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    let boot = positive(value.boot_time).filter(|boot| *boot < CENTURY)?;
    let uncertainty = positive(value.uncertainty).unwrap_or_default();
    Some(Reference { boot, time: Duration::new(u64::try_from(time.seconds).ok()?, nanos), uncertainty })
}

pub(super) fn file_systems(outcomes: &[FileSystemOutcome]) -> Vec<pb::FileSystem> {
    outcomes.iter().take(MAX_FILE_SYSTEMS).map(file_system).collect()
}

fn file_system(outcome: &FileSystemOutcome) -> pb::FileSystem {
    let result = match outcome.result {
        FileSystemResult::Selected => pb::FileSystemResult::Selected,
        FileSystemResult::Frozen => pb::FileSystemResult::Frozen,
        FileSystemResult::LeftOut => pb::FileSystemResult::LeftOut,
        FileSystemResult::Failed => pb::FileSystemResult::Failed,
    };
    pb::FileSystem {
        mount_point: cut(&outcome.mount_point),
        source: cut(&outcome.source),
        fs_type: cut(&outcome.fs_type),
        result: result.into(),
        detail: cut(&outcome.detail),
        took: Some(duration(outcome.took)),
    }
}

/// Services told to the host; the table of roles is shorter than any bound.
pub(super) fn services(observed: &[ObservedService]) -> Vec<pb::ObservedService> {
    let role = |role: ServiceRole| match role {
        ServiceRole::Database => pb::ServiceRole::Database,
        ServiceRole::MailServer => pb::ServiceRole::MailServer,
        ServiceRole::ClusterMember => pb::ServiceRole::ClusterMember,
        ServiceRole::DomainController => pb::ServiceRole::DomainController,
    };
    let service = |service: &ObservedService| pb::ObservedService {
        name: cut(&service.name),
        role: role(service.role).into(),
        evidence: cut(&service.evidence),
    };
    observed.iter().map(service).collect()
}

/// Keys and values.
pub(super) fn values(values: &KeyValues) -> Vec<pb::Value> {
    values.iter().map(|(key, value)| pb::Value { key: key.to_owned(), value: value.to_owned() }).collect()
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_DETAIL).collect()
}

pub(super) fn answer(step: pb::quiesce_response::Step) -> pb::QuiesceResponse {
    pb::QuiesceResponse { step: Some(step) }
}

pub(super) fn writers(outcomes: &[WriterOutcome]) -> Vec<pb::Writer> {
    outcomes.iter().map(writer).collect()
}

fn writer(outcome: &WriterOutcome) -> pb::Writer {
    let result = match outcome.result {
        WriterResult::Stable => pb::WriterResult::Stable,
        WriterResult::Held => pb::WriterResult::Held,
        WriterResult::Refused => pb::WriterResult::Refused,
        WriterResult::TimedOut => pb::WriterResult::TimedOut,
        WriterResult::Vanished => pb::WriterResult::Vanished,
        WriterResult::LeftOut => pb::WriterResult::LeftOut,
    };
    pb::Writer {
        name: outcome.name.clone(),
        result: result.into(),
        detail: cut(&outcome.detail),
        facts: Some(writer::facts(&outcome.facts)),
        took: Some(duration(outcome.facts.froze_in)),
    }
}

/// What the host asks of writers, if it makes sense with this lease; else what does not.
pub(super) fn writer_request(options: &pb::QuiesceOptions, lease: Duration) -> Result<WriterRequest, &'static str> {
    const LONGEST_WINDOW: Duration = Duration::from_secs(600);
    let usual = WriterRequest::default();
    let window = match options.writer_window {
        None => usual.window.max(lease),
        given => positive(given)
            .filter(|window| (lease..=LONGEST_WINDOW).contains(window))
            .ok_or("options.writer_window: at least the lease, at most 10 minutes")?,
    };
    let (policy, backup_type) = (writer::policy(options.writer_policy()), writer::backup_type(options.backup_type()));
    Ok(WriterRequest { window, policy, backup_type })
}

/// What the host says of a restore, if it makes sense; else what does not.
pub(super) fn restore(told: pb::RestoredRequest) -> Result<Restore, &'static str> {
    const MOST_WRITERS: usize = 64;
    if told.writers.len() > MOST_WRITERS {
        return Err("writers: too many");
    }
    let writer = |writer: pb::RestoredWriter| RestoredWriter {
        name: writer.name,
        id: writer.writer_id,
        was_held: writer.was_held,
        metadata: writer.metadata.into_iter().collect(),
    };
    Ok(Restore {
        id: told.restore_id.parse().map_err(|_| "restore_id: not a UUID")?,
        checkpoint: told.checkpoint_id.parse().map_err(|_| "checkpoint_id: not the id of a checkpoint")?,
        with_memory: told.with_memory,
        writers: told.writers.into_iter().map(writer).collect(),
    })
}

pub(super) fn frozen(report: &FrozenReport, held: &[WriterOutcome]) -> pb::QuiesceResponse {
    answer(pb::quiesce_response::Step::Frozen(pb::Frozen {
        file_systems: file_systems(&report.file_systems),
        writers: writers(held),
        sync_duration: Some(duration(report.sync)),
        freeze_duration: Some(duration(report.freeze)),
    }))
}

pub(super) fn refused(refusal: &Refusal, told: &[WriterOutcome]) -> pb::QuiesceResponse {
    let reason = match refusal.reason {
        RefusalReason::FileSystem => pb::RefusedReason::FileSystem,
        RefusalReason::NothingToFreeze => pb::RefusedReason::NothingToFreeze,
        RefusalReason::TooSlow => pb::RefusedReason::TooSlow,
        RefusalReason::Writer => pb::RefusedReason::Writer,
        RefusalReason::Cancelled => pb::RefusedReason::Cancelled,
        RefusalReason::Agent => pb::RefusedReason::Agent,
    };
    answer(pb::quiesce_response::Step::Refused(pb::Refused {
        reason: reason.into(),
        message: cut(&refusal.message),
        file_systems: file_systems(&refusal.file_systems),
        writers: writers(told),
    }))
}

pub(super) fn thawed(report: &ThawReport, told: &[WriterOutcome]) -> pb::QuiesceResponse {
    let outcome = match report.outcome {
        Some(Thawed::HeldThroughout) => pb::ThawOutcome::HeldThroughout,
        Some(Thawed::Lapsed) => pb::ThawOutcome::Lapsed,
        None => pb::ThawOutcome::NotHeld,
    };
    answer(pb::quiesce_response::Step::Thawed(pb::Thawed {
        outcome: outcome.into(),
        file_systems: file_systems(&report.file_systems),
        held_duration: Some(duration(report.held)),
        message: cut(&report.message),
        writers: writers(told),
    }))
}

pub(super) fn lapsed(report: &ThawReport) -> pb::QuiesceResponse {
    answer(pb::quiesce_response::Step::Lapsed(pb::Lapsed { message: cut(&report.message) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_out_of_bounds_is_refused() {
        let good = pb::ClockReference {
            boot_time: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            time: Some(prost_types::Timestamp { seconds: 1_790_000_000, nanos: 5 }),
            uncertainty: None,
        };
        assert!(reference(&good).is_some());
        assert!(reference(&pb::ClockReference { boot_time: None, ..good }).is_none());
        assert!(reference(&pb::ClockReference { time: None, ..good }).is_none());
        for time in [(0, 0), (1_790_000_000, -1), (1_790_000_000, 1_000_000_000), (i64::MAX, 0)] {
            let time = Some(prost_types::Timestamp { seconds: time.0, nanos: time.1 });
            assert!(reference(&pb::ClockReference { time, ..good }).is_none());
        }
        for seconds in [-1, i64::MAX] {
            let boot_time = Some(prost_types::Duration { seconds, nanos: 0 });
            assert!(reference(&pb::ClockReference { boot_time, ..good }).is_none());
        }
    }

    #[test]
    fn being_behind_is_negative_on_the_wire() {
        assert_eq!(signed_duration(-64_500_000_000), prost_types::Duration { seconds: -64, nanos: -500_000_000 });
    }
}
