//! What an export says of itself: the manifest, written last and read first.
//!
//! Whoever reads one has not written it: nothing in it is believed before [`Manifest::read`] has looked at it, and a name
//! in it never leads out of the folder.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stillpoint_common::{
    Checkpoint, CheckpointId, CheckpointName, Consistency, DiskFormat, DiskName, Failure, Kind, LeftOut, OperationId,
    Reason, RestoredWriter, VmDefinition, VmId,
};
use uuid::Uuid;

use crate::ExportedFile;

/// The version of the format that is written, and the newest that is read.
const FORMAT: u64 = 1;
/// The longest name of a file in an export.
const NAME_LIMIT: usize = 200;

/// The manifest of a finished export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The machine.
    pub machine: ExportedMachine,
    /// Every file of the export but the manifest.
    pub files: Vec<ExportedFile>,
}

/// A machine as an export describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedMachine {
    /// In words.
    #[serde(default)]
    pub what: String,
    /// Who made the export. Those of the first version do not say it.
    #[serde(default)]
    pub operation: Option<OperationId>,
    /// What was exported.
    pub checkpoint: ExportedCheckpoint,
    /// Identity of the VM towards its guest (SMBIOS). Exports of the first version do not have it.
    #[serde(default)]
    pub uid: Option<Uuid>,
    /// The definition of the VM, with the paths that its disks had.
    pub definition: VmDefinition,
    /// Its disks.
    pub disks: Vec<ExportedDisk>,
    /// Its memory, if it has one.
    #[serde(default)]
    pub memory: Option<ExportedMemory>,
    /// The state of its TPM, if it has one.
    #[serde(default)]
    pub tpm: Option<ExportedTpm>,
    /// Disks of the VM that are not in the export.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
}

/// The checkpoint that was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedCheckpoint {
    /// Its id.
    pub id: CheckpointId,
    /// Its name.
    pub name: CheckpointName,
    /// The VM it was of.
    pub vm: VmId,
    /// When it was made.
    pub created: Timestamp,
    /// What it is.
    pub kind: Kind,
    /// What is proven.
    pub consistency: Consistency,
    /// The guest was running, and not paused.
    pub was_running: bool,
    /// What the writers of the guest gave to be kept. Exports of the first version do not have it.
    #[serde(default)]
    pub writers: Vec<RestoredWriter>,
}

/// A disk in an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedDisk {
    /// Its name in the VM.
    pub disk: DiskName,
    /// Its file.
    pub file: String,
    /// The format of the file.
    #[serde(with = "driver")]
    pub format: DiskFormat,
}

/// The memory in an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedMemory {
    /// Its file.
    pub file: String,
    /// In words.
    pub format: String,
    /// The QEMU that wrote it.
    pub qemu_version: String,
}

/// The state of a TPM in an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedTpm {
    /// Its file.
    pub file: String,
    /// In words.
    pub format: String,
}

impl From<&Checkpoint> for ExportedCheckpoint {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self {
            id: checkpoint.id,
            name: checkpoint.name.clone(),
            vm: checkpoint.vm.clone(),
            created: checkpoint.created,
            kind: checkpoint.kind,
            consistency: checkpoint.consistency,
            was_running: checkpoint.was_running,
            writers: checkpoint.writers.iter().map(RestoredWriter::from).collect(),
        }
    }
}

impl Manifest {
    /// Reads a manifest that somebody has written.
    ///
    /// # Errors
    /// `EXPORT_UNUSABLE`: it is of a newer format, does not make sense, or names something outside of its folder.
    pub fn read(content: serde_json::Value) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Raw {
            export: ExportedMachine,
            files: Vec<ExportedFile>,
        }
        match content.get("format").and_then(serde_json::Value::as_u64) {
            Some(FORMAT) => {}
            Some(newer) => {
                return Err(unusable(format!("its format is {newer}, and this service reads format {FORMAT}")));
            }
            None => return Err(unusable("its manifest does not say which format it has".to_owned())),
        }
        let Raw { export: machine, files } = serde_json::from_value(content)
            .map_err(|error| unusable(format!("its manifest makes no sense: {error}")))?;
        let manifest = Self { machine, files };
        manifest.check()?;
        Ok(manifest)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// Every name is one of a file in the folder, which is listed, once; every disk is there once.
    fn check(&self) -> Result<(), Failure> {
        let mut listed = BTreeSet::new();
        for file in &self.files {
            if !is_plain(&file.path) {
                return Err(unusable(format!("{:?} is no name of a file in its folder", file.path)));
            }
            if !listed.insert(file.path.as_str()) {
                return Err(unusable(format!("{} is listed twice", file.path)));
            }
        }
        let machine = &self.machine;
        let parts = machine.memory.iter().map(|memory| &memory.file).chain(machine.tpm.iter().map(|tpm| &tpm.file));
        let (mut names, mut used) = (BTreeSet::new(), BTreeSet::new());
        for file in machine.disks.iter().map(|disk| &disk.file).chain(parts) {
            if !listed.contains(file.as_str()) {
                return Err(unusable(format!("{file:?} is not in its list of files")));
            }
            if !used.insert(file) {
                return Err(unusable(format!("{file} is used twice")));
            }
        }
        match machine.disks.iter().find(|disk| !names.insert(&disk.disk)) {
            Some(twice) => Err(unusable(format!("disk {} is there twice", twice.disk))),
            None => Ok(()),
        }
    }
}

fn unusable(message: String) -> Failure {
    Failure::new(Reason::ExportUnusable, message)
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_LIMIT && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// A format by QEMU's name of it.
mod driver {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use stillpoint_common::DiskFormat;

    const ALL: [DiskFormat; 4] = [DiskFormat::Raw, DiskFormat::Qcow2, DiskFormat::Vhdx, DiskFormat::Vpc];

    pub(super) fn serialize<S: Serializer>(format: &DiskFormat, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(format.driver())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DiskFormat, D::Error> {
        let name = String::deserialize(from)?;
        let known = ALL.into_iter().find(|format| format.driver() == name);
        known.ok_or_else(|| D::Error::custom(format!("{name:?} is no format of an image")))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn content() -> Value {
        json!({
            "format": 1,
            "export": {
                "what": "one checkpoint",
                "checkpoint": {
                    "id": "019d0000-0000-7000-8000-000000000001", "name": "one", "vm": "web",
                    "created": "2026-11-28T12:00:00Z", "kind": "STANDARD", "consistency": "MEMORY", "was_running": true,
                },
                "definition": {
                    "cpus": 1, "memory_mib": 256, "accelerator": "AUTO", "boot": "BIOS", "pass_through": [], "nics": [],
                    "disks": [{ "name": "data", "path": "/vm/data.qcow2", "format": "QCOW2" }],
                    "serial_log": null, "extra_arguments": [],
                },
                "disks": [{ "disk": "data", "file": "data.qcow2", "format": "qcow2" }],
                "memory": { "file": "memory", "format": "QEMU migration stream", "qemu_version": "10.0.2" },
                "tpm": null,
                "left_out": [],
            },
            "files": [
                { "path": "data.qcow2", "bytes": 3, "blake3": "aa" },
                { "path": "memory", "bytes": 4, "blake3": "bb" },
            ],
        })
    }

    #[test]
    fn a_manifest_of_the_first_version_is_read() {
        let manifest = Manifest::read(content()).unwrap();
        assert_eq!((manifest.bytes(), manifest.machine.uid), (7, None));
        assert_eq!(manifest.machine.disks[0].format, DiskFormat::Qcow2);
    }

    #[test]
    fn what_makes_no_sense_or_leads_out_of_the_folder_is_refused_in_words() {
        let cases: [(&str, Value, &str); 9] = [
            ("/format", json!(2), "its format is 2"),
            ("/format", json!(null), "does not say which format"),
            ("/export/disks/0/format", json!("dmg"), "no format of an image"),
            ("/export/definition/cpus", json!("many"), "makes no sense"),
            ("/files/0/path", json!("../data.qcow2"), "no name of a file in its folder"),
            ("/files/0/path", json!("/etc/shadow"), "no name of a file in its folder"),
            ("/files/1/path", json!("data.qcow2"), "is listed twice"),
            ("/export/disks/0/file", json!("other"), "is not in its list of files"),
            ("/export/memory/file", json!("data.qcow2"), "is used twice"),
        ];
        for (place, value, words) in cases {
            let mut spoilt = content();
            *spoilt.pointer_mut(place).unwrap() = value;
            let refused = Manifest::read(spoilt).unwrap_err();
            assert_eq!(refused.reason, Reason::ExportUnusable);
            assert!(refused.message.contains(words), "{place}: {refused}");
        }
    }
}
