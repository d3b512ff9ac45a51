//! Freezes and thaws for a host that speaks as to qemu-ga: with writers, a lease and the guardian, as for our own.
//!
//! Such a host has no session. Its freeze opens one, with all of its steps; its thaw closes it. In between it ends when the
//! lease does, or when another host comes; then there is nothing left to thaw, and the thaw says so.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use stillpoint_common::{FileSystemResult, SessionId, Thawed, WriterRequest};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::command::Refused;
use crate::{
    coordinator::{Coordinator, Turn},
    freezer::{FreezeOrder, FreezerGone, ThawReport, select::Scope},
    work::{self, Done},
    writers::conductor::{Orders, Writers},
};

/// How long writers may prepare.
const PREPARE: Duration = Duration::from_secs(40);

/// Holds the guest for such a host.
pub(super) struct Holder {
    coordinator: Coordinator,
    lease: Duration,
    held: Option<Held>,
}

struct Held {
    turn: Turn,
    writers: Writers,
    lapse: oneshot::Receiver<ThawReport>,
}

impl Holder {
    pub(super) const fn new(coordinator: Coordinator, lease: Duration) -> Self {
        Self { coordinator, lease, held: None }
    }

    pub(super) const fn is_frozen(&self) -> bool {
        self.held.is_some()
    }

    /// Waits until the hold is over without a thaw; for ever, if there is none. Then [`Self::release`] is due. Dropping the
    /// future is fine.
    pub(super) async fn is_over(&mut self) {
        match &mut self.held {
            Some(held) => tokio::select! {
                _ = &mut held.lapse => warn!("the lease ended before the host thawed"),
                () = held.turn.host_replaced() => info!("another host ends what this one has frozen"),
            },
            None => std::future::pending().await,
        }
    }

    /// Freezes everything, or of it only what is mounted here. Answers how many file systems are frozen.
    ///
    /// # Errors
    /// Why nothing is.
    pub(super) async fn freeze(&mut self, only: Option<Vec<PathBuf>>) -> Result<usize, Refused> {
        let turn = self.coordinator.begin().await;
        let turn = turn.ok_or_else(|| Refused::because("another session holds the guest, or is about to"))?;
        let scope = self.scope(only);
        let request = WriterRequest::default();
        let orders = Orders { session: SessionId::generate(), request, prepare: PREPARE, lease: self.lease };
        let writers = Writers::begin(self.coordinator.writers.clone(), orders);
        let frozen = match self.try_to(&turn, &writers, scope).await {
            Ok(Done::Frozen(report, _)) => report,
            Ok(Done::Refused(refusal, _)) => {
                writers.end().await;
                return Err(Refused::because(refusal.message));
            }
            Ok(Done::Prepared(..) | Done::Thawed(..) | Done::Settled(_) | Done::Completed(_)) => {
                writers.end().await;
                return Err(Refused::because("the agent failed"));
            }
            Err(gone) => {
                writers.end().await;
                return Err(Refused::because(gone.to_string()));
            }
        };
        let is_frozen = |result: FileSystemResult| result == FileSystemResult::Frozen;
        let count = frozen.file_systems.iter().filter(|file_system| is_frozen(file_system.result)).count();
        self.held = Some(Held { turn, writers, lapse: frozen.lapse });
        Ok(count)
    }

    async fn try_to(&self, turn: &Turn, writers: &Writers, scope: Scope) -> Result<Done, FreezerGone> {
        let prepared = work::prepare(turn.freezer.clone(), writers.voice.clone(), scope.clone()).await?;
        if !matches!(prepared, Done::Prepared(..)) {
            return Ok(prepared);
        }
        let cancel = Arc::<AtomicBool>::default();
        let order = FreezeOrder { scope, lease: self.lease, budget: self.lease, cancel };
        work::freeze(turn.freezer.clone(), writers.voice.clone(), order).await
    }

    fn scope(&self, only: Option<Vec<PathBuf>>) -> Scope {
        let Some(only) = only else { return self.coordinator.scope(Vec::new()) };
        let others = self.coordinator.plan().targets.into_iter();
        let others = others.filter(|target| !target.mounts.iter().any(|(_, path)| only.contains(path)));
        self.coordinator.scope(others.flat_map(|target| target.mounts).map(|(_, path)| path).collect())
    }

    /// Lets the guest go. Answers how many file systems were frozen until now: none, if the hold was over before.
    ///
    /// # Errors
    /// A writer was not held until now, although the file systems were; they are thawed all the same.
    pub(super) async fn thaw(&mut self) -> Result<usize, Refused> {
        let Some(Held { turn, writers, mut lapse }) = self.held.take() else { return Ok(0) };
        let thawed = work::thaw(turn.freezer.clone(), writers.voice.clone()).await;
        let Ok(Done::Thawed(report, _)) = thawed else {
            return Err(Refused::because("the freezer has failed: the guardian thaws"));
        };
        let lapsed = lapse.try_recv().is_ok();
        tokio::spawn(settle(turn, writers));
        if lapsed { Ok(0) } else { thawed_by_us(&report) }
    }

    /// Lets the guest go without being asked. Fine if nothing is held.
    pub(super) async fn release(&mut self) {
        let Some(Held { turn, writers, .. }) = self.held.take() else { return };
        if let Err(gone) = turn.freezer.thaw().await {
            warn!(%gone, "the guardian has to thaw");
        }
        writers.end().await;
    }
}

/// A file system that was not frozen until now says why. If all were, it was a writer that was not held.
fn thawed_by_us(report: &ThawReport) -> Result<usize, Refused> {
    let frozen = report.file_systems.iter().filter(|one| one.result == FileSystemResult::Frozen);
    let (until_now, lost): (Vec<_>, Vec<_>) = frozen.partition(|one| one.detail.is_empty());
    match report.outcome {
        None => Ok(0),
        Some(Thawed::Lapsed) if lost.is_empty() => Err(Refused::because(report.message.clone())),
        Some(Thawed::HeldThroughout | Thawed::Lapsed) => Ok(until_now.len()),
    }
}

/// Writers clean up after the cut, and the next session begins when they have. Nobody tells them when the data is safe.
async fn settle(turn: Turn, writers: Writers) {
    let _ = work::settle(writers.voice.clone()).await;
    writers.end().await;
    drop(turn);
}
