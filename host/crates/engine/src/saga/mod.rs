//! Plans as journalled sagas.
//!
//! A plan is a constant list of *bursts* of steps. Before a burst begins, the journal durably holds that each of its
//! steps may have begun; so nothing is ever done that recovery does not know of, and nothing is written in the middle
//! of a burst, where a guest may be held. After the commit all that is left will be done, begun or not, so that nothing
//! is marked there.
//!
//! ```text
//!  begin(burst) ── ensure, ensure, … ── begin(next burst) ── … ── commit ── … ── end
//!       │ failure or restart before the commit            │ after it
//!       └─ undo: holds on the guest first, then backwards  └─ finish
//! ```
//!
//! `ensure` looks and acts only if it is not so yet; `undo` does not mind a step that was never done. Both may run
//! twice. Undone steps are not marked: repeatable undos would only save time by it. Whoever has run a plan knows which of
//! its steps have begun, and undoes those; after a restart it is all that may have.
//!
//! An operation ends when it is undone or finished, and that is written down. What is [`Nature::Vital`] is tried again
//! for as long as it takes: the VM is busy meanwhile, which is better than a VM with two disks or two processes.

mod again;
mod journal;

use std::fmt::Debug;

use async_trait::async_trait;

use tokio::time::sleep;

pub(crate) use self::{
    again::{up_to, wait_after},
    journal::Journal,
};
use crate::{catalogue::Changes, context::Cx, error::StepError, job::Facts, ports::HypervisorError};

/// How often to try to take back a hold on the guest. After that, a note of it stays: see `plans::release_hold`.
const TRIES_OF_A_HOLD: u32 = 6;
/// How often to try to undo what would only be left over.
const TRIES: u32 = 3;

/// A step of a plan.
pub(crate) trait Step: Copy + Eq + Debug + Send + Sync + 'static {
    /// The phase whose duration clients are told; `None` for what is always quick.
    fn phase(self) -> Option<&'static str>;
    /// What it means to recovery.
    fn nature(self) -> Nature;
}

/// What a step means to recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    /// Undone in its turn. What cannot be undone is left over, and said.
    Plain,
    /// What it did must not be left: undone before the commit, done after it, again and again until it succeeds.
    Vital,
    /// Holds the guest: undone before everything else.
    Hold,
    /// Its changes and the mark that it is done are one transaction; from then on the plan is finished, not undone.
    Commit,
}

/// A constant list of steps with what to do and how to undo it.
#[async_trait]
pub(crate) trait Plan: Send {
    /// Its steps.
    type Step: Step;

    /// The list.
    fn bursts(&self) -> &'static [&'static [Self::Step]];
    /// What must be durable before the next burst begins.
    fn facts(&self) -> Facts;
    /// Makes it so, if it is not so yet. Answers what the catalogue shall say from now on.
    async fn ensure(&mut self, step: Self::Step, cx: &Cx) -> Result<Changes, StepError>;
    /// Makes it as before, if it is not so. Never called for steps after the commit.
    async fn undo(&mut self, step: Self::Step, cx: &Cx) -> Result<(), StepError>;
}

/// Runs a plan. On failure before its commit it has been undone; [`Journal::committed`] tells.
pub(crate) async fn run<P: Plan>(plan: &mut P, journal: &mut Journal, cx: &Cx) -> Result<(), StepError> {
    let result = forward(plan, journal, cx, 0).await;
    if result.is_err() && !journal.committed() {
        let begun = undo_order(plan.bursts(), |step| journal.has_begun(step));
        undo(plan, begun, journal, cx).await;
    }
    result
}

/// After a restart: finishes a plan past its commit, undoes any other. Answers whether it was finished.
pub(crate) async fn recover<P: Plan>(plan: &mut P, journal: &mut Journal, cx: &Cx) -> Result<bool, StepError> {
    if !journal.committed() {
        let begun = undo_order(plan.bursts(), |step| journal.may_have_begun(step));
        undo(plan, begun, journal, cx).await;
        return Ok(false);
    }
    let commits = |burst: &&[P::Step]| burst.iter().any(|step| step.nature() == Nature::Commit);
    let after = plan.bursts().iter().position(commits).map_or(0, |at| at + 1);
    forward(plan, journal, cx, after).await.map(|()| true)
}

async fn forward<P: Plan>(plan: &mut P, journal: &mut Journal, cx: &Cx, from: usize) -> Result<(), StepError> {
    for burst in &plan.bursts()[from..] {
        begin(plan, burst, journal, cx).await?;
        for &step in *burst {
            let phase = step.phase().map(|phase| cx.reporter.begin(phase));
            tracing::debug!(vm = %cx.vm, ?step, "ensure");
            journal.begins(step);
            let changes = ensure(plan, step, journal, cx).await?;
            phase.into_iter().for_each(|phase| cx.reporter.end(phase));
            journal.done(step, changes, plan.facts()).await?;
        }
    }
    Ok(())
}

/// After the commit there is no way back: the mark is written when the store can be written.
async fn begin<P: Plan>(plan: &P, burst: &[P::Step], journal: &mut Journal, cx: &Cx) -> Result<(), StepError> {
    for failures in 1.. {
        match journal.begin(burst, plan.facts()).await {
            Err(error) if journal.committed() => tracing::error!(vm = %cx.vm, %error, "the journal was not written"),
            begun => return begun,
        }
        sleep(wait_after(failures)).await;
    }
    Ok(())
}

async fn ensure<P: Plan>(plan: &mut P, step: P::Step, journal: &Journal, cx: &Cx) -> Result<Changes, StepError> {
    if !journal.committed() {
        return tokio::select! {
            biased;
            () = cx.cancel.cancelled() => Err(StepError::Cancelled),
            done = plan.ensure(step, cx) => done,
        };
    }
    for failures in 1.. {
        match plan.ensure(step, cx).await {
            Err(error) if step.nature() == Nature::Vital && !is_gone(&error) => {
                try_again(cx, format!("{step:?}"), error, failures).await;
            }
            done => return done,
        }
    }
    Ok(Changes::default())
}

async fn undo<P: Plan>(plan: &mut P, begun: Vec<P::Step>, journal: &mut Journal, cx: &Cx) {
    journal.forget_pending();
    for step in begun {
        tracing::debug!(vm = %cx.vm, ?step, "undo");
        if let Err(error) = undo_step(plan, step, cx).await {
            let failure = stillpoint_common::Failure::from(error);
            cx.reporter.warn(format!("undoing {step:?}: {failure}"));
        }
    }
}

async fn undo_step<P: Plan>(plan: &mut P, step: P::Step, cx: &Cx) -> Result<(), StepError> {
    let tries = match step.nature() {
        Nature::Hold => TRIES_OF_A_HOLD,
        Nature::Plain | Nature::Commit => TRIES,
        Nature::Vital => u32::MAX,
    };
    for failures in 1..=tries {
        match plan.undo(step, cx).await {
            Err(error) if failures < tries => try_again(cx, format!("undoing {step:?}"), error, failures).await,
            undone => return undone,
        }
    }
    Ok(())
}

/// Waits before what failed is tried again. One failure is no news; of more, those who watch are told once.
async fn try_again(cx: &Cx, what: String, error: StepError, failures: u32) {
    tracing::warn!(vm = %cx.vm, what, %error, failures, "will be tried again");
    if failures == TRIES {
        let failure = stillpoint_common::Failure::from(error);
        cx.reporter.warn(format!("{what}, which is tried again until it succeeds: {failure}"));
    }
    sleep(wait_after(failures)).await;
}

/// Of a process that has ended nothing more can be asked.
fn is_gone(error: &StepError) -> bool {
    matches!(error, StepError::Hypervisor(HypervisorError::Gone))
}

/// Holds on the guest first, then everything backwards.
fn undo_order<S: Step>(bursts: &[&[S]], begun: impl Fn(S) -> bool) -> Vec<S> {
    let steps: Vec<S> = bursts.iter().flat_map(|burst| burst.iter().copied()).filter(|step| begun(*step)).collect();
    let is_hold = |step: &S| step.nature() == Nature::Hold;
    let holds = steps.iter().rev().copied().filter(is_hold);
    let others = steps.iter().rev().copied().filter(|step| !is_hold(step));
    holds.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum S {
        Overlays,
        Freeze,
        Cut,
        Thaw,
        Publish,
    }

    impl Step for S {
        fn phase(self) -> Option<&'static str> {
            None
        }
        fn nature(self) -> Nature {
            match self {
                Self::Freeze => Nature::Hold,
                Self::Overlays | Self::Cut | Self::Thaw => Nature::Plain,
                Self::Publish => Nature::Commit,
            }
        }
    }

    #[test]
    fn the_guest_is_released_before_anything_else_is_undone() {
        let bursts: &[&[S]] = &[&[S::Overlays], &[S::Freeze, S::Cut, S::Thaw], &[S::Publish]];
        let order = undo_order(bursts, |step| step != S::Publish);
        assert_eq!(order, [S::Freeze, S::Thaw, S::Cut, S::Overlays]);
        assert_eq!(undo_order(bursts, |step| step == S::Overlays), [S::Overlays]);
    }
}
