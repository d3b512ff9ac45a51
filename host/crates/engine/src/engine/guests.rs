//! What host and guest tell each other, and how it stands with the agent.

use stillpoint_common::{Failure, GuestContact, KeyValues, ToldValues, VmId};

use super::Engine;
use crate::{VmChange, contact};

/// What host and guest tell each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestValues {
    /// What the host tells the guest.
    pub host: KeyValues,
    /// What the guest tells the host, or why it cannot be asked.
    pub guest: Result<ToldValues, String>,
}

impl Engine {
    /// How it stands with each service of a VM's agent.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, or the VM's process does not answer.
    pub async fn guest_contact(&self, vm: &VmId) -> Result<GuestContact, Failure> {
        contact::look(&self.world, &self.world.catalogue.vm(vm).await?).await
    }

    /// What host and guest tell each other.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`. A guest that cannot be asked is none.
    pub async fn guest_values(&self, vm: &VmId) -> Result<GuestValues, Failure> {
        let vm = self.world.catalogue.vm(vm).await?;
        let guest = contact::values(&self.world, &vm).await;
        Ok(GuestValues { host: vm.values, guest })
    }

    /// Changes what the host tells the guest; `None` forgets a key. Answers all that is told, and whether the guest has it
    /// now; otherwise it will be given when its agent answers.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `VM_BUSY`, or the value that is out of bounds; then nothing has changed.
    pub async fn set_guest_values(
        &self,
        vm: &VmId,
        values: Vec<(String, Option<String>)>,
    ) -> Result<(KeyValues, bool), Failure> {
        let view = self.update_vm(vm, VmChange { values, ..VmChange::default() }).await?;
        let given = contact::touch(&self.world, &view.vm).await;
        Ok((view.vm.values, given))
    }
}
