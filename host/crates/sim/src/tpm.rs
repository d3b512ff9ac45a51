//! TPMs: what each keeps in its folder, and what a running one does.

use std::path::Path;

use stillpoint_common::{InstanceId, TpmState, VmId};
use stillpoint_engine::ports::TpmError;

use crate::state::State;

fn unusable(folder: &Path, message: impl Into<String>) -> TpmError {
    TpmError::Unusable { folder: folder.to_owned(), message: message.into() }
}

impl State {
    pub(crate) fn put_tpm(&mut self, folder: &Path, kept: &TpmState) -> Result<(), TpmError> {
        if self.lacks(folder, 1) {
            return Err(TpmError::NoSpace { folder: folder.to_owned() });
        }
        self.not_in_use(folder, "written to");
        self.tpms.insert(folder.to_owned(), kept.bytes().to_vec());
        Ok(())
    }

    pub(crate) fn take_tpm(&self, folder: &Path) -> Result<TpmState, TpmError> {
        let bytes = self.tpms.get(folder).ok_or_else(|| unusable(folder, "there is no such folder"))?;
        TpmState::new(bytes.clone()).map_err(|problem| unusable(folder, problem))
    }

    pub(crate) fn remove_tpm(&mut self, folder: &Path) {
        self.not_in_use(folder, "removed");
        self.tpms.remove(folder);
    }

    fn not_in_use(&mut self, folder: &Path, what: &str) {
        if self.instances.values().any(|instance| instance.spec.tpm.as_deref() == Some(folder)) {
            self.violations.push(format!("{} was {what} while a TPM runs on it", folder.display()));
        }
    }

    /// Looks whether a TPM can be started on its folder.
    pub(crate) fn power_tpm(&self, folder: &Path) -> Result<(), TpmError> {
        if self.instances.values().any(|instance| instance.spec.tpm.as_deref() == Some(folder)) {
            return Err(unusable(folder, "another TPM runs on it"));
        }
        self.take_tpm(folder).map(drop)
    }

    /// What the TPM of an instance keeps.
    pub(crate) fn tpm_of(&self, id: InstanceId) -> Option<Vec<u8>> {
        let folder = self.instances.get(&id)?.spec.tpm.as_ref()?;
        self.tpms.get(folder).cloned()
    }

    /// Makes the TPM of an instance keep something.
    pub(crate) fn set_tpm_of(&mut self, id: InstanceId, bytes: Vec<u8>) -> bool {
        let folder = self.instances.get(&id).and_then(|instance| instance.spec.tpm.clone());
        folder.map(|folder| self.tpms.insert(folder, bytes)).is_some()
    }

    /// Makes the TPM of a running guest keep a value. False if it does not run, or has none.
    pub(crate) fn write_tpm(&mut self, vm: &VmId, value: u64) -> bool {
        self.running(vm).is_some_and(|id| self.set_tpm_of(id, value.to_le_bytes().to_vec()))
    }

    /// The value that the TPM of a VM's newest process keeps; 0 if it is new.
    pub(crate) fn read_tpm(&self, vm: &VmId) -> Option<u64> {
        let bytes = self.tpm_of(self.running(vm)?)?;
        Some(bytes.try_into().map_or(0, u64::from_le_bytes))
    }
}
