//! The TPM of Now: the folder that its state lies in.
//!
//! ```text
//! Now's folder ──take, at the cut──▶ checkpoint (bytes in its record) ──put, before the launch──▶ a new folder: Now's
//! ```
//! An apply never writes to the folder of the past: until its commit that is Now's. Nothing lies on a state, so that
//! deleting and merging have nothing to do with it.

use std::path::{Path, PathBuf};

use stillpoint_common::{Failure, Tpm, TpmState, Vm, VmDefinition};
use uuid::Uuid;

use crate::{
    context::{Cx, World},
    error::StepError,
    saga::up_to,
};

/// Gives a VM whose definition has a TPM and which never had one the folder of a new one. Should the record not be written
/// then, an empty folder is left.
pub(crate) async fn give_tpm(world: &World, vm: &mut Vm) -> Result<(), Failure> {
    if !has_tpm(&vm.definition) || vm.tpm.is_some() {
        return Ok(());
    }
    let folder = new_folder(vm);
    world.ports.tpm.put(&folder, &TpmState::default()).await.map_err(StepError::from)?;
    vm.tpm = Some(folder);
    Ok(())
}

/// A VM that is forgotten leaves the state of its TPM where it is, as it leaves its images; not one that never had power.
pub(crate) async fn forget_tpm(world: &World, vm: &Vm) {
    let Some(folder) = &vm.tpm else { return };
    let is_new = world.ports.tpm.take(folder).await.is_ok_and(|state| state.bytes().is_empty());
    if is_new && let Err(error) = world.ports.tpm.remove(folder).await {
        tracing::warn!(vm = %vm.id, %error, "an empty folder of a TPM stays");
    }
}

/// How the name of such a folder ends; it begins with that of the VM.
pub(crate) const ENDING: &str = ".tpm";

/// A folder that no TPM has had.
pub(crate) fn new_folder(vm: &Vm) -> PathBuf {
    vm.checkpoint_location.join(format!("{}.{}{ENDING}", vm.id, Uuid::new_v4().simple()))
}

/// The folder that a process of the VM runs its TPM on.
pub(crate) fn folder_of(vm: &Vm) -> Option<PathBuf> {
    vm.tpm.clone().filter(|_| has_tpm(&vm.definition))
}

pub(crate) fn has_tpm(definition: &VmDefinition) -> bool {
    match definition.tpm {
        Tpm::Absent => false,
        Tpm::V2 => true,
    }
}

/// Removes a folder that the catalogue does not know any more. A failure is told: the folder stays.
pub(crate) async fn drop_folder(cx: &Cx, folder: &Path) {
    let remove = || cx.ports().tpm.remove(folder);
    if let Err(error) = up_to(5, "removing the state of a TPM", remove).await {
        cx.reporter.warn(format!("{} is of no use any more and could not be removed: {error}", folder.display()));
    }
}
