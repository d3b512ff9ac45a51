//! Moves the data of a layer down into the one below it, while the VM runs.
//!
//! ```text
//! middle:  running ─▶ concluded (the layer above names the parent now) ─▶ child closed
//! head:    running ─▶ ready (child and parent are kept the same) ─▶ finish ─▶ concluded ─▶ child closed
//! ```
//! What has been done is decided by the chain, never by the job: a job may have ended, or been forgotten, with the
//! service that started it. A job's id is made of its child's, so that a later service finds it and goes on.
//!
//! What a merge may copy follows what the guest suffers ([`pace`]).
//!
//! A guest that writes to the head as fast as its layers are copied would never let the merge become ready. When
//! everything was copied once and it still is not ready for [`PATIENCE`], what the guest may write to this disk is
//! limited, step by step. The limit stays until the merge is finished or given up, so that little is left to copy while
//! the VM is paused for the end.

mod convergence;
mod pace;
mod stream;

use std::time::Duration;

use stillpoint_common::{DiskName, LayerId, MergeDirection, Progress};
use stillpoint_engine::ports::{HypervisorError, LiveMerge, ProgressSink};
use tokio::{
    sync::broadcast,
    time::{Instant, timeout},
};

use crate::{
    attached::{Attached, refused},
    disks,
    nodes::{backend, backing_name, format_node},
    qmp::{
        Event,
        commands::{
            BlockCommit, BlockJobSetSpeed, Job, JobCancel, JobComplete, JobDismiss, QueryBlockStats, QueryJobs,
            SetThrottle, ThrottleLimits,
        },
    },
};
pub(crate) use stream::{cancel as cancel_stream, stream};

use convergence::Convergence;
#[cfg(doc)]
use convergence::PATIENCE;
use pace::{Kind, Load, Pace, Served};

/// Where a merge stands, by the chain.
enum Place {
    /// The child is not in the chain any more: done.
    Gone,
    /// The child is the head.
    Head,
    /// The child lies below another layer; this is the head.
    Middle(LayerId),
}

/// See [`stillpoint_engine::ports::Hypervisor::merge`].
pub(crate) async fn merge(at: &Attached, merge: &LiveMerge, progress: &ProgressSink) -> Result<(), HypervisorError> {
    let mut jobs = Jobs::of(at, merge);
    let place = place(at, merge).await?;
    if matches!(place, Place::Gone) {
        return close(at, merge, &jobs).await;
    }
    let found = jobs.goes_on().await?;
    if found == Found::Nothing {
        start(at, merge, &place, &jobs.id).await?;
    }
    let done = follow(at, &mut jobs, (&merge.disk, MergeDirection::Down), found, progress).await;
    match done {
        Ok(Followed::Ready) => Ok(()),
        Ok(Followed::Ended(error)) => conclude(at, merge, &jobs, error).await,
        Err(error) => Err(error),
    }
}

/// See [`stillpoint_engine::ports::Hypervisor::finish_merge`]. What the guest wrote last is copied first; with the VM
/// paused that ends soon.
pub(crate) async fn finish(at: &Attached, merge: &LiveMerge) -> Result<(), HypervisorError> {
    let mut jobs = Jobs::of(at, merge);
    if matches!(place(at, merge).await?, Place::Gone) {
        return close(at, merge, &jobs).await;
    }
    let deadline = Instant::now() + at.deadlines.drain;
    let mut told = false;
    let error = loop {
        match jobs.look().await? {
            None if !told => {
                return Err(HypervisorError::WrongState(format!("no merge of {} is at work", merge.child)));
            }
            None => break None,
            Some(job) if has_ended(&job) => break job.error,
            Some(job) if job.status == "ready" && !told => {
                at.run(&JobComplete { id: &jobs.id }).await?;
                told = true;
                continue;
            }
            Some(_) if Instant::now() >= deadline => {
                let waited = at.deadlines.drain;
                return Err(HypervisorError::Unanswered { command: "job-complete".to_owned(), waited });
            }
            Some(_) => jobs.changed(Duration::from_millis(5)).await,
        }
    };
    conclude(at, merge, &jobs, error).await
}

/// See [`stillpoint_engine::ports::Hypervisor::cancel_merge`].
pub(crate) async fn cancel(at: &Attached, merge: &LiveMerge) -> Result<(), HypervisorError> {
    let jobs = Jobs::of(at, merge);
    jobs.clear().await?;
    throttle(at, &merge.disk, 0).await?;
    if matches!(place(at, merge).await?, Place::Gone) { disks::detach(at, &[merge.child]).await } else { Ok(()) }
}

async fn place(at: &Attached, merge: &LiveMerge) -> Result<Place, HypervisorError> {
    let layers = at.layers().await?;
    let chain = layers.chains.get(&merge.disk).map_or(&[][..], Vec::as_slice);
    let Some(position) = chain.iter().position(|layer| *layer == merge.child) else { return Ok(Place::Gone) };
    if chain.get(position + 1) != Some(&merge.parent.id) {
        let (child, parent) = (merge.child, merge.parent.id);
        return Err(HypervisorError::WrongState(format!("the layer {parent} is not right below {child}")));
    }
    Ok(if position == 0 { Place::Head } else { Place::Middle(chain[0]) })
}

async fn start(at: &Attached, merge: &LiveMerge, place: &Place, job: &str) -> Result<(), HypervisorError> {
    let (head, backing_file) = match place {
        Place::Middle(head) => {
            let name = backing_name(&merge.parent.path).map_err(|message| refused("block-commit", message))?;
            (*head, Some(name))
        }
        Place::Head | Place::Gone => (merge.child, None),
    };
    let command = BlockCommit {
        job_id: job,
        device: &format_node(head),
        top_node: &format_node(merge.child),
        base_node: &format_node(merge.parent.id),
        backing_file: backing_file.as_deref(),
        auto_dismiss: false,
    };
    at.drain(&command).await.map(drop)
}

/// What there was of a job before we began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// It is at work, and may be limited.
    Job,
}

/// How following a job ended.
enum Followed {
    /// Child and parent are kept the same.
    Ready,
    /// The job is over, with this error.
    Ended(Option<String>),
}

/// Follows a job until it is ready or over, and sees to it that the guest suffers little. A merge downwards may have to
/// slow the guest down to come to its end; upwards the guest's writes add nothing to what there is to copy.
async fn follow(
    at: &Attached,
    jobs: &mut Jobs<'_>,
    (disk, direction): (&DiskName, MergeDirection),
    found: Found,
    progress: &ProgressSink,
) -> Result<Followed, HypervisorError> {
    let (mut convergence, mut pace) = (Convergence::default(), Pace::new(at.pace, found == Found::Job));
    loop {
        let Some(job) = jobs.look().await? else { return Ok(Followed::Ended(None)) };
        progress(Progress { done: job.current_progress, total: job.total_progress });
        if has_ended(&job) {
            return Ok(Followed::Ended(job.error));
        }
        if job.status == "ready" {
            if pace.is_limited() {
                jobs.set_speed(0).await?;
            }
            return Ok(Followed::Ready);
        }
        if pace.is_due(Instant::now())
            && let Some(speed) = pace.next(&job, load(at).await?, Instant::now())
        {
            tracing::debug!(%disk, speed, "the speed of a merge follows what the guest suffers");
            jobs.set_speed(speed).await?;
        }
        match (direction, convergence.next_limit(&job, Instant::now())) {
            (MergeDirection::Down, Some(limit)) => {
                tracing::info!(%disk, limit, "limiting the guest's writes so that a merge comes to its end");
                throttle(at, disk, limit).await?;
            }
            (MergeDirection::Up, _) | (MergeDirection::Down, None) => {}
        }
        jobs.changed(Duration::from_millis(100)).await;
    }
}

/// What the disks of the guest have done for it.
async fn load(at: &Attached) -> Result<Load, HypervisorError> {
    let mut load = Load::new();
    for device in at.run(&QueryBlockStats {}).await? {
        let stats = device.stats;
        let of = |count: u64, nanos: u64| Served { count, time: Duration::from_nanos(nanos) };
        let writes = stats.wr_operations.saturating_add(stats.flush_operations);
        let nanos = stats.wr_total_time_ns.saturating_add(stats.flush_total_time_ns);
        load.insert((device.qdev.clone(), Kind::Write), of(writes, nanos));
        load.insert((device.qdev, Kind::Read), of(stats.rd_operations, stats.rd_total_time_ns));
    }
    Ok(load)
}

/// Limits the guest's writes to this many bytes a second; 0 lifts the limit.
async fn throttle(at: &Attached, disk: &DiskName, bytes: u64) -> Result<(), HypervisorError> {
    let limits = ThrottleLimits { bps_wr: bytes, iops_wr: bytes >> 14, ..ThrottleLimits::default() };
    at.run(&SetThrottle { id: &backend(disk), limits }).await.map(drop)
}

/// The job is over: the chain says whether it did it.
async fn conclude(
    at: &Attached,
    merge: &LiveMerge,
    jobs: &Jobs<'_>,
    error: Option<String>,
) -> Result<(), HypervisorError> {
    if matches!(place(at, merge).await?, Place::Gone) {
        return close(at, merge, jobs).await;
    }
    jobs.clear().await?;
    throttle(at, &merge.disk, 0).await?;
    Err(failed("block-commit", &merge.disk, error))
}

/// Why a job did not do it, with the disk: QEMU names none.
fn failed(command: &str, disk: &DiskName, error: Option<String>) -> HypervisorError {
    let why = error.unwrap_or_else(|| "the merge was cancelled".to_owned());
    refused(command, format!("disk {disk}: {why}"))
}

/// Done: forgets the job, lifts the limit, and closes what left the chain.
async fn close(at: &Attached, merge: &LiveMerge, jobs: &Jobs<'_>) -> Result<(), HypervisorError> {
    jobs.clear().await?;
    throttle(at, &merge.disk, 0).await?;
    disks::detach(at, &[merge.child]).await
}

/// The job of one merge.
struct Jobs<'a> {
    at: &'a Attached,
    id: String,
    events: Option<broadcast::Receiver<Event>>,
}

impl<'a> Jobs<'a> {
    fn of(at: &'a Attached, merge: &LiveMerge) -> Self {
        Self::named(at, format!("merge-{}", merge.child))
    }

    fn named(at: &'a Attached, id: String) -> Self {
        Self { at, id, events: at.client.events() }
    }

    /// How it stands. `None` if there is none.
    async fn look(&self) -> Result<Option<Job>, HypervisorError> {
        Ok(self.at.run(&QueryJobs {}).await?.into_iter().find(|job| job.id == self.id))
    }

    /// Whether one is at work, which a service before us has started. One that is over is forgotten.
    async fn goes_on(&self) -> Result<Found, HypervisorError> {
        match self.look().await? {
            None => Ok(Found::Nothing),
            Some(job) if has_ended(&job) => self.clear().await.map(|()| Found::Nothing),
            Some(_) => Ok(Found::Job),
        }
    }

    /// Limits what it copies to so many bytes a second; 0 is no limit. A job that has ended meanwhile needs none.
    async fn set_speed(&self, speed: u64) -> Result<(), HypervisorError> {
        tolerate(self.at.run(&BlockJobSetSpeed { device: &self.id, speed }).await)
    }

    /// Returns when a job has changed its state, or after this time.
    async fn changed(&mut self, at_most: Duration) {
        let wait = async {
            match &mut self.events {
                Some(events) => while events.recv().await.is_ok_and(|event| event.name != "JOB_STATUS_CHANGE") {},
                None => std::future::pending().await,
            }
        };
        let _ = timeout(at_most, wait).await;
    }

    /// Gives the job up if it is at work, and forgets it. Afterwards there is none.
    async fn clear(&self) -> Result<(), HypervisorError> {
        let deadline = Instant::now() + self.at.deadlines.drain;
        let mut cancelled = false;
        while let Some(job) = self.look().await? {
            if has_ended(&job) {
                return tolerate(self.at.run(&JobDismiss { id: &self.id }).await);
            }
            if !cancelled {
                tolerate(self.at.run(&JobCancel { id: &self.id }).await)?;
                cancelled = true;
            }
            if Instant::now() >= deadline {
                let waited = self.at.deadlines.drain;
                return Err(HypervisorError::Unanswered { command: "job-cancel".to_owned(), waited });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

/// A job may end between looking at it and telling it something.
fn tolerate<T>(answer: Result<T, HypervisorError>) -> Result<(), HypervisorError> {
    match answer {
        Ok(_) | Err(HypervisorError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn has_ended(job: &Job) -> bool {
    matches!(job.status.as_str(), "concluded" | "null")
}
