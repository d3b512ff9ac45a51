//! Disks that no checkpoint can hold: named and left out, or a reason to refuse, as the VM is set.
//!
//! A device of the host has no layers. One that the guest cannot write to is the same after an apply as before: it is
//! named, and no reason to refuse; so is a read-only medium. A device that other VMs have too is said to be shared: what
//! they write stays as well.

use stillpoint_common::{Checkpoint, Failure, LeftOut, PassThroughDisk, Reason, UnsupportedDisks, Vm, VmId};

use crate::{context::Cx, media};

/// The checkpoint with the disks that it leaves out.
pub(super) async fn note(draft: Checkpoint, vm: &Vm, cx: &Cx) -> Result<Checkpoint, Failure> {
    let mut left_out: Vec<LeftOut> = Vec::new();
    if !vm.definition.pass_through.is_empty() {
        let others = cx.catalogue().vms().await?;
        left_out = devices(vm, &others)?;
    }
    let lost = vm.definition.pass_through.iter().zip(&left_out).filter(|(disk, _)| !disk.read_only);
    for (_, left) in lost {
        cx.reporter.warn(format!("disk {} is not part of the checkpoint: {}", left.disk, left.why));
    }
    left_out.extend(media::left_out(&vm.definition));
    Ok(Checkpoint { left_out, ..draft })
}

/// Which devices are left out, each with why; or that the VM is set so that there is no checkpoint without them.
fn devices(vm: &Vm, others: &[Vm]) -> Result<Vec<LeftOut>, Failure> {
    let left_out = |disk: &PassThroughDisk| LeftOut { disk: disk.name.clone(), why: why(vm, disk, others) };
    let refused = match vm.settings.unsupported_disks {
        UnsupportedDisks::LeaveOut => None,
        UnsupportedDisks::Refuse => vm.definition.pass_through.iter().find(|disk| !disk.read_only),
    };
    if let Some(disk) = refused {
        let message =
            format!("no checkpoint of VM {} can hold its disk {}: {}", vm.id, disk.name, why(vm, disk, others));
        return Err(Failure::new(Reason::UnsupportedDisk, message));
    }
    Ok(vm.definition.pass_through.iter().map(left_out).collect())
}

fn why(vm: &Vm, disk: &PassThroughDisk, others: &[Vm]) -> String {
    let has_it = |other: &&Vm| other.definition.pass_through.iter().any(|it| it.device == disk.device);
    let sharers = others.iter().filter(|other| other.id != vm.id).filter(has_it);
    let sharers: Vec<&VmId> = sharers.map(|other| &other.id).collect();
    let shared = match sharers.first() {
        Some(first) if sharers.len() == 1 => format!(" and shared with VM {first}"),
        Some(first) => format!(" and shared with VM {first} and {} more", sharers.len() - 1),
        None => String::new(),
    };
    let device = disk.device.display();
    if disk.read_only {
        return format!("{device} is passed through from the host{shared}, and the guest cannot write to it");
    }
    format!("{device} is passed through from the host{shared}: it has no layers")
}
