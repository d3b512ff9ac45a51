//! What a writer says of itself, and what it is asked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use stillpoint_common::{BackupType, SessionId, WriterComponent, WriterError, WriterEvent, WriterLevel};

/// Who a writer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// What people call it.
    pub name: String,
    /// The kind of writer: a UUID, the same on every machine.
    pub id: String,
    /// Its level.
    pub level: WriterLevel,
    /// Version of the application.
    pub version: String,
    /// What it looks after.
    pub components: Vec<WriterComponent>,
    /// How long it may take.
    pub budgets: Budgets,
    /// The types of backups that it can tell from a full one.
    pub backup_types: Vec<BackupType>,
    /// The process that answers, if it is another one than the agent.
    pub process: Option<u32>,
}

impl Registration {
    /// A writer with the usual budgets that looks after nothing that it names.
    #[must_use]
    pub fn new(name: impl Into<String>, id: impl Into<String>, level: WriterLevel) -> Self {
        Self {
            name: name.into(),
            id: id.into(),
            level,
            version: String::new(),
            components: Vec::new(),
            budgets: Budgets::default(),
            backup_types: Vec::new(),
            process: None,
        }
    }
}

/// How long a writer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// Identify: 5 s.
    pub identify: Duration,
    /// `PrepareBackup` and `PrepareSnapshot`, each: 30 s.
    pub prepare: Duration,
    /// Freeze: 10 s.
    pub freeze: Duration,
    /// The longest time it can be held; no limit of its own.
    pub hold: Option<Duration>,
    /// Thaw and Abort, each: 3 s.
    pub thaw: Duration,
    /// What comes after the cut, each: 30 s.
    pub finish: Duration,
}

impl Default for Budgets {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            identify: seconds(5),
            prepare: seconds(30),
            freeze: seconds(10),
            hold: None,
            thaw: seconds(3),
            finish: seconds(30),
        }
    }
}

impl Budgets {
    /// How long the answer to this may take.
    #[must_use]
    pub const fn of(&self, event: WriterEvent) -> Duration {
        match event {
            WriterEvent::Identify => self.identify,
            WriterEvent::PrepareBackup | WriterEvent::PrepareSnapshot => self.prepare,
            WriterEvent::Freeze => self.freeze,
            WriterEvent::Thaw | WriterEvent::Abort => self.thaw,
            WriterEvent::PostSnapshot
            | WriterEvent::BackupComplete
            | WriterEvent::BackupShutdown
            | WriterEvent::PreRestore
            | WriterEvent::PostRestore => self.finish,
        }
    }
}

/// Something that a writer is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The session it belongs to, if it belongs to one.
    pub session: Option<SessionId>,
    /// How long the answer is waited for.
    pub budget: Duration,
    /// What is asked.
    pub ask: Ask,
}

/// What a writer is asked, with what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Say what you are made of.
    Identify,
    /// A checkpoint is to be made: slow work may begin. May be refused.
    PrepareBackup(BackupType),
    /// The cut is near: all that is heavy. May be refused.
    PrepareSnapshot,
    /// Be quiet, for this time at most. The last chance to refuse.
    Freeze {
        /// If neither Thaw nor Abort has come by then, go on.
        window: Duration,
    },
    /// Go on. An error says that the writer was not quiet all the time.
    Thaw,
    /// The cut is made: clean up, and say what is worth keeping.
    PostSnapshot,
    /// The data is safe. Nothing may be cut after a copy.
    BackupComplete(BackupType),
    /// The session is over, however it ended.
    BackupShutdown,
    /// Undo everything that was done in the session. May come more than once.
    Abort,
    /// The files are those of a checkpoint: stop, close, be ready to look anew.
    PreRestore(Arc<Restored>),
    /// The files are in place: go on from them.
    PostRestore(Arc<Restored>),
}

impl Ask {
    /// Which event it is.
    #[must_use]
    pub const fn event(&self) -> WriterEvent {
        match self {
            Self::Identify => WriterEvent::Identify,
            Self::PrepareBackup(_) => WriterEvent::PrepareBackup,
            Self::PrepareSnapshot => WriterEvent::PrepareSnapshot,
            Self::Freeze { .. } => WriterEvent::Freeze,
            Self::Thaw => WriterEvent::Thaw,
            Self::PostSnapshot => WriterEvent::PostSnapshot,
            Self::BackupComplete(_) => WriterEvent::BackupComplete,
            Self::BackupShutdown => WriterEvent::BackupShutdown,
            Self::Abort => WriterEvent::Abort,
            Self::PreRestore(_) => WriterEvent::PreRestore,
            Self::PostRestore(_) => WriterEvent::PostRestore,
        }
    }
}

/// A checkpoint that was applied, as one writer is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Which one.
    pub checkpoint: String,
    /// The memory was restored too: the application goes on from the instant of the cut.
    pub with_memory: bool,
    /// The writer was held when the checkpoint was made.
    pub was_held: bool,
    /// What the writer gave to be kept.
    pub metadata: BTreeMap<String, String>,
}

/// What was asked is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Done {
    /// What the writer looks after, in place of what it said before; none: as before.
    pub components: Option<Vec<WriterComponent>>,
    /// What is to be kept with the checkpoint; a later value of a key replaces an earlier one.
    pub metadata: BTreeMap<String, String>,
}

impl Done {
    /// Done, and this is to be kept.
    #[must_use]
    pub fn keeping<const N: usize>(metadata: [(&str, String); N]) -> Self {
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Self { components: None, metadata }
    }
}

/// What was asked is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What went wrong.
    pub error: WriterError,
    /// The same for a person.
    pub message: String,
}

impl Failure {
    /// Would happen again.
    #[must_use]
    pub fn non_retryable(message: impl Into<String>) -> Self {
        Self { error: WriterError::NonRetryable, message: message.into() }
    }

    /// May be over next time.
    #[must_use]
    pub fn retryable(message: impl Into<String>) -> Self {
        Self { error: WriterError::Retryable, message: message.into() }
    }

    /// Was not ready, or not quiet, in its time.
    #[must_use]
    pub fn timed_out(message: impl Into<String>) -> Self {
        Self { error: WriterError::TimedOut, message: message.into() }
    }
}
