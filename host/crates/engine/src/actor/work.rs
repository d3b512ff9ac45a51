//! Seeing a job through.

use stillpoint_common::{Failure, OperationState, Reason};
use tokio::time::sleep;

use super::caught::caught;
use crate::{
    backups,
    context::Cx,
    describe,
    hub::Hub,
    job::Job,
    plans,
    saga::{Journal, wait_after},
};

/// Where the work on a job begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Nothing of it has been done.
    TheBeginning,
    /// An earlier service, or an attempt that panicked, has left it open.
    TheJournal,
}

/// Does a job to its end, and lets go of the VM. A panic is a defect: what it has left is recovered, as after a restart
/// of the service, for as long as it takes.
pub(super) async fn see_through(mut job: Job, cx: Cx, hub: &Hub, mut from: From) {
    let id = job.operation.id;
    tracing::info!(vm = %cx.vm, operation = %id, kind = ?job.operation.kind, ?from, "begun");
    for failures in 1.. {
        let work = caught(work(job.clone(), &cx, from)).await;
        let Err(panic) = work else { break };
        tracing::error!(vm = %cx.vm, operation = %id, %panic, "a defect; what it has left is recovered");
        cx.reporter.warn(format!("a defect of the service, which its log has more of: {panic}"));
        sleep(wait_after(failures)).await;
        match cx.catalogue().settled_job(id).await {
            Ok(Some(stored)) => (job, from) = (stored, From::TheJournal),
            Ok(None) => break,
            Err(failure) => tracing::error!(vm = %cx.vm, operation = %id, %failure, "the journal cannot be read"),
        }
        if !job.is_open() {
            cx.reporter.publish(job.operation);
            break;
        }
    }
    debug_assert!(cx.reporter.now().state != OperationState::Running, "nobody waits for ever");
    hub.leave(id);
}

/// There is no VM: one is being made, or was to be made.
pub(super) fn is_absent(failure: &Failure) -> bool {
    failure.reason == Reason::VmNotFound
}

async fn work(job: Job, cx: &Cx, from: From) {
    let id = job.operation.id;
    let mut journal = Journal::new(job, cx.catalogue().clone(), cx.reporter.clone());
    let result = match from {
        From::TheBeginning => plans::execute(&mut journal, cx).await,
        From::TheJournal => {
            if let Err(error) = plans::release_hold(cx).await {
                tracing::error!(vm = %cx.vm, error = %Failure::from(error), "a paused VM could not be resumed");
            }
            plans::recover(&mut journal, cx).await
        }
    };
    if let Err(failure) = &result {
        tracing::warn!(vm = %cx.vm, operation = %id, reason = failure.reason.code(), %failure, "failed");
        journal.add(backups::failed(cx.catalogue(), journal.job(), failure).await);
    }
    if let Err(failure) = plans::settle(cx).await.map_err(Failure::from)
        && !is_absent(&failure)
    {
        tracing::warn!(vm = %cx.vm, %failure, "the VM's process could not be observed");
    }
    match describe::settle(&cx.world, &cx.vm).await {
        Ok(settled) => journal.add(settled),
        Err(error) => {
            let failure = Failure::from(error);
            cx.reporter.warn(format!("the description files could not be written yet: {failure}"));
        }
    }
    journal.end(result, cx.ports().clock.now()).await;
}
