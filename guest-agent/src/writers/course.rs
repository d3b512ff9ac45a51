//! The course of one session through its writers: who is asked what next, what an answer means, and whether the session
//! may go on. Nothing here waits or sends.
//!
//! A session takes steps, a step has rounds, and all writers of a round are asked at once:
//!
//! ```text
//!   Prepare   Identify · PrepareBackup · PrepareSnapshot
//!   Freeze    front ends · back ends · system             then the file systems, and the cut
//!   Thaw      system · back ends · front ends             after the file systems
//!   Settle    PostSnapshot
//!   Complete  BackupComplete
//!   Abort     system · back ends · front ends             instead of the rest, from anywhere before the end of Settle
//!   Shutdown  BackupShutdown                              always
//! ```

use std::{sync::Arc, time::Duration};

use stillpoint_common::{
    WriterError, WriterEvent, WriterFacts, WriterLevel, WriterOutcome, WriterPolicy, WriterResult,
};
use tokio::time::Instant;

use super::{
    life,
    registration::{Done, Failure, Registration},
};

/// Names a registration within one life of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// A step of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Get ready.
    Prepare,
    /// Be quiet.
    Freeze,
    /// Go on.
    Thaw,
    /// Clean up.
    Settle,
    /// The data is safe.
    Complete,
    /// Undo everything.
    Abort,
    /// It is over.
    Shutdown,
}

/// Writers that are asked the same at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// What they are asked.
    pub event: WriterEvent,
    /// Only those of this level; none: all.
    pub level: Option<WriterLevel>,
}

const fn all(event: WriterEvent) -> Round {
    Round { event, level: None }
}

const fn of(event: WriterEvent, level: WriterLevel) -> Round {
    Round { event, level: Some(level) }
}

impl Step {
    /// Its rounds, in order.
    #[must_use]
    pub const fn rounds(self) -> &'static [Round] {
        use WriterEvent as E;
        use WriterLevel::{BackEnd, FrontEnd, System};
        match self {
            Self::Prepare => const { &[all(E::Identify), all(E::PrepareBackup), all(E::PrepareSnapshot)] },
            Self::Freeze => const { &[of(E::Freeze, FrontEnd), of(E::Freeze, BackEnd), of(E::Freeze, System)] },
            Self::Thaw => const { &[of(E::Thaw, System), of(E::Thaw, BackEnd), of(E::Thaw, FrontEnd)] },
            Self::Settle => const { &[all(E::PostSnapshot)] },
            Self::Complete => const { &[all(E::BackupComplete)] },
            Self::Abort => const { &[of(E::Abort, System), of(E::Abort, BackEnd), of(E::Abort, FrontEnd)] },
            Self::Shutdown => const { &[all(E::BackupShutdown)] },
        }
    }
}

/// Why a writer did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It said so.
    Refused(Failure),
    /// It did not answer in this time.
    TimedOut(Duration),
    /// Its connection ended.
    Vanished,
}

impl Trouble {
    fn result(&self) -> WriterResult {
        match self {
            Self::Refused(Failure { error: WriterError::TimedOut, .. }) | Self::TimedOut(_) => WriterResult::TimedOut,
            Self::Refused(_) => WriterResult::Refused,
            Self::Vanished => WriterResult::Vanished,
        }
    }

    /// What it is called.
    #[must_use]
    pub const fn error(&self) -> WriterError {
        match self {
            Self::Refused(failure) => failure.error,
            Self::TimedOut(_) => WriterError::TimedOut,
            Self::Vanished => WriterError::NotResponding,
        }
    }

    fn explain(&self, event: WriterEvent) -> String {
        match self {
            Self::Refused(failure) if failure.message.is_empty() => format!("it refused at {event:?}"),
            Self::Refused(failure) => format!("at {event:?}: {}", failure.message),
            Self::TimedOut(waited) => format!("it did not answer {event:?} within {waited:?}"),
            Self::Vanished => format!("its connection ended at {event:?}"),
        }
    }
}

/// How far a writer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Untouched,
    Prepared,
    Held,
    Thawed,
    Settled,
}

#[derive(Debug)]
struct Member {
    key: Key,
    registration: Arc<Registration>,
    facts: WriterFacts,
    progress: Progress,
    held_since: Option<Instant>,
    out: Option<(WriterEvent, Trouble)>,
    /// It has undone what was begun.
    aborted: bool,
}

/// One session's course.
#[derive(Debug)]
pub struct Course {
    members: Vec<Member>,
    policy: WriterPolicy,
}

impl Course {
    /// Begins with these writers.
    #[must_use]
    pub fn new(writers: Vec<(Key, Arc<Registration>, WriterFacts)>, policy: WriterPolicy) -> Self {
        let member = |(key, registration, facts)| Member {
            key,
            registration,
            facts: WriterFacts { metadata: Default::default(), ..facts },
            progress: Progress::Untouched,
            held_since: None,
            out: None,
            aborted: false,
        };
        Self { members: writers.into_iter().map(member).collect(), policy }
    }

    /// Whom a round asks, and how long each may take.
    #[must_use]
    pub fn asks(&self, round: Round) -> Vec<(Key, Duration)> {
        let level = |member: &&Member| round.level.is_none_or(|level| level == member.registration.level);
        let asked = self.members.iter().filter(level).filter(|member| member.is_asked(round.event));
        asked.map(|member| (member.key, member.registration.budgets.of(round.event))).collect()
    }

    /// What came of asking a writer.
    pub fn answered(
        &mut self,
        key: Key,
        event: WriterEvent,
        asked: Instant,
        now: Instant,
        result: Result<Done, Trouble>,
    ) {
        let Some(member) = self.members.iter_mut().find(|member| member.key == key) else { return };
        match result {
            Ok(done) => member.did(event, asked, now, done),
            Err(trouble) => member.failed(event, trouble),
        }
    }

    /// A writer's connection ended outside of a question.
    pub fn vanished(&mut self, key: Key) {
        if let Some(member) = self.members.iter_mut().find(|member| member.key == key && member.out.is_none()) {
            let during = if member.progress == Progress::Held { WriterEvent::Freeze } else { WriterEvent::Identify };
            member.out = Some((during, Trouble::Vanished));
        }
    }

    /// Whether the session may go on as a production checkpoint: every writer does as it is asked, or may be left out.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        match self.policy {
            WriterPolicy::Required => self.members.iter().all(|member| member.out.is_none()),
            WriterPolicy::LeaveOut => true,
        }
    }

    /// Every writer was held until its thaw, or left out and named.
    #[must_use]
    pub fn held_throughout(&self) -> bool {
        let held = |member: &Member| match member.result(self.policy) {
            WriterResult::Held | WriterResult::LeftOut => true,
            WriterResult::Stable | WriterResult::Refused | WriterResult::TimedOut | WriterResult::Vanished => false,
        };
        self.members.iter().all(held)
    }

    /// Writers that were left out, or failed, and have to undo what they may have begun.
    #[must_use]
    pub fn strays(&self) -> Vec<(Key, Duration)> {
        let stray = |member: &&Member| {
            let gone = matches!(member.out, Some((_, Trouble::Vanished)));
            member.out.is_some() && !gone && !member.aborted && member.progress < Progress::Settled
        };
        let budget = |member: &Member| (member.key, member.registration.budgets.of(WriterEvent::Abort));
        self.members.iter().filter(stray).map(budget).collect()
    }

    /// What became of each writer.
    #[must_use]
    pub fn outcomes(&self) -> Vec<WriterOutcome> {
        self.members.iter().map(|member| member.outcome(self.policy)).collect()
    }

    /// How a writer stands, for the registry.
    #[must_use]
    pub fn facts(&self, key: Key) -> Option<&WriterFacts> {
        self.members.iter().find(|member| member.key == key).map(|member| &member.facts)
    }

    /// Names of writers that stand in the way.
    #[must_use]
    pub fn in_the_way(&self) -> Vec<&str> {
        let out = self.members.iter().filter(|member| member.out.is_some());
        out.map(|member| member.registration.name.as_str()).collect()
    }
}

impl Member {
    fn is_asked(&self, event: WriterEvent) -> bool {
        let gone = matches!(self.out, Some((_, Trouble::Vanished)));
        match event {
            WriterEvent::Identify | WriterEvent::PrepareBackup | WriterEvent::PrepareSnapshot => self.out.is_none(),
            WriterEvent::Freeze => self.out.is_none() && self.progress == Progress::Prepared,
            WriterEvent::Thaw => self.out.is_none() && self.progress == Progress::Held,
            WriterEvent::PostSnapshot => self.out.is_none() && self.progress == Progress::Thawed,
            WriterEvent::BackupComplete => self.out.is_none() && self.progress == Progress::Settled,
            WriterEvent::Abort => !gone && !self.aborted && self.progress < Progress::Settled,
            WriterEvent::BackupShutdown => !gone,
            WriterEvent::PreRestore | WriterEvent::PostRestore => false,
        }
    }

    fn did(&mut self, event: WriterEvent, asked: Instant, now: Instant, done: Done) {
        if event == WriterEvent::Thaw
            && let Some(limit) = self.registration.budgets.hold
            && self.held_since.is_some_and(|since| now - since > limit)
        {
            let message = format!("it can be held for {limit:?} and was held longer");
            return self.failed(event, Trouble::Refused(Failure::timed_out(message)));
        }
        self.facts.state = life::after(self.facts.state, event, true);
        if let Some(components) = done.components {
            self.facts.components = components;
        }
        self.facts.metadata.extend(done.metadata);
        match event {
            WriterEvent::PrepareSnapshot => self.progress = Progress::Prepared,
            WriterEvent::Freeze => {
                self.progress = Progress::Held;
                self.held_since = Some(now);
                self.facts.froze_in = now - asked;
            }
            WriterEvent::Thaw => self.progress = Progress::Thawed,
            WriterEvent::PostSnapshot => {
                self.progress = Progress::Settled;
                self.facts.last_error = None;
            }
            WriterEvent::Abort => {
                self.aborted = true;
                self.progress = Progress::Untouched;
            }
            WriterEvent::Identify
            | WriterEvent::PrepareBackup
            | WriterEvent::BackupComplete
            | WriterEvent::BackupShutdown
            | WriterEvent::PreRestore
            | WriterEvent::PostRestore => {}
        }
    }

    /// What went wrong first is what is told: that an abort was not answered either says nothing new.
    fn failed(&mut self, event: WriterEvent, trouble: Trouble) {
        if event == WriterEvent::Abort {
            self.aborted = true;
        }
        if self.out.is_none() {
            self.facts.state = life::after(self.facts.state, event, false);
            self.facts.last_error = Some(trouble.error());
            self.out = Some((event, trouble));
        }
    }

    fn result(&self, policy: WriterPolicy) -> WriterResult {
        match (&self.out, policy) {
            // It had been held; what it did with the good news afterwards is in its state.
            (Some((WriterEvent::BackupComplete | WriterEvent::BackupShutdown, _)), _) => WriterResult::Held,
            (Some(_), WriterPolicy::LeaveOut) => WriterResult::LeftOut,
            (Some((_, trouble)), WriterPolicy::Required) => trouble.result(),
            (None, _) if self.progress >= Progress::Held => WriterResult::Held,
            (None, _) => WriterResult::Stable,
        }
    }

    fn outcome(&self, policy: WriterPolicy) -> WriterOutcome {
        let detail = self.out.as_ref().map(|(event, trouble)| trouble.explain(*event)).unwrap_or_default();
        let name = self.registration.name.clone();
        WriterOutcome { name, result: self.result(policy), detail, facts: self.facts.clone() }
    }
}

#[cfg(test)]
mod tests;
