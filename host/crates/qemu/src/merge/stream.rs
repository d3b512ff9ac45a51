//! Moves the data of a layer up into the one that lies on it, while the VM runs.
//!
//! ```text
//! running ─▶ concluded (the child lies on the base now, and says so) ─▶ child flushed ─▶ parent closed
//! ```
//! The child reads the same at every moment, and what had moved needs not move again. As with a merge downwards, what has
//! been done is decided by the chain.

use stillpoint_common::{LayerId, MergeDirection};
use stillpoint_engine::ports::{HypervisorError, LiveStream, ProgressSink};

use super::{Followed, Found, Jobs, failed, follow};
use crate::{
    attached::{Attached, refused},
    disks,
    nodes::{backing_name, format_node},
    qmp::commands::{BlockStream, HumanCommand},
};

/// See [`stillpoint_engine::ports::Hypervisor::stream`].
pub(crate) async fn stream(at: &Attached, stream: &LiveStream, progress: &ProgressSink) -> Result<(), HypervisorError> {
    let mut jobs = jobs(at, stream);
    if is_done(at, stream).await? {
        return close(at, stream, &jobs).await;
    }
    let found = jobs.goes_on().await?;
    if found == Found::Nothing {
        start(at, stream, &jobs.id).await?;
    }
    let error = match follow(at, &mut jobs, (&stream.disk, MergeDirection::Up), found, progress).await? {
        Followed::Ended(error) => error,
        Followed::Ready => None,
    };
    if is_done(at, stream).await? {
        return close(at, stream, &jobs).await;
    }
    jobs.clear().await?;
    Err(failed("block-stream", &stream.disk, error))
}

/// See [`stillpoint_engine::ports::Hypervisor::cancel_stream`].
pub(crate) async fn cancel(at: &Attached, stream: &LiveStream) -> Result<(), HypervisorError> {
    jobs(at, stream).clear().await
}

fn jobs<'a>(at: &'a Attached, stream: &LiveStream) -> Jobs<'a> {
    Jobs::named(at, format!("stream-{}", stream.child))
}

/// The parent is not in the chain any more. Refuses layers that do not lie on each other.
async fn is_done(at: &Attached, stream: &LiveStream) -> Result<bool, HypervisorError> {
    let layers = at.layers().await?;
    let chain = layers.chains.get(&stream.disk).map_or(&[][..], Vec::as_slice);
    let Some(parent) = chain.iter().position(|layer| *layer == stream.parent) else { return Ok(true) };
    let above = parent.checked_sub(1).map(|above| chain[above]);
    if above != Some(stream.child) || chain.get(parent + 1) != Some(&stream.base.id) {
        let (child, parent, base) = (stream.child, stream.parent, stream.base.id);
        let message = format!("the layers {child}, {parent} and {base} do not lie on each other");
        return Err(HypervisorError::WrongState(message));
    }
    Ok(false)
}

async fn start(at: &Attached, stream: &LiveStream, job: &str) -> Result<(), HypervisorError> {
    let name = backing_name(&stream.base.path).map_err(|message| refused("block-stream", message))?;
    let command = BlockStream {
        job_id: job,
        device: &format_node(stream.child),
        base_node: &format_node(stream.base.id),
        backing_file: &name,
        auto_dismiss: false,
    };
    at.drain(&command).await.map(drop)
}

/// Done: the child's data is in its file before anybody gives up the parent's.
async fn close(at: &Attached, stream: &LiveStream, jobs: &Jobs<'_>) -> Result<(), HypervisorError> {
    jobs.clear().await?;
    flush(at, stream.child).await?;
    disks::detach(at, &[stream.parent]).await
}

/// Writes out what QEMU holds back of a layer's metadata. A layer below the head was flushed when the job gave it back;
/// for the head there is no other command.
async fn flush(at: &Attached, layer: LayerId) -> Result<(), HypervisorError> {
    let line = format!("qemu-io {} \"flush\"", format_node(layer));
    let said = at.drain(&HumanCommand { command_line: &line }).await?;
    match said.trim() {
        "" => Ok(()),
        complaint => Err(refused("flush", complaint.to_owned())),
    }
}
