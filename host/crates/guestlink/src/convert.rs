//! From the agent's words to ours. Nothing that a guest says is taken as it comes.

use std::time::Duration;

use stillpoint_common::{
    Beat, FileSystemOutcome, FileSystemResult, Frozen, GuestDescription, KeyValues, ObservedService, Prepared, Restore,
    RestoredWriter, ServiceRole, Thawed, ToldValues, WriterOutcome, WriterResult,
};
use stillpoint_engine::ports::QuiesceError;
use stillpoint_proto::{convert::writer::read_facts, guest::v1 as pb, writer::v1 as wpb};

/// A text of a guest is cut here.
const MAX_TEXT: usize = 1024;
/// Lists of a guest are cut here.
const MAX_LIST: usize = 1024;

/// A text of a guest that can be printed on a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(MAX_TEXT).collect()
}

/// A duration of a guest; what makes no sense is zero.
pub(crate) fn duration(value: Option<prost_types::Duration>) -> Duration {
    value.and_then(|value| Duration::try_from(value).ok()).unwrap_or_default()
}

pub(crate) fn restore(restore: &Restore) -> pb::RestoredRequest {
    let writer = |writer: &RestoredWriter| pb::RestoredWriter {
        name: writer.name.clone(),
        writer_id: writer.id.clone(),
        was_held: writer.was_held,
        metadata: writer.metadata.clone().into_iter().collect(),
    };
    pb::RestoredRequest {
        restore_id: restore.id.to_string(),
        checkpoint_id: restore.checkpoint.to_string(),
        with_memory: restore.with_memory,
        writers: restore.writers.iter().map(writer).collect(),
    }
}

pub(crate) fn beat(answer: pb::BeatResponse) -> Beat {
    Beat { uptime: duration(answer.uptime), held: answer.held, values_revision: clean(&answer.values_revision) }
}

/// What does not keep to the bounds is left out.
pub(crate) fn told_values(answer: &pb::GetValuesResponse) -> ToldValues {
    let kept = |values: &[pb::Value]| KeyValues::kept(values.iter().map(|it| (it.key.as_str(), it.value.as_str())));
    ToldValues { set: kept(&answer.values), intrinsic: kept(&answer.intrinsic) }
}

pub(crate) fn description(answer: pb::HelloResponse) -> Result<GuestDescription, QuiesceError> {
    Ok(GuestDescription {
        agent_version: clean(&answer.agent_version),
        hostname: clean(&answer.hostname),
        kernel: clean(&answer.kernel),
        file_systems: file_systems(&answer.file_systems)?,
        writers: writers(&answer.writers)?,
        services: answer.services.iter().take(MAX_LIST).filter_map(service).collect(),
    })
}

/// A service of a role that this host does not know is left out: it could not say what follows from it.
fn service(said: &pb::ObservedService) -> Option<ObservedService> {
    let role = match said.role() {
        pb::ServiceRole::Unspecified => return None,
        pb::ServiceRole::Database => ServiceRole::Database,
        pb::ServiceRole::MailServer => ServiceRole::MailServer,
        pb::ServiceRole::ClusterMember => ServiceRole::ClusterMember,
        pb::ServiceRole::DomainController => ServiceRole::DomainController,
    };
    Some(ObservedService { name: clean(&said.name), role, evidence: clean(&said.evidence) })
}

pub(crate) fn prepared(answer: &pb::Prepared) -> Result<Prepared, QuiesceError> {
    Ok(Prepared { file_systems: file_systems(&answer.file_systems)?, writers: writers(&answer.writers)? })
}

/// An agent that says "frozen" and names a file system that is not, or none at all, has frozen nothing we could use.
pub(crate) fn frozen(answer: &pb::Frozen) -> Result<Frozen, QuiesceError> {
    let frozen = Frozen { file_systems: file_systems(&answer.file_systems)?, writers: writers(&answer.writers)? };
    refused_file_system(&frozen.file_systems)?;
    if frozen.file_systems.iter().any(|fs| fs.result == FileSystemResult::Frozen) {
        Ok(frozen)
    } else {
        Err(QuiesceError::NothingToFreeze)
    }
}

pub(crate) fn refusal(answer: &pb::Refused, budget: Duration) -> QuiesceError {
    let message = clean(&answer.message);
    match answer.reason() {
        pb::RefusedReason::FileSystem => {
            match file_systems(&answer.file_systems).and_then(|all| refused_file_system(&all)) {
                Err(error) => error,
                Ok(()) => QuiesceError::Failed { message },
            }
        }
        pb::RefusedReason::NothingToFreeze => QuiesceError::NothingToFreeze,
        pb::RefusedReason::TooSlow => QuiesceError::Unanswered { call: "freeze", waited: budget },
        pb::RefusedReason::Writer => refused_writer(&answer.writers, message),
        pb::RefusedReason::Cancelled => QuiesceError::Lapsed { why: message },
        pb::RefusedReason::Agent | pb::RefusedReason::Unspecified => QuiesceError::Failed { message },
    }
}

/// Nothing held is a lapse: the guest let go, or never held.
pub(crate) fn thawed(answer: &pb::Thawed) -> Thawed {
    match answer.outcome() {
        pb::ThawOutcome::HeldThroughout => Thawed::HeldThroughout,
        pb::ThawOutcome::Lapsed | pb::ThawOutcome::NotHeld | pb::ThawOutcome::Unspecified => Thawed::Lapsed,
    }
}

pub(crate) fn file_systems(all: &[pb::FileSystem]) -> Result<Vec<FileSystemOutcome>, QuiesceError> {
    all.iter().take(MAX_LIST).map(file_system).collect()
}

fn file_system(said: &pb::FileSystem) -> Result<FileSystemOutcome, QuiesceError> {
    let mount_point = clean(&said.mount_point);
    let result = match said.result() {
        pb::FileSystemResult::Selected => FileSystemResult::Selected,
        pb::FileSystemResult::Frozen => FileSystemResult::Frozen,
        pb::FileSystemResult::LeftOut => FileSystemResult::LeftOut,
        pb::FileSystemResult::Failed => FileSystemResult::Failed,
        pb::FileSystemResult::Unspecified => {
            return Err(QuiesceError::Failed { message: format!("it does not say what became of {mount_point}") });
        }
    };
    Ok(FileSystemOutcome {
        mount_point,
        source: clean(&said.source),
        fs_type: clean(&said.fs_type),
        result,
        detail: clean(&said.detail),
        took: duration(said.took),
    })
}

fn refused_file_system(all: &[FileSystemOutcome]) -> Result<(), QuiesceError> {
    match all.iter().find(|fs| fs.result == FileSystemResult::Failed) {
        Some(fs) => {
            Err(QuiesceError::FileSystemRefused { mount_point: fs.mount_point.clone(), detail: fs.detail.clone() })
        }
        None => Ok(()),
    }
}

pub(crate) fn writers(all: &[pb::Writer]) -> Result<Vec<WriterOutcome>, QuiesceError> {
    all.iter().take(MAX_LIST).map(writer).collect()
}

fn writer(said: &pb::Writer) -> Result<WriterOutcome, QuiesceError> {
    let name = clean(&said.name);
    let result = match said.result() {
        pb::WriterResult::Stable => WriterResult::Stable,
        pb::WriterResult::Held => WriterResult::Held,
        pb::WriterResult::Refused => WriterResult::Refused,
        pb::WriterResult::TimedOut => WriterResult::TimedOut,
        pb::WriterResult::Vanished => WriterResult::Vanished,
        pb::WriterResult::LeftOut => WriterResult::LeftOut,
        pb::WriterResult::Unspecified => {
            return Err(QuiesceError::Failed { message: format!("it does not say what became of writer {name}") });
        }
    };
    let facts = said.facts.as_ref().map(|facts| read_facts(&bounded(facts), duration(said.took), clean));
    Ok(WriterOutcome { name, result, detail: clean(&said.detail), facts: facts.unwrap_or_default() })
}

/// What a guest may have kept with a checkpoint, per writer.
const MAX_KEYS: usize = 64;

/// As the writers' own protocol bounds it: an agent may not know its bounds.
fn bounded(facts: &wpb::WriterFacts) -> wpb::WriterFacts {
    let mut facts = facts.clone();
    facts.components.truncate(MAX_KEYS);
    facts.components.iter_mut().for_each(|component| component.files.truncate(MAX_KEYS));
    let mut keys: Vec<_> = facts.metadata.keys().cloned().collect();
    keys.sort_unstable();
    keys.iter().skip(MAX_KEYS).for_each(|key| drop(facts.metadata.remove(key)));
    facts
}

/// The error that names the writer which was not held.
pub(crate) fn writers_held(answer: &pb::Thawed) -> Result<(), QuiesceError> {
    none_refused(&answer.writers).map_err(|error| QuiesceError::Lapsed { why: error.to_string() })
}

/// The error that names the first writer which failed and was not left out.
pub(crate) fn none_refused(all: &[pb::Writer]) -> Result<(), QuiesceError> {
    all.iter().find_map(failed_writer).map_or(Ok(()), Err)
}

fn refused_writer(all: &[pb::Writer], message: String) -> QuiesceError {
    all.iter().find_map(failed_writer).unwrap_or(QuiesceError::Failed { message })
}

fn failed_writer(said: &pb::Writer) -> Option<QuiesceError> {
    let writer = clean(&said.name);
    match said.result() {
        pb::WriterResult::Refused | pb::WriterResult::Vanished => {
            Some(QuiesceError::WriterRefused { writer, detail: clean(&said.detail) })
        }
        pb::WriterResult::TimedOut => Some(QuiesceError::WriterTimedOut { writer }),
        pb::WriterResult::Stable
        | pb::WriterResult::Held
        | pb::WriterResult::LeftOut
        | pb::WriterResult::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(result: pb::FileSystemResult) -> pb::FileSystem {
        pb::FileSystem {
            mount_point: "/data".into(),
            result: result.into(),
            detail: "busy".into(),
            ..Default::default()
        }
    }

    #[test]
    fn frozen_counts_only_with_something_frozen_and_nothing_failed() {
        let frozen_with = |all: &[pb::FileSystemResult]| {
            frozen(&pb::Frozen { file_systems: all.iter().map(|result| said(*result)).collect(), ..Default::default() })
        };
        use pb::FileSystemResult::{Failed, Frozen, LeftOut, Unspecified};
        assert!(frozen_with(&[Frozen, LeftOut]).is_ok());
        assert!(matches!(frozen_with(&[]), Err(QuiesceError::NothingToFreeze)));
        assert!(matches!(frozen_with(&[LeftOut]), Err(QuiesceError::NothingToFreeze)));
        assert!(matches!(frozen_with(&[Frozen, Failed]), Err(QuiesceError::FileSystemRefused { .. })));
        assert!(matches!(frozen_with(&[Frozen, Unspecified]), Err(QuiesceError::Failed { .. })));
    }

    #[test]
    fn each_refusal_becomes_the_error_that_says_it() {
        let refused = |reason: pb::RefusedReason| pb::Refused {
            reason: reason.into(),
            message: "no".into(),
            file_systems: vec![said(pb::FileSystemResult::Failed)],
            writers: vec![pb::Writer {
                name: "db".into(),
                result: pb::WriterResult::TimedOut.into(),
                ..Default::default()
            }],
        };
        let error = |reason| refusal(&refused(reason), Duration::from_secs(5)).to_string();
        assert_eq!(error(pb::RefusedReason::FileSystem), "file system /data cannot be frozen: busy");
        assert_eq!(error(pb::RefusedReason::Writer), "writer db did not answer in time");
        assert_eq!(error(pb::RefusedReason::TooSlow), "guest agent did not answer freeze within 5s");
        assert_eq!(error(pb::RefusedReason::Agent), "guest agent failed: no");
        assert_eq!(error(pb::RefusedReason::Unspecified), "guest agent failed: no");
    }

    #[test]
    fn anything_but_held_throughout_is_a_lapse() {
        for outcome in -1..10 {
            let thaw = thawed(&pb::Thawed { outcome, ..Default::default() });
            let held = outcome == i32::from(pb::ThawOutcome::HeldThroughout);
            assert_eq!(thaw == Thawed::HeldThroughout, held);
        }
    }

    proptest! {
        #[test]
        fn no_text_of_a_guest_reaches_a_terminal_raw(text in "\\PC*|[\\x00-\\x1f\\x7f-\\u{9f}a]{0,2000}") {
            let clean = clean(&text);
            prop_assert!(clean.chars().count() <= MAX_TEXT && !clean.chars().any(char::is_control));
        }

        #[test]
        fn no_duration_of_a_guest_panics(seconds in any::<i64>(), nanos in any::<i32>()) {
            let _ = duration(Some(prost_types::Duration { seconds, nanos }));
        }
    }
}
