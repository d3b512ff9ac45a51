//! Writers: their levels, states, errors, and what is known of them.

use std::{collections::BTreeMap, time::Duration};

use stillpoint_common::{
    BackupType, WriterComponent, WriterError, WriterEvent, WriterFacts, WriterLevel, WriterPolicy, WriterState,
};

use crate::writer::v1 as pb;

/// The facts as they travel. How long the freeze took stands beside them in each message that has it.
#[must_use]
pub fn facts(facts: &WriterFacts) -> pb::WriterFacts {
    pb::WriterFacts {
        writer_id: facts.id.clone(),
        instance_id: facts.instance.clone(),
        level: pb::WriterLevel::from(facts.level).into(),
        version: facts.version.clone(),
        state: pb::WriterState::from(facts.state).into(),
        last_error: facts.last_error.map_or(pb::WriterError::Unspecified, pb::WriterError::from).into(),
        components: facts.components.iter().map(component).collect(),
        metadata: facts.metadata.clone().into_iter().collect(),
    }
}

/// The facts that a peer told; what this version does not know of them is unknown, never an error. `clean` sees every
/// text on its way.
#[must_use]
pub fn read_facts(told: &pb::WriterFacts, froze_in: Duration, clean: impl Fn(&str) -> String) -> WriterFacts {
    let metadata: BTreeMap<_, _> = told.metadata.iter().map(|(key, value)| (clean(key), clean(value))).collect();
    let read = |component: &pb::Component| WriterComponent {
        name: clean(&component.name),
        files: component.files.iter().map(|file| clean(file)).collect(),
        version: clean(&component.version),
    };
    WriterFacts {
        id: clean(&told.writer_id),
        instance: clean(&told.instance_id),
        level: level(told.level()),
        version: clean(&told.version),
        state: state(told.state()),
        last_error: error(told.last_error()),
        components: told.components.iter().map(read).collect(),
        metadata,
        froze_in,
    }
}

/// A component as it travels.
#[must_use]
pub fn component(component: &WriterComponent) -> pb::Component {
    let WriterComponent { name, files, version } = component.clone();
    pb::Component { name, files, version }
}

/// The level that is meant.
#[must_use]
pub const fn level(level: pb::WriterLevel) -> WriterLevel {
    match level {
        pb::WriterLevel::Unspecified | pb::WriterLevel::FrontEnd => WriterLevel::FrontEnd,
        pb::WriterLevel::BackEnd => WriterLevel::BackEnd,
        pb::WriterLevel::System => WriterLevel::System,
    }
}

impl From<WriterLevel> for pb::WriterLevel {
    fn from(level: WriterLevel) -> Self {
        match level {
            WriterLevel::FrontEnd => Self::FrontEnd,
            WriterLevel::BackEnd => Self::BackEnd,
            WriterLevel::System => Self::System,
        }
    }
}

/// The type that is meant: a copy if none is named.
#[must_use]
pub const fn backup_type(backup_type: pb::BackupType) -> BackupType {
    match backup_type {
        pb::BackupType::Unspecified | pb::BackupType::Copy => BackupType::Copy,
        pb::BackupType::Full => BackupType::Full,
        pb::BackupType::Incremental => BackupType::Incremental,
        pb::BackupType::Differential => BackupType::Differential,
        pb::BackupType::Log => BackupType::Log,
    }
}

impl From<BackupType> for pb::BackupType {
    fn from(backup_type: BackupType) -> Self {
        match backup_type {
            BackupType::Full => Self::Full,
            BackupType::Copy => Self::Copy,
            BackupType::Incremental => Self::Incremental,
            BackupType::Differential => Self::Differential,
            BackupType::Log => Self::Log,
        }
    }
}

/// The policy that is meant.
#[must_use]
pub const fn policy(policy: pb::WriterPolicy) -> WriterPolicy {
    match policy {
        pb::WriterPolicy::Unspecified | pb::WriterPolicy::Required => WriterPolicy::Required,
        pb::WriterPolicy::LeaveOut => WriterPolicy::LeaveOut,
    }
}

impl From<WriterPolicy> for pb::WriterPolicy {
    fn from(policy: WriterPolicy) -> Self {
        match policy {
            WriterPolicy::Required => Self::Required,
            WriterPolicy::LeaveOut => Self::LeaveOut,
        }
    }
}

/// The error that is meant; none if nothing went wrong.
#[must_use]
pub const fn error(error: pb::WriterError) -> Option<WriterError> {
    match error {
        pb::WriterError::Unspecified => None,
        pb::WriterError::InconsistentSnapshot => Some(WriterError::InconsistentSnapshot),
        pb::WriterError::OutOfResources => Some(WriterError::OutOfResources),
        pb::WriterError::TimedOut => Some(WriterError::TimedOut),
        pb::WriterError::Retryable => Some(WriterError::Retryable),
        pb::WriterError::NonRetryable => Some(WriterError::NonRetryable),
        pb::WriterError::NotResponding => Some(WriterError::NotResponding),
    }
}

impl From<WriterError> for pb::WriterError {
    fn from(error: WriterError) -> Self {
        match error {
            WriterError::InconsistentSnapshot => Self::InconsistentSnapshot,
            WriterError::OutOfResources => Self::OutOfResources,
            WriterError::TimedOut => Self::TimedOut,
            WriterError::Retryable => Self::Retryable,
            WriterError::NonRetryable => Self::NonRetryable,
            WriterError::NotResponding => Self::NotResponding,
        }
    }
}

/// The state that is meant.
#[must_use]
pub const fn state(state: pb::WriterState) -> WriterState {
    use WriterEvent as E;
    match state {
        pb::WriterState::Unspecified | pb::WriterState::Unknown => WriterState::Unknown,
        pb::WriterState::Stable => WriterState::Stable,
        pb::WriterState::WaitingForFreeze => WriterState::WaitingForFreeze,
        pb::WriterState::WaitingForThaw => WriterState::WaitingForThaw,
        pb::WriterState::WaitingForPostSnapshot => WriterState::WaitingForPostSnapshot,
        pb::WriterState::WaitingForBackupComplete => WriterState::WaitingForBackupComplete,
        pb::WriterState::FailedAtIdentify => WriterState::FailedAt(E::Identify),
        pb::WriterState::FailedAtPrepareBackup => WriterState::FailedAt(E::PrepareBackup),
        pb::WriterState::FailedAtPrepareSnapshot => WriterState::FailedAt(E::PrepareSnapshot),
        pb::WriterState::FailedAtFreeze => WriterState::FailedAt(E::Freeze),
        pb::WriterState::FailedAtThaw => WriterState::FailedAt(E::Thaw),
        pb::WriterState::FailedAtPostSnapshot => WriterState::FailedAt(E::PostSnapshot),
        pb::WriterState::FailedAtBackupComplete => WriterState::FailedAt(E::BackupComplete),
        pb::WriterState::FailedAtPreRestore => WriterState::FailedAt(E::PreRestore),
        pb::WriterState::FailedAtPostRestore => WriterState::FailedAt(E::PostRestore),
        pb::WriterState::FailedAtBackupShutdown => WriterState::FailedAt(E::BackupShutdown),
    }
}

impl From<WriterState> for pb::WriterState {
    fn from(state: WriterState) -> Self {
        use WriterEvent as E;
        match state {
            WriterState::Unknown => Self::Unknown,
            WriterState::Stable => Self::Stable,
            WriterState::WaitingForFreeze => Self::WaitingForFreeze,
            WriterState::WaitingForThaw => Self::WaitingForThaw,
            WriterState::WaitingForPostSnapshot => Self::WaitingForPostSnapshot,
            WriterState::WaitingForBackupComplete => Self::WaitingForBackupComplete,
            WriterState::FailedAt(E::Identify) => Self::FailedAtIdentify,
            WriterState::FailedAt(E::PrepareBackup) => Self::FailedAtPrepareBackup,
            WriterState::FailedAt(E::PrepareSnapshot) => Self::FailedAtPrepareSnapshot,
            WriterState::FailedAt(E::Freeze) => Self::FailedAtFreeze,
            WriterState::FailedAt(E::Thaw) => Self::FailedAtThaw,
            WriterState::FailedAt(E::PostSnapshot) => Self::FailedAtPostSnapshot,
            WriterState::FailedAt(E::BackupComplete) => Self::FailedAtBackupComplete,
            WriterState::FailedAt(E::PreRestore) => Self::FailedAtPreRestore,
            WriterState::FailedAt(E::PostRestore) => Self::FailedAtPostRestore,
            WriterState::FailedAt(E::BackupShutdown | E::Abort) => Self::FailedAtBackupShutdown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_on_the_wire_is_one_more_than_the_number_in_brackets() {
        for value in 1..=16 {
            let wire = pb::WriterState::try_from(value).unwrap();
            assert_eq!((i32::from(state(wire).number()) + 1, pb::WriterState::from(state(wire))), (value, wire));
        }
    }

    #[test]
    fn facts_arrive_as_they_were_sent() {
        let sent = WriterFacts {
            id: "id".into(),
            instance: "one".into(),
            level: WriterLevel::BackEnd,
            version: "15".into(),
            state: WriterState::WaitingForThaw,
            last_error: Some(WriterError::Retryable),
            components: vec![WriterComponent { name: "db".into(), files: vec!["/d".into()], version: "1".into() }],
            metadata: [("lsn".to_owned(), "0/1".to_owned())].into(),
            froze_in: Duration::from_millis(3),
        };
        assert_eq!(read_facts(&facts(&sent), sent.froze_in, str::to_owned), sent);
    }
}
