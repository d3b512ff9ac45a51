//! Hazards: noted on a checkpoint when it is made, told again before it is applied, refused where the VM's settings say so.

use stillpoint_common::{Checkpoint, Failure, Hazard, HazardPolicy, Reason, Vm};

use crate::{advice, context::Cx};

/// The checkpoint with what the guest shows to be dangerous. A guest that says nothing in time shows nothing: the
/// checkpoint does not wait for it any longer.
pub(super) async fn note(mut draft: Checkpoint, vm: &Vm, cx: &Cx) -> Result<Checkpoint, Failure> {
    let Some(instance) = vm.instance.filter(|_| draft.was_running) else { return Ok(draft) };
    let describe = cx.ports().guest.describe(instance);
    if let Ok(Ok(guest)) = tokio::time::timeout(cx.world.config.observe_guest, describe).await {
        draft.remarks.hazards = advice::hazards(&guest.services);
    }
    tell(&draft.remarks.hazards, vm, "made", cx)?;
    Ok(draft)
}

/// Tells them before an apply.
pub(super) fn repeat(checkpoint: &Checkpoint, vm: &Vm, cx: &Cx) -> Result<(), Failure> {
    tell(&checkpoint.remarks.hazards, vm, "applied", cx)
}

fn tell(hazards: &[Hazard], vm: &Vm, what: &str, cx: &Cx) -> Result<(), Failure> {
    let said = |hazard: &Hazard| format!("{} runs in the guest: {}", hazard.service, hazard.consequence);
    match vm.settings.hazards {
        HazardPolicy::Warn => hazards.iter().for_each(|hazard| cx.reporter.warn(said(hazard))),
        HazardPolicy::Refuse => {
            if let Some(hazard) = hazards.first() {
                let message = format!("checkpoints of VM {} are not {what} while {}", vm.id, said(hazard));
                return Err(Failure::new(Reason::HazardRefused, message));
            }
        }
    }
    Ok(())
}
