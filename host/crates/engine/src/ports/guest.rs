//! The port to the agent in a guest.

use std::time::Duration;

use async_trait::async_trait;
use stillpoint_common::{
    Beat, ClockSet, FallbackReason, Frozen, GuestDescription, InstanceId, KeyValues, Prepared, QuiesceRequest, Restore,
    SessionId, Thawed, ToldValues, WriterOutcome,
};

/// Talks to the agent of an instance. The guest is not trusted: every answer is bounded in size and time.
#[async_trait]
pub trait GuestQuiesce: Send + Sync {
    /// What the agent says of its guest.
    async fn describe(&self, instance: InstanceId) -> Result<GuestDescription, QuiesceError>;

    /// Opens a quiesce session: the agent looks at its file systems and writers prepare. Nothing is held yet.
    ///
    /// A session that an earlier host left open in the guest has been thawed when this returns.
    async fn prepare(&self, instance: InstanceId, request: &QuiesceRequest) -> Result<Prepared, QuiesceError>;

    /// Holds the guest: afterwards no writer and no file system of the guest writes to its disks, until the thaw or the
    /// end of the lease. On failure nothing is held any more.
    async fn freeze(&self, instance: InstanceId, session: SessionId) -> Result<Frozen, QuiesceError>;

    /// Lets the guest write again. Calling it twice, or with a session that already lapsed, is fine.
    ///
    /// [`Thawed::Lapsed`] means the guest let go before we asked: the disks may have changed under the cut, so the
    /// caller must not call the checkpoint a production one. So does an error.
    async fn thaw(&self, instance: InstanceId, session: SessionId) -> Result<Thawed, QuiesceError>;

    /// Lets writers clean up after the cut, and answers what became of each and what it wants to be kept.
    ///
    /// After the thaw. One that fails is an error, unless it may be left out: the cut is not what it must be for it.
    async fn settle(&self, instance: InstanceId, session: SessionId) -> Result<Vec<WriterOutcome>, QuiesceError>;

    /// Tells writers that the data is safe: from now on they may cut their logs, if the type of the backup allows it.
    /// Never before it is. A writer that is not reached keeps its logs, which costs space and nothing else.
    async fn complete(&self, instance: InstanceId, session: SessionId) -> Result<Vec<WriterOutcome>, QuiesceError>;

    /// Ends a session. Thaws if it was still held; writers that were not settled undo what they had begun.
    async fn finish(&self, instance: InstanceId, session: SessionId) -> Result<(), QuiesceError>;

    /// Sets the guest's clock to the host's time. Whatever the guest still held for an earlier life of the VM or of this
    /// service is let go first: a guest whose memory was kept while it was quiet goes on at once.
    async fn set_clock(&self, instance: InstanceId) -> Result<ClockSet, QuiesceError>;

    /// Says that the guest was brought back to a checkpoint: writers are told. Returns when the agent has accepted it. Told
    /// twice, it is told once.
    async fn restored(&self, instance: InstanceId, restore: &Restore) -> Result<(), QuiesceError>;

    /// Asks the guest's system to switch off or restart. Returns when it has agreed, not when it has happened.
    async fn power(&self, instance: InstanceId, action: PowerAction) -> Result<(), QuiesceError>;

    /// A sign of life. Changes nothing in the guest, and lets nothing go.
    async fn beat(&self, instance: InstanceId) -> Result<Beat, QuiesceError>;

    /// Gives the guest the values that its host has set for it, in the place of those given before.
    async fn set_values(&self, instance: InstanceId, values: &KeyValues) -> Result<(), QuiesceError>;

    /// What the guest tells its host.
    async fn values(&self, instance: InstanceId) -> Result<ToldValues, QuiesceError>;

    /// Forgets an instance that is gone.
    async fn forget(&self, instance: InstanceId);
}

/// What a guest's system can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAction {
    /// Switch off.
    PowerOff,
    /// Restart.
    Reboot,
}

/// Why a guest was not made quiet.
#[derive(Debug, thiserror::Error)]
pub enum QuiesceError {
    /// No agent answered.
    #[error("no guest agent answers: {why}")]
    Unreachable {
        /// What was seen of the channel.
        why: String,
    },
    /// The agent speaks another version of the protocol.
    #[error("guest agent {version} cannot be used: {why}")]
    Incompatible {
        /// Its version.
        version: String,
        /// What does not fit.
        why: String,
    },
    /// The agent is there, and does not know this call: it is older than the host.
    #[error("guest agent {version} does not know it: {why}")]
    Unknown {
        /// Its version.
        version: String,
        /// Which call.
        why: String,
    },
    /// The agent was there and did not answer this in time.
    #[error("guest agent did not answer {call} within {waited:?}")]
    Unanswered {
        /// Which call.
        call: &'static str,
        /// How long we waited.
        waited: Duration,
    },
    /// A writer refused.
    #[error("writer {writer} refused: {detail}")]
    WriterRefused {
        /// Which one.
        writer: String,
        /// Its words.
        detail: String,
    },
    /// A writer did not answer in time.
    #[error("writer {writer} did not answer in time")]
    WriterTimedOut {
        /// Which one.
        writer: String,
    },
    /// A file system could not be frozen.
    #[error("file system {mount_point} cannot be frozen: {detail}")]
    FileSystemRefused {
        /// Where it is mounted.
        mount_point: String,
        /// The guest kernel's words.
        detail: String,
    },
    /// The guest has no file system that a freeze would hold.
    #[error("the guest has no file system that can be frozen")]
    NothingToFreeze,
    /// The VM is paused or saved: its guest cannot be asked. Decided by the engine, never answered by an agent.
    #[error("{why}")]
    Paused {
        /// In words.
        why: String,
    },
    /// The VM is set so that its guest is not asked. Decided by the engine, never answered by an agent.
    #[error("service QUIESCE of the guest is switched off for this VM")]
    SwitchedOff,
    /// The session ended before it was asked to: lease over, or agent restarted.
    #[error("the quiesce session is over: {why}")]
    Lapsed {
        /// What ended it.
        why: String,
    },
    /// The agent failed in a way of its own.
    #[error("guest agent failed: {message}")]
    Failed {
        /// Its words.
        message: String,
    },
}

impl QuiesceError {
    /// The reason to store on a checkpoint that became a standard one because of this.
    #[must_use]
    pub const fn fallback_reason(&self) -> FallbackReason {
        match self {
            Self::Unreachable { .. } | Self::Failed { .. } => FallbackReason::AgentUnreachable,
            Self::Incompatible { .. } | Self::Unknown { .. } => FallbackReason::AgentIncompatible,
            Self::Unanswered { .. } => FallbackReason::FreezeTimedOut,
            Self::WriterRefused { .. } => FallbackReason::WriterRefused,
            Self::WriterTimedOut { .. } => FallbackReason::WriterTimedOut,
            Self::FileSystemRefused { .. } => FallbackReason::FileSystemRefused,
            Self::Paused { .. } => FallbackReason::VmNotRunning,
            Self::NothingToFreeze => FallbackReason::NothingToFreeze,
            Self::SwitchedOff => FallbackReason::QuiesceSwitchedOff,
            Self::Lapsed { .. } => FallbackReason::HoldLapsed,
        }
    }
}
