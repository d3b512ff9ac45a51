//! Makes the VM stand still, and lets it go on.

use stillpoint_engine::ports::{HypervisorError, RunState};
use tokio::time::{Instant, sleep};

use super::QUICK;
use crate::{
    attached::Attached,
    observe::run_state,
    qmp::commands::{Cont, QueryStatus, Stop},
};

/// Stops the virtual CPUs, and remembers the state they then stand still in. Both commands are sent at once, so that
/// the VM does not stand still for a question more.
pub(crate) async fn pause(at: &Attached) -> Result<(), HypervisorError> {
    let (stopped, status) = tokio::join!(at.drain(&Stop {}), at.drain(&QueryStatus {}));
    stopped?;
    at.capture.lock().stopped_as = Some(status?.status);
    Ok(())
}

/// Lets the virtual CPUs run.
pub(crate) async fn resume(at: &Attached) -> Result<(), HypervisorError> {
    at.capture.lock().stopped_as = None;
    at.drain(&Cont {}).await.map(drop)
}

/// Waits for QEMU to let the VM run, and stops it.
pub(super) async fn stop_again(at: &Attached, deadline: Instant) -> Result<(), HypervisorError> {
    while run_state(&at.run(&QueryStatus {}).await?.status) != RunState::Running && Instant::now() < deadline {
        sleep(QUICK).await;
    }
    at.drain(&Stop {}).await.map(drop)
}
