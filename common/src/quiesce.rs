//! What host and guest tell each other about a quiesce session.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{BackupType, CheckpointId, ObservedService, SessionId, WriterFacts, WriterPolicy};

/// What the agent says of its guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDescription {
    /// Version of the agent.
    pub agent_version: String,
    /// The guest's own host name.
    pub hostname: String,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Every mounted file system, and whether a freeze would hold it.
    pub file_systems: Vec<FileSystemOutcome>,
    /// Registered writers.
    pub writers: Vec<WriterOutcome>,
    /// Services that the agent has seen among the guest's processes.
    #[serde(default)]
    pub services: Vec<ObservedService>,
}

/// What the host asks for when it opens a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuiesceRequest {
    /// Names the session in every later call.
    pub session: SessionId,
    /// The longest time the guest may be held. The guest ends it by itself.
    pub lease: Duration,
    /// What writers are asked for.
    pub writers: WriterRequest,
}

/// What writers are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterRequest {
    /// The longest time that writers may be held, from before the first is frozen. At least the lease, which is part of
    /// it.
    pub window: Duration,
    /// What becomes of the session when one cannot be held.
    pub policy: WriterPolicy,
    /// What the backup means for their history.
    pub backup_type: BackupType,
}

impl Default for WriterRequest {
    fn default() -> Self {
        Self { window: Duration::from_secs(60), policy: WriterPolicy::default(), backup_type: BackupType::default() }
    }
}

/// The guest is ready to be frozen; nothing is held yet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Prepared {
    /// File systems that will be frozen, and those that will not with the reason.
    pub file_systems: Vec<FileSystemOutcome>,
    /// Writers that will be frozen.
    pub writers: Vec<WriterOutcome>,
}

/// The guest is held. Its lease runs since before the first file system was frozen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Frozen {
    /// File systems with what became of them.
    pub file_systems: Vec<FileSystemOutcome>,
    /// Writers with what became of them.
    pub writers: Vec<WriterOutcome>,
}

/// How a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Thawed {
    /// Everything was still held when the thaw came: what was cut in between is consistent.
    HeldThroughout,
    /// Something had been let go before: what was cut in between proves nothing.
    Lapsed,
}

/// One file system of the guest in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemOutcome {
    /// Where it is mounted in the guest.
    pub mount_point: String,
    /// What it is mounted from.
    pub source: String,
    /// `ext4`, `xfs`, …
    pub fs_type: String,
    /// What became of it.
    pub result: FileSystemResult,
    /// Why, when it was left out or failed; else empty.
    pub detail: String,
    /// How long its freeze took.
    pub took: Duration,
}

/// What became of a file system in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FileSystemResult {
    /// Will be frozen.
    Selected,
    /// Was frozen.
    Frozen,
    /// Needs no freeze: read-only, in memory, on the network, or seen already under another mount point.
    LeftOut,
    /// Could not be frozen.
    Failed,
}

/// One writer of the guest in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterOutcome {
    /// The writer's name.
    pub name: String,
    /// What became of it.
    pub result: WriterResult,
    /// Why, when it refused or failed; else empty.
    pub detail: String,
    /// What else is known of it.
    #[serde(default)]
    pub facts: WriterFacts,
}

impl WriterOutcome {
    /// A writer of which nothing else is known.
    #[must_use]
    pub fn new(name: impl Into<String>, result: WriterResult) -> Self {
        Self { name: name.into(), result, detail: String::new(), facts: WriterFacts::default() }
    }
}

/// What became of a writer in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WriterResult {
    /// Registered, nothing asked yet.
    Stable,
    /// Held through the cut.
    Held,
    /// Refused.
    Refused,
    /// Did not answer in time.
    TimedOut,
    /// Its connection ended.
    Vanished,
    /// It could not be held, and the checkpoint was made without it.
    LeftOut,
}

/// A checkpoint that a VM was brought back to, as its guest is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// Names this restore: the generation id that the VM got with it.
    pub id: Uuid,
    /// Which checkpoint.
    pub checkpoint: CheckpointId,
    /// The memory was restored too.
    pub with_memory: bool,
    /// The writers of the checkpoint.
    pub writers: Vec<RestoredWriter>,
}

/// A writer as it was when a checkpoint was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredWriter {
    /// Its name.
    pub name: String,
    /// The kind of writer.
    pub id: String,
    /// It was held when the checkpoint was made.
    pub was_held: bool,
    /// What it gave to be kept.
    pub metadata: BTreeMap<String, String>,
}

impl From<&WriterOutcome> for RestoredWriter {
    fn from(writer: &WriterOutcome) -> Self {
        Self {
            name: writer.name.clone(),
            id: writer.facts.id.clone(),
            was_held: writer.result == WriterResult::Held,
            metadata: writer.facts.metadata.clone(),
        }
    }
}

/// The guest's clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSet {
    /// How far the guest's clock was off before, in milliseconds: negative means behind.
    pub was_off_by_ms: i64,
    /// How far off it may still be: half the shortest round trip.
    pub uncertainty: Duration,
}
