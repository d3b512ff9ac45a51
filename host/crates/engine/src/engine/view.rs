//! VMs as clients see them.

use stillpoint_common::{CheckpointId, Critical, DiskName, Failure, LayerFile, PowerState, Vm, VmId};
use tokio::time::timeout;

use super::Engine;
use crate::{
    VmView,
    failing::{self, FailureRecord},
    forest::Forest,
    plans::{chain_files, describe_critical, without_process},
    ports::RunState,
    tree::shown,
};

/// How a VM is seen to run.
struct Seen {
    power: PowerState,
    critical: Option<Critical>,
    panicked: bool,
}

/// The head of each disk, and how many layers it reads through.
fn disks(vm: &Vm, forest: &Forest) -> Result<Vec<(DiskName, LayerFile, usize)>, Failure> {
    let mut disks = Vec::with_capacity(vm.heads.len());
    for disk in vm.definition.layered() {
        let Some(head) = vm.heads.get(&disk.name) else { continue };
        let chain = chain_files(forest, &disk.name, *head)?;
        let depth = chain.len();
        disks.extend(chain.into_iter().next_back().map(|head| (disk.name.clone(), head, depth)));
    }
    Ok(disks)
}

impl Engine {
    /// One VM as it is now.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`.
    pub async fn vm(&self, id: &VmId) -> Result<VmView, Failure> {
        self.view(self.world.catalogue.vm(id).await?).await
    }

    /// Names of all VMs, in order.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn vm_ids(&self) -> Result<Vec<VmId>, Failure> {
        let mut ids: Vec<VmId> = self.actors.lock().await.keys().cloned().collect();
        ids.sort();
        Ok(ids)
    }

    /// VMs as they are now, that follow each other by name. One that is gone is left out.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn vms(&self, ids: &[VmId]) -> Result<Vec<VmView>, Failure> {
        let mut failures = self.world.catalogue.failures(ids).await?;
        let mut views = Vec::with_capacity(ids.len());
        for id in ids {
            let (Ok(vm), Ok(failure)) = (self.world.catalogue.vm(id).await, failures.remove(id).transpose()) else {
                continue;
            };
            views.extend(self.view_of(vm, failure).await.ok());
        }
        Ok(views)
    }

    pub(super) async fn view(&self, vm: Vm) -> Result<VmView, Failure> {
        let failure = self.world.catalogue.failure(&vm.id).await?;
        self.view_of(vm, failure).await
    }

    async fn view_of(&self, mut vm: Vm, failure: Option<FailureRecord>) -> Result<VmView, Failure> {
        let disks = loop {
            let forest = self.world.catalogue.forest(&vm.id).await?;
            let torn = match disks(&vm, &forest) {
                Ok(disks) => break disks,
                Err(torn) => torn,
            };
            // A merge may have been written down between the two looks; what stays so is damage.
            let now = self.world.catalogue.vm(&vm.id).await?;
            if now == vm {
                return Err(torn);
            }
            vm = now;
        };
        let (operation, parent) = (self.hub.of_vm(&vm.id), self.shown_parent(&vm).await?);
        let Seen { power, critical, panicked } = self.power(&vm).await;
        let failures = failing::told(failure.as_ref(), self.world.config.recoveries_an_hour, self.now());
        Ok(VmView { power, disks, critical, panicked, failures, operation, parent, vm })
    }

    /// The checkpoint that Now is shown to be a child of.
    async fn shown_parent(&self, vm: &Vm) -> Result<Option<CheckpointId>, Failure> {
        let Some(parent) = vm.parent else { return Ok(None) };
        match self.world.catalogue.checkpoint(&vm.id, parent).await {
            Ok(found) if found.remarks.backup.is_none() => Ok(Some(parent)),
            // It may have gone between the two looks.
            Ok(_) | Err(_) => Ok(shown(&self.world.catalogue.checkpoints(&vm.id).await?, vm.parent)),
        }
    }

    /// Whether a VM runs, and why not if it is by itself. A process that does not answer, or not soon, is shown as
    /// paused, not as gone.
    async fn power(&self, vm: &Vm) -> Seen {
        let as_usual = |power| Seen { power, critical: None, panicked: false };
        let Some(instance) = vm.instance else { return as_usual(without_process(vm)) };
        let observed = timeout(self.world.config.view, self.world.ports.hypervisor.observe(instance)).await;
        let Ok(Ok(observed)) = observed else { return as_usual(PowerState::Paused) };
        match observed.run {
            RunState::Running => as_usual(PowerState::Running),
            RunState::Paused | RunState::AwaitingMemory => as_usual(PowerState::Paused),
            RunState::Panicked => Seen { panicked: true, ..as_usual(PowerState::Paused) },
            RunState::Critical(trouble) => {
                let critical = describe_critical(&self.world, vm, &trouble).await;
                Seen { critical: Some(critical), ..as_usual(PowerState::PausedCritical) }
            }
            RunState::Gone | RunState::ShutDown => as_usual(PowerState::Off),
        }
    }
}
