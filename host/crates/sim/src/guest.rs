//! Guests as tests script them.

use std::time::Duration;

use stillpoint_common::{KeyValues, ObservedService};

/// What the guest of a VM does when it is asked. Kept per VM: a new instance of it behaves the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestScript {
    /// Whether an agent is there.
    pub agent: AgentScript,
    /// What comes of a freeze.
    pub freeze: FreezeScript,
    /// What comes of a thaw.
    pub thaw: ThawScript,
    /// What comes of a power button, and of the agent being asked to switch off.
    pub power: PowerScript,
    /// Registered writers.
    pub writers: Vec<ScriptedWriter>,
    /// Services that run in it.
    pub services: Vec<ObservedService>,
    /// What it tells its host.
    pub values: KeyValues,
    /// Its agent is from before there were beats and values.
    pub older: bool,
    /// Mount points of file systems that a freeze holds.
    pub file_systems: Vec<String>,
    /// The agent lets go at once when the service dies. By default it keeps to its lease, which is harder on the
    /// engine.
    pub thaws_when_host_is_lost: bool,
}

impl Default for GuestScript {
    /// An agent that does all it is asked, one file system, no writers.
    fn default() -> Self {
        Self {
            agent: AgentScript::Answers,
            freeze: FreezeScript::Holds,
            thaw: ThawScript::Answers,
            power: PowerScript::Obeys,
            writers: vec![],
            services: vec![],
            values: KeyValues::default(),
            older: false,
            file_systems: vec!["/".to_owned()],
            thaws_when_host_is_lost: false,
        }
    }
}

impl GuestScript {
    /// The same guest with one more writer.
    #[must_use]
    pub fn writer(mut self, name: &str, freeze: WriterScript) -> Self {
        self.writers.push(ScriptedWriter { freeze, ..ScriptedWriter::willing(name) });
        self
    }
}

/// Whether an agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentScript {
    /// It answers.
    Answers,
    /// There is none.
    Absent,
    /// It is there and answers nothing.
    Hangs,
    /// It speaks another version.
    Incompatible,
}

/// What comes of a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeScript {
    /// The guest is held until the thaw or the end of the lease.
    Holds,
    /// The guest is held, but the agent never says so.
    Hangs,
    /// The first file system cannot be frozen.
    Refused,
    /// There is no file system to freeze.
    Nothing,
    /// The guest is held, and lets go by itself after this time.
    LapsesAfter(Duration),
}

/// What comes of a thaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThawScript {
    /// The guest lets go and says whether it had held.
    Answers,
    /// No answer, and the hold stays until its lease ends.
    Hangs,
    /// An error, and the hold stays until its lease ends.
    Fails,
}

/// What comes of a wish to switch off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerScript {
    /// The guest switches off.
    Obeys,
    /// The agent agrees, and nothing happens.
    Ignores,
    /// The agent refuses.
    Refuses,
}

/// A writer of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptedWriter {
    /// Its name.
    pub name: String,
    /// What it does when it shall prepare.
    pub prepare: WriterScript,
    /// What it does when it shall freeze.
    pub freeze: WriterScript,
    /// What it does when it shall clean up.
    pub settle: WriterScript,
}

impl ScriptedWriter {
    /// One that does all it is asked.
    #[must_use]
    pub fn willing(name: &str) -> Self {
        let holds = WriterScript::Holds;
        Self { name: name.to_owned(), prepare: holds, freeze: holds, settle: holds }
    }
}

/// What a writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriterScript {
    /// What it is asked.
    Holds,
    /// It refuses.
    Refuses,
    /// It does not answer.
    Hangs,
}
