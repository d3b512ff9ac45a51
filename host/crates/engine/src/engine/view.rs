//! VMs as clients see them.

use stillpoint_common::{Critical, Failure, PowerState, Vm, VmId};
use tokio::time::timeout;

use super::Engine;
use crate::{
    VmView, failing,
    plans::{chain_files, describe_critical, without_process},
    ports::RunState,
};

/// How a VM is seen to run.
struct Seen {
    power: PowerState,
    critical: Option<Critical>,
    panicked: bool,
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

    pub(super) async fn view(&self, vm: Vm) -> Result<VmView, Failure> {
        let forest = self.world.catalogue.forest(&vm.id).await?;
        let mut disks = Vec::with_capacity(vm.heads.len());
        for disk in vm.definition.layered() {
            let Some(head) = vm.heads.get(&disk.name) else { continue };
            let chain = chain_files(&forest, &disk.name, *head)?;
            let depth = chain.len();
            disks.extend(chain.into_iter().next_back().map(|head| (disk.name.clone(), head, depth)));
        }
        let operation = self.hub.of_vm(&vm.id);
        let Seen { power, critical, panicked } = self.power(&vm).await;
        let record = self.world.catalogue.failure(&vm.id).await?;
        let failures = failing::told(record.as_ref(), self.world.config.recoveries_an_hour, self.now());
        Ok(VmView { power, disks, critical, panicked, failures, operation, vm })
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
