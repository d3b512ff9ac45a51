//! The journal of one operation: what is durable about it.

use stillpoint_common::{Failure, Outcome};
use tokio::time::sleep;

use super::{Nature, Step, again::wait_after};
use crate::{
    catalogue::{Catalogue, Changes},
    context::Reporter,
    error::StepError,
    events,
    job::{Facts, Job},
    ports::StoreError,
};

/// Writes a job down, one transaction at a time.
pub(crate) struct Journal {
    job: Job,
    catalogue: Catalogue,
    reporter: Reporter,
    /// Steps of this attempt that were begun by this process.
    begun: Vec<String>,
    /// Changes of steps that are done, to be written with the next transaction.
    pending: Changes,
}

impl Journal {
    pub(crate) fn new(job: Job, catalogue: Catalogue, reporter: Reporter) -> Self {
        Self { job, catalogue, reporter, begun: Vec::new(), pending: Changes::default() }
    }

    pub(crate) fn job(&self) -> &Job {
        &self.job
    }

    /// Whether the commit point has passed.
    pub(crate) fn committed(&self) -> bool {
        self.job.committed
    }

    /// Whether a step of an attempt that this process may know nothing of may have been begun.
    pub(super) fn may_have_begun<S: Step>(&self, step: S) -> bool {
        self.job.started.contains(&format!("{step:?}"))
    }

    /// Whether a step of this process's own attempt was begun.
    pub(super) fn has_begun<S: Step>(&self, step: S) -> bool {
        self.begun.contains(&format!("{step:?}"))
    }

    /// A step is about to be done.
    pub(super) fn begins<S: Step>(&mut self, step: S) {
        self.begun.push(format!("{step:?}"));
    }

    /// Forgets the steps of an attempt that was undone. What is durable changes with the beginning of the next one, in
    /// one transaction.
    pub(crate) fn next_attempt(&mut self) {
        self.job.started.clear();
        self.begun.clear();
        self.job.facts = Facts::None;
    }

    /// What steps had to say is not so any more: they are undone.
    pub(super) fn forget_pending(&mut self) {
        self.pending = Changes::default();
    }

    /// The same job goes on with another plan. What the first one has committed stays.
    pub(crate) fn next_plan(&mut self) {
        self.next_attempt();
        self.job.committed = false;
    }

    /// Makes durable that these steps may have begun, and all that was done before. A burst that only commits needs no
    /// mark: its one transaction happens or does not. Nor does one after the commit: it is done in any case.
    pub(crate) async fn begin<S: Step>(&mut self, burst: &[S], facts: Facts) -> Result<(), StepError> {
        let only_commits = burst.iter().all(|step| step.nature() == Nature::Commit);
        if only_commits || (self.job.committed && self.pending.is_empty()) {
            return Ok(());
        }
        self.job.started.extend(burst.iter().map(|step| format!("{step:?}")));
        self.flush(facts).await
    }

    /// Notes that a step is done; a commit is written at once, together with its changes.
    pub(crate) async fn done<S: Step>(&mut self, step: S, changes: Changes, facts: Facts) -> Result<(), StepError> {
        self.pending = std::mem::take(&mut self.pending).and(changes);
        if step.nature() != Nature::Commit {
            return Ok(());
        }
        self.job.committed = true;
        let written = self.flush(facts).await;
        if written.is_err() {
            self.job.committed = self.is_committed_after_all().await;
        }
        if self.job.committed { Ok(()) } else { written }
    }

    /// A store that failed may have written all the same, or do so later. What was promised is never taken back, so
    /// this waits until it is known.
    async fn is_committed_after_all(&self) -> bool {
        let id = self.job.operation.id;
        for failures in 1.. {
            match self.catalogue.settled_job(id).await {
                Ok(stored) => return stored.is_some_and(|stored| stored.committed),
                Err(error) => tracing::error!(operation = %id, %error, "cannot find out whether it is committed"),
            }
            sleep(wait_after(failures)).await;
        }
        false
    }

    /// Writes down facts and all that was done.
    async fn flush(&mut self, facts: Facts) -> Result<(), StepError> {
        self.job.facts = facts;
        self.job.operation = self.reporter.now();
        let changes = std::mem::take(&mut self.pending).set_job(&self.job);
        Ok(self.catalogue.commit(changes).await?)
    }

    /// Adds what is to be written with the end. Later changes of the same record win.
    pub(crate) fn add(&mut self, changes: Changes) {
        self.pending = changes.and(std::mem::take(&mut self.pending));
    }

    /// Writes down how it ended, and tells those who watch. Nobody is told of an end that is not durable: while it
    /// cannot be written, the operation is not over.
    pub(crate) async fn end(mut self, result: Result<Outcome, Failure>, now: jiff::Timestamp) {
        self.job.operation = self.reporter.now();
        let ended = self.job.ended(result, now);
        let changes = self.pending.set_job(&ended);
        let changes = events::ended::of(&ended).iter().fold(changes, |changes, event| changes.event(event));
        for failures in 1.. {
            match self.catalogue.commit(changes.clone()).await {
                Ok(()) => break,
                Err(error @ (StoreError::Conflict { .. } | StoreError::TooLarge { .. } | StoreError::Newer { .. })) => {
                    // The job stays open in the store; the next start of the service recovers it.
                    tracing::error!(operation = %ended.operation.id, %error, "the end of an operation cannot be written");
                    break;
                }
                Err(error @ StoreError::Failed { .. }) => {
                    tracing::error!(operation = %ended.operation.id, %error, "the end of an operation was not written");
                    sleep(wait_after(failures)).await;
                }
            }
        }
        self.reporter.publish(ended.operation);
    }
}
