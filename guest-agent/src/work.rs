//! What a session does with writers and file systems together, and in which order: writers are held first and let go
//! last, so that nobody waits for a frozen file system to do as it is asked.

use std::{future::Future, pin::Pin};

use stillpoint_common::{Thawed, WriterOutcome};

use crate::{
    freezer::{
        FreezeOrder, Freezer, FreezerGone, FrozenReport, Refusal, RefusalReason, ThawReport,
        select::{Plan, Scope},
    },
    writers::{
        conductor::{Report, Voice},
        course::Step,
    },
};

/// What is under way, or came of it.
pub(crate) type Work = Pin<Box<dyn Future<Output = Result<Done, FreezerGone>> + Send>>;

pub(crate) enum Done {
    Prepared(Plan, Vec<WriterOutcome>),
    Frozen(FrozenReport, Vec<WriterOutcome>),
    Refused(Refusal, Vec<WriterOutcome>),
    Thawed(ThawReport, Vec<WriterOutcome>),
    Settled(Vec<WriterOutcome>),
    Completed(Vec<WriterOutcome>),
}

pub(crate) async fn prepare(freezer: Freezer, writers: Voice, scope: Scope) -> Result<Done, FreezerGone> {
    let told = writers.step(Step::Prepare).await;
    if !told.go_on {
        return Ok(refused(told));
    }
    Ok(Done::Prepared(freezer.write_out(scope).await?, told.writers))
}

pub(crate) async fn freeze(freezer: Freezer, writers: Voice, order: FreezeOrder) -> Result<Done, FreezerGone> {
    let told = writers.step(Step::Freeze).await;
    if !told.go_on {
        return Ok(refused(told));
    }
    Ok(match freezer.freeze(order).await? {
        Ok(frozen) => Done::Frozen(frozen, told.writers),
        Err(refusal) => Done::Refused(refusal, told.writers),
    })
}

/// Held throughout only if every file system was, and every writer that was not left out.
pub(crate) async fn thaw(freezer: Freezer, writers: Voice) -> Result<Done, FreezerGone> {
    let mut report = freezer.thaw().await?;
    let told = writers.step(Step::Thaw).await;
    if report.outcome == Some(Thawed::HeldThroughout) && !told.held {
        report.outcome = Some(Thawed::Lapsed);
        report.message = told.message;
    }
    Ok(Done::Thawed(report, told.writers))
}

pub(crate) async fn settle(writers: Voice) -> Result<Done, FreezerGone> {
    let told = writers.step(Step::Settle).await;
    Ok(Done::Settled(told.writers))
}

pub(crate) async fn complete(writers: Voice) -> Result<Done, FreezerGone> {
    let told = writers.step(Step::Complete).await;
    Ok(Done::Completed(told.writers))
}

fn refused(told: Report) -> Done {
    let reason = if told.given_up { RefusalReason::Cancelled } else { RefusalReason::Writer };
    Done::Refused(Refusal { reason, message: told.message, file_systems: Vec::new() }, told.writers)
}
