//! What starts a VM, and where it keeps its variables.
//!
//! UEFI has variables: boot order, keys, what an operating system puts down there. They lie in an image of their own, which
//! belongs to the VM's checkpoints as its disks do: it has a head and layers, is cut in the same instant, goes back with an
//! apply and is copied by an export. Among the disks it is called [`UEFI_VARIABLES`].

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{DefinitionError, DiskDefinition, DiskFormat, DiskName, VmDefinition, VmId};

/// Under this name the variables are found among the disks of a VM. No other disk may have it.
pub const UEFI_VARIABLES: &str = "uefi-vars";

/// What starts a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Firmware {
    /// The BIOS.
    #[default]
    Bios,
    /// UEFI.
    Uefi {
        /// Image with its variables, qcow2; `None` in a definition that no VM has taken on yet: one beside the first disk.
        variables: Option<PathBuf>,
    },
}

impl VmDefinition {
    /// Everything that has layers: the disks, then the variables of the firmware.
    pub fn layered(&self) -> impl Iterator<Item = DiskDefinition> {
        self.disks.iter().cloned().chain(self.variables())
    }

    fn variables(&self) -> Option<DiskDefinition> {
        let Firmware::Uefi { variables: Some(path) } = &self.firmware else { return None };
        Some(DiskDefinition { name: DiskName::uefi_variables(), path: path.clone(), format: DiskFormat::Qcow2 })
    }

    /// Path of the field that names the image of the `index`th of [`layered`](Self::layered).
    #[must_use]
    pub fn layered_field(&self, index: usize) -> String {
        if index < self.disks.len() { format!("disks[{index}].path") } else { "uefi.variables".to_owned() }
    }

    /// The definition as a VM can take it on: where it leaves the place of the variables open, they stay where they are
    /// (`known`: what the VM is made of now), or lie beside the first disk.
    ///
    /// # Errors
    /// If there is nothing to lie beside.
    pub fn settled(mut self, vm: &VmId, known: Option<&Self>) -> Result<Self, DefinitionError> {
        if self.firmware != (Firmware::Uefi { variables: None }) {
            return Ok(self);
        }
        let kept = known.and_then(Self::variables).map(|variables| variables.path);
        let beside = |disk: &DiskDefinition| disk.path.with_file_name(format!("{vm}-{UEFI_VARIABLES}.qcow2"));
        let Some(path) = kept.or_else(|| self.disks.first().map(beside)) else {
            let problem = "must be given for a VM without disks".to_owned();
            return Err(DefinitionError { field: "uefi.variables".to_owned(), problem });
        };
        self.firmware = Firmware::Uefi { variables: Some(path) };
        Ok(self)
    }

    /// The image with the variables was moved.
    pub fn move_variables(&mut self, from: &Path, to: &Path) {
        if let Firmware::Uefi { variables: Some(path) } = &mut self.firmware
            && path == from
        {
            to.clone_into(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uefi(variables: Option<&str>, disks: &[&str]) -> VmDefinition {
        let disk = |path: &&str| {
            let name = path.trim_start_matches("/vm/").parse().unwrap();
            DiskDefinition { name, path: path.into(), format: DiskFormat::Raw }
        };
        let firmware = Firmware::Uefi { variables: variables.map(Into::into) };
        VmDefinition { firmware, disks: disks.iter().map(disk).collect(), ..crate::definition::tests::good() }
    }

    fn settled(definition: VmDefinition, known: Option<&VmDefinition>) -> Result<Option<PathBuf>, String> {
        let settled = definition.settled(&"web".parse().unwrap(), known).map_err(|error| error.field)?;
        Ok(settled.variables().map(|variables| variables.path))
    }

    #[test]
    fn variables_lie_where_it_is_said_where_they_are_or_beside_the_first_disk() {
        let known = uefi(Some("/old/vars"), &["/vm/a"]);
        assert_eq!(settled(uefi(Some("/x"), &["/vm/a"]), Some(&known)), Ok(Some("/x".into())));
        assert_eq!(settled(uefi(None, &["/vm/a"]), Some(&known)), Ok(Some("/old/vars".into())));
        assert_eq!(settled(uefi(None, &["/vm/a"]), None), Ok(Some("/vm/web-uefi-vars.qcow2".into())));
        assert_eq!(settled(uefi(None, &[]), None), Err("uefi.variables".to_owned()));
        assert_eq!(settled(crate::definition::tests::good(), Some(&known)), Ok(None));
    }

    #[test]
    fn the_variables_are_the_last_of_what_has_layers() {
        let definition = uefi(Some("/vars"), &["/vm/a"]);
        let names: Vec<_> = definition.layered().map(|disk| disk.name.to_string()).collect();
        assert_eq!(names, ["a", UEFI_VARIABLES]);
        assert_eq!([0, 1].map(|index| definition.layered_field(index)), ["disks[0].path", "uefi.variables"]);
    }
}
