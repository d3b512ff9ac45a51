//! Saves memory and devices of a VM that stands still until its process is ended.
//!
//! A plain migration, without `background-snapshot`: memory need not be protected since nobody writes to it, and no
//! version of QEMU lets the VM run by itself. At its end QEMU writes out and closes the disks; a VM that is to go on all
//! the same opens them again when it is resumed.

use std::os::fd::OwnedFd;

use serde_json::json;
use stillpoint_engine::ports::{HypervisorError, ProgressSink};
use tokio::time::Instant;

use super::{OF_LOADING, Remembered, SINK, Sink, begin, cancel, finish};
use crate::{
    attached::Attached,
    qmp::commands::{GetFd, MigrateSetCapabilities, MigrateSetParameters, QueryStatus},
};

/// Saves a VM that is paused; it stays so. Returns when all is in the file.
pub(crate) async fn save(at: &Attached, sink: OwnedFd, progress: &ProgressSink) -> Result<(), HypervisorError> {
    cancel(at).await?;
    let status = at.run(&QueryStatus {}).await?.status;
    if status != "paused" {
        return Err(HypervisorError::WrongState(format!(
            "a VM is saved while it is paused, and this one is {status:?}"
        )));
    }
    let set = |capability: &str, state| json!({"capability": capability, "state": state});
    let mut capabilities = vec![set("background-snapshot", false), set("events", true)];
    capabilities.extend(OF_LOADING.map(|capability| set(capability, false)));
    at.run(&MigrateSetCapabilities { capabilities }).await?;
    at.run(&MigrateSetParameters { max_bandwidth: 0 }).await?;
    *at.capture.lock() =
        Remembered { begun: true, stood_still: true, sink: Some(Sink::Direct), ..Remembered::default() };
    at.run_with(&GetFd { fdname: SINK }, Some(sink), at.deadlines.command).await?;
    begin(at, Instant::now() + at.deadlines.arm).await?;
    finish(at, progress).await
}
