//! Writers: applications in a guest that take part in quiescing. The words are those of VSS, and so are the numbers of
//! the states, which administrators know from `vssadmin list writers`.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// Where a writer stands among the others: who writes to whom.
///
/// Front ends are frozen first and thawed last, so that nothing is left half done in the back end that they write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WriterLevel {
    /// Serves users, writes to back ends.
    #[default]
    FrontEnd,
    /// Keeps the data of others: a database.
    BackEnd,
    /// A part of the system that both stand on.
    System,
}

impl WriterLevel {
    /// In the order of freezing.
    pub const ALL: [Self; 3] = [Self::FrontEnd, Self::BackEnd, Self::System];
}

/// What a writer is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WriterEvent {
    /// Say what you are made of. May come at any time.
    Identify,
    /// A checkpoint is to be made: slow work may begin.
    PrepareBackup,
    /// The cut is near: drain, write out, all that is heavy.
    PrepareSnapshot,
    /// Be quiet. The last chance to refuse.
    Freeze,
    /// Go on.
    Thaw,
    /// The cut is made: clean up, and say what is worth keeping.
    PostSnapshot,
    /// The data is safe: logs may be cut, as the type of the backup allows.
    BackupComplete,
    /// The session is over, however it ended.
    BackupShutdown,
    /// Undo everything that was done for it. May come more than once.
    Abort,
    /// The files under you are those of a checkpoint: stop, close, be ready to look anew.
    PreRestore,
    /// They are in place: go on from them.
    PostRestore,
}

/// Where a writer stands in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WriterState {
    /// Nobody has asked.
    #[default]
    Unknown,
    /// Nothing is asked of it.
    Stable,
    /// It is prepared.
    WaitingForFreeze,
    /// It is quiet.
    WaitingForThaw,
    /// It goes on, and has not cleaned up.
    WaitingForPostSnapshot,
    /// It has cleaned up, and waits to hear that the data is safe.
    WaitingForBackupComplete,
    /// It failed there. Stays until its next session that goes well.
    FailedAt(WriterEvent),
}

impl WriterState {
    /// The number that `vssadmin` prints in brackets.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Stable => 1,
            Self::WaitingForFreeze => 2,
            Self::WaitingForThaw => 3,
            Self::WaitingForPostSnapshot => 4,
            Self::WaitingForBackupComplete => 5,
            Self::FailedAt(WriterEvent::Identify) => 6,
            Self::FailedAt(WriterEvent::PrepareBackup) => 7,
            Self::FailedAt(WriterEvent::PrepareSnapshot) => 8,
            Self::FailedAt(WriterEvent::Freeze) => 9,
            Self::FailedAt(WriterEvent::Thaw) => 10,
            Self::FailedAt(WriterEvent::PostSnapshot) => 11,
            Self::FailedAt(WriterEvent::BackupComplete) => 12,
            Self::FailedAt(WriterEvent::PreRestore) => 13,
            Self::FailedAt(WriterEvent::PostRestore) => 14,
            // VSS has no number of its own for a failed abort: the session is over for this writer all the same.
            Self::FailedAt(WriterEvent::BackupShutdown | WriterEvent::Abort) => 15,
        }
    }
}

impl fmt::Display for WriterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "Unknown",
            Self::Stable => "Stable",
            Self::WaitingForFreeze => "Waiting for freeze",
            Self::WaitingForThaw => "Waiting for thaw",
            Self::WaitingForPostSnapshot => "Waiting for post-snapshot",
            Self::WaitingForBackupComplete => "Waiting for completion",
            Self::FailedAt(WriterEvent::Identify) => "Failed at identify",
            Self::FailedAt(WriterEvent::PrepareBackup) => "Failed at prepare for backup",
            Self::FailedAt(WriterEvent::PrepareSnapshot) => "Failed at prepare for snapshot",
            Self::FailedAt(WriterEvent::Freeze) => "Failed at freeze",
            Self::FailedAt(WriterEvent::Thaw) => "Failed at thaw",
            Self::FailedAt(WriterEvent::PostSnapshot) => "Failed at post-snapshot",
            Self::FailedAt(WriterEvent::BackupComplete) => "Failed at completion",
            Self::FailedAt(WriterEvent::PreRestore) => "Failed at pre-restore",
            Self::FailedAt(WriterEvent::PostRestore) => "Failed at post-restore",
            Self::FailedAt(WriterEvent::BackupShutdown | WriterEvent::Abort) => "Failed at shutdown",
        })
    }
}

/// What went wrong with a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WriterError {
    /// The cut would leave out disks that the writer's data lies on.
    InconsistentSnapshot,
    /// It has no memory, space or connection for it.
    OutOfResources,
    /// It was not ready in its time.
    TimedOut,
    /// Something that may be over next time.
    Retryable,
    /// Something that would happen again.
    NonRetryable,
    /// It is gone, or says nothing.
    NotResponding,
}

impl WriterError {
    /// What the one who wanted the checkpoint should do.
    #[must_use]
    pub const fn retry(self) -> Retry {
        match self {
            Self::InconsistentSnapshot => Retry::WithMoreDisks,
            Self::OutOfResources | Self::TimedOut | Self::Retryable => Retry::Later,
            Self::NonRetryable | Self::NotResponding => Retry::GiveUp,
        }
    }
}

impl fmt::Display for WriterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::InconsistentSnapshot => "Inconsistent checkpoint",
            Self::OutOfResources => "Out of resources",
            Self::TimedOut => "Timed out",
            Self::Retryable => "Retryable error",
            Self::NonRetryable => "Non-retryable error",
            Self::NotResponding => "Not responding",
        })
    }
}

/// What to do about a writer's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Put the missing disks in.
    WithMoreDisks,
    /// Wait ten minutes, and try up to three times.
    Later,
    /// Mend the writer first.
    GiveUp,
}

impl Retry {
    /// How often it is worth trying again, and after how long each time.
    #[must_use]
    pub const fn schedule(self) -> (u32, Duration) {
        match self {
            Self::Later => (3, Duration::from_secs(600)),
            Self::WithMoreDisks | Self::GiveUp => (0, Duration::ZERO),
        }
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::WithMoreDisks => "put the disks that it needs into the checkpoint",
            Self::Later => "wait 10 minutes and try again, up to 3 times",
            Self::GiveUp => "mend the writer first",
        })
    }
}

/// What a backup means for an application's own history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BackupType {
    /// Everything; later incremental ones build on it, and logs may be cut.
    Full,
    /// Everything, and nobody's history is touched: no log is cut. What a checkpoint is unless it is asked otherwise.
    #[default]
    Copy,
    /// What changed since the last full or incremental one; logs may be cut.
    Incremental,
    /// What changed since the last full one; logs are usually kept.
    Differential,
    /// Log files only, which are usually cut.
    Log,
}

impl BackupType {
    /// What it is for a writer that knows only these types: one that it does not know is a full backup, except a copy,
    /// whose promise to touch nothing holds for everybody.
    #[must_use]
    pub fn for_writer(self, known: &[Self]) -> Self {
        if self == Self::Copy || known.contains(&self) { self } else { Self::Full }
    }
}

/// What becomes of a production checkpoint when a writer cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WriterPolicy {
    /// It is not a production checkpoint.
    #[default]
    Required,
    /// The writer is left out and named, and the checkpoint is not called application-consistent.
    LeaveOut,
}

/// A part of what a writer looks after.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WriterComponent {
    /// Its name: a database, a service.
    pub name: String,
    /// Files and folders of it, in the guest.
    pub files: Vec<String>,
    /// Version of what wrote them.
    pub version: String,
}

/// What is known of a writer beside its name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WriterFacts {
    /// The kind of writer; the same on every machine.
    pub id: String,
    /// This registration of it.
    pub instance: String,
    /// Its level.
    pub level: WriterLevel,
    /// Version of the application.
    pub version: String,
    /// Where it stands.
    pub state: WriterState,
    /// What went wrong last; cleared by a session that goes well.
    pub last_error: Option<WriterError>,
    /// What it looks after.
    pub components: Vec<WriterComponent>,
    /// What it wants to be kept and given back at a restore: positions, names, settings.
    pub metadata: BTreeMap<String, String>,
    /// How long its freeze took.
    pub froze_in: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_numbers_that_administrators_know() {
        let waiting = [
            WriterState::Unknown,
            WriterState::Stable,
            WriterState::WaitingForFreeze,
            WriterState::WaitingForThaw,
            WriterState::WaitingForPostSnapshot,
            WriterState::WaitingForBackupComplete,
        ];
        let events = [
            WriterEvent::Identify,
            WriterEvent::PrepareBackup,
            WriterEvent::PrepareSnapshot,
            WriterEvent::Freeze,
            WriterEvent::Thaw,
            WriterEvent::PostSnapshot,
            WriterEvent::BackupComplete,
            WriterEvent::PreRestore,
            WriterEvent::PostRestore,
            WriterEvent::BackupShutdown,
        ];
        let all: Vec<_> =
            waiting.into_iter().chain(events.map(WriterState::FailedAt)).map(WriterState::number).collect();
        assert_eq!(all, (0..=15).collect::<Vec<_>>());
    }

    #[test]
    fn a_type_that_a_writer_does_not_know_is_a_full_backup_to_it_but_a_copy_stays_one() {
        assert_eq!(BackupType::Incremental.for_writer(&[BackupType::Full]), BackupType::Full);
        assert_eq!(BackupType::Incremental.for_writer(&[BackupType::Incremental]), BackupType::Incremental);
        assert_eq!(BackupType::Copy.for_writer(&[]), BackupType::Copy);
    }

    #[test]
    fn what_may_be_over_is_tried_three_times() {
        assert_eq!(WriterError::Retryable.retry().schedule(), (3, Duration::from_secs(600)));
        assert_eq!(WriterError::NonRetryable.retry().schedule().0, 0);
    }
}
