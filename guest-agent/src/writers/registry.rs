//! Who is registered, and how each stands.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use stillpoint_common::{WriterFacts, WriterOutcome, WriterResult, WriterState};
use tokio::sync::{mpsc, oneshot};
use tracing::info;
use uuid::Uuid;

use super::{
    course::{Key, Trouble},
    registration::{Done, Event, Failure, Registration},
};

/// Writers at once, at most.
const MAX_WRITERS: usize = 64;
/// Questions that wait for one writer, at most: one that leaves more unanswered does not answer at all.
const UNANSWERED: usize = 8;

/// A question on its way to a writer. Dropping it unanswered says that the writer is gone.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    pub event: Event,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Done, Failure>>,
}

/// Shared by all who deal with writers.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Small, and held for no longer than a look or a change.
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    writers: BTreeMap<Key, Entry>,
}

#[derive(Debug)]
struct Entry {
    registration: Arc<Registration>,
    facts: WriterFacts,
    questions: mpsc::Sender<Question>,
}

/// There are too many writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_WRITERS} writers are registered, more are not served")]
pub struct Full;

/// A registration, for as long as this lives.
#[derive(Debug)]
pub struct Attachment {
    registry: Registry,
    key: Key,
    /// What is asked of the writer.
    pub questions: mpsc::Receiver<Question>,
    /// Names it outside of the agent.
    pub instance: String,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(entry) = self.registry.lock().writers.remove(&self.key) {
            info!(writer = entry.registration.name, "writer left");
        }
    }
}

/// A way to a writer that was registered.
#[derive(Debug, Clone)]
pub struct Line {
    questions: mpsc::Sender<Question>,
}

impl Line {
    /// Asks. The answer comes, or the sender of it goes: then the writer is gone.
    ///
    /// # Errors
    /// If the writer is gone, or has answered nothing for too long.
    pub fn ask(&self, event: Event) -> Result<oneshot::Receiver<Result<Done, Failure>>, Trouble> {
        let (answer, answered) = oneshot::channel();
        let budget = event.budget;
        self.questions.try_send(Question { event, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Trouble::TimedOut(budget),
            mpsc::error::TrySendError::Closed(_) => Trouble::Vanished,
        })?;
        Ok(answered)
    }

    /// The writer is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.questions.is_closed()
    }
}

/// A writer as a session finds it.
#[derive(Debug)]
pub struct Found {
    /// Names it.
    pub key: Key,
    /// Who it is.
    pub registration: Arc<Registration>,
    /// How it stands.
    pub facts: WriterFacts,
    /// The way to it.
    pub line: Line,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a writer until what is answered is dropped.
    ///
    /// # Errors
    /// If there are too many.
    pub fn attach(&self, registration: Registration) -> Result<Attachment, Full> {
        let mut inner = self.lock();
        if inner.writers.len() >= MAX_WRITERS {
            return Err(Full);
        }
        let (ask, questions) = mpsc::channel(UNANSWERED);
        let key = Key(inner.next);
        inner.next += 1;
        let instance = Uuid::new_v4().to_string();
        let facts = WriterFacts {
            id: registration.id.clone(),
            instance: instance.clone(),
            level: registration.level,
            version: registration.version.clone(),
            state: WriterState::Stable,
            components: registration.components.clone(),
            ..WriterFacts::default()
        };
        info!(writer = registration.name, level = ?registration.level, "writer registered");
        let registration = Arc::new(registration);
        inner.writers.insert(key, Entry { registration, facts, questions: ask });
        Ok(Attachment { registry: self.clone(), key, questions, instance })
    }

    /// Every writer, by name.
    #[must_use]
    pub fn list(&self) -> Vec<WriterOutcome> {
        let inner = self.lock();
        let outcome = |entry: &Entry| {
            let facts = WriterFacts { metadata: BTreeMap::new(), ..entry.facts.clone() };
            WriterOutcome { facts, ..WriterOutcome::new(&entry.registration.name, WriterResult::Stable) }
        };
        let mut all: Vec<_> = inner.writers.values().map(outcome).collect();
        all.sort_by(|one, other| (&one.name, &one.facts.instance).cmp(&(&other.name, &other.facts.instance)));
        all
    }

    /// Processes that answer for writers, beside the agent's own.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.lock().writers.values().filter_map(|entry| entry.registration.process).collect()
    }

    /// Those that a session begins with.
    #[must_use]
    pub fn find_all(&self) -> Vec<Found> {
        let found = |(key, entry): (&Key, &Entry)| Found {
            key: *key,
            registration: Arc::clone(&entry.registration),
            facts: entry.facts.clone(),
            line: Line { questions: entry.questions.clone() },
        };
        self.lock().writers.iter().map(found).collect()
    }

    /// Notes how a writer stands, if it is still there.
    pub fn note(&self, key: Key, facts: &WriterFacts) {
        if let Some(entry) = self.lock().writers.get_mut(&key) {
            entry.facts = facts.clone();
        }
    }
}
