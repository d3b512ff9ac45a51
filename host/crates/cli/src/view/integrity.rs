//! What the service found out about files.

use jiff::Timestamp;
use serde::Serialize;
use stillpoint_common::{CheckpointId, Failure, VmId};
use stillpoint_proto::{convert::names, v1 as pb};

use super::read_time;

/// What a rebuild of the catalogue did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// VMs that are in the catalogue now and were not before.
    pub taken: Vec<RebuiltVm>,
    /// Descriptions that were left.
    pub left: Vec<LeftDescription>,
}

/// A VM that was taken into the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RebuiltVm {
    /// `vms/{vm}`
    pub vm: String,
    /// The {vm} in it.
    pub id: VmId,
    /// The description that it was made of.
    pub file: String,
    /// How many checkpoints it has.
    pub checkpoints: u32,
    /// How many layers.
    pub layers: u32,
    /// Its process was found running.
    pub running: bool,
    /// What is wrong with its files.
    pub notes: Vec<String>,
}

/// A description that was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftDescription {
    /// Which.
    pub file: String,
    /// Why, and what to do.
    pub why: String,
}

impl TryFrom<pb::RebuildCatalogueResponse> for Rebuilt {
    type Error = Failure;

    fn try_from(rebuilt: pb::RebuildCatalogueResponse) -> Result<Self, Failure> {
        let left = |pb::LeftDescription { file, why }| LeftDescription { file, why };
        let taken = rebuilt.taken.into_iter().map(RebuiltVm::try_from).collect::<Result<_, _>>()?;
        Ok(Self { taken, left: rebuilt.left.into_iter().map(left).collect() })
    }
}

impl TryFrom<pb::RebuiltVm> for RebuiltVm {
    type Error = Failure;

    fn try_from(taken: pb::RebuiltVm) -> Result<Self, Failure> {
        let pb::RebuiltVm { vm, file, checkpoints, layers, running, notes } = taken;
        Ok(Self { id: names::parse_vm(&vm, "taken.vm")?, vm, file, checkpoints, layers, running, notes })
    }
}

/// One thing that is not as the catalogue says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its stable name: `LAYER_MISSING`.
    pub kind: String,
    /// The VM.
    pub vm: Option<VmId>,
    /// The file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub advice: String,
    /// Checkpoints that cannot be used because of it.
    pub checkpoints: Vec<CheckpointId>,
    /// Now cannot be used because of it.
    pub now: bool,
    /// Nothing is wrong.
    pub note: bool,
}

/// An image file of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its id.
    pub layer: String,
    /// Name of the disk.
    pub disk: String,
    /// The file.
    pub path: String,
    /// Its format.
    pub format: String,
    /// The layer it lies on; empty: it stands alone.
    pub backing_layer: String,
    /// The file of that one.
    pub backing_path: String,
    /// Size of the disk as the guest sees it.
    pub virtual_bytes: u64,
    /// What the file takes on the host's disk.
    pub allocated_bytes: u64,
    /// Checkpoints that read through it.
    pub checkpoints: Vec<CheckpointId>,
    /// Now reads through it.
    pub now: bool,
    /// It will never be written to again, but by a merge.
    pub frozen: bool,
    /// The file is not there.
    pub missing: bool,
    /// What is wrong with the file.
    pub problems: Vec<String>,
    /// When the service made it.
    pub create_time: Option<Timestamp>,
    /// Where its file system is mounted; empty: not known.
    pub file_system: String,
    /// What can still be written there.
    pub free_bytes: Option<u64>,
}

impl TryFrom<pb::Finding> for Finding {
    type Error = Failure;

    fn try_from(finding: pb::Finding) -> Result<Self, Failure> {
        let pb::Finding { kind, vm, path, message, advice, checkpoints, now, note } = finding;
        let vm = Some(vm).filter(|vm| !vm.is_empty());
        let vm = vm.map(|vm| names::parse_vm(&vm, "finding.vm")).transpose()?;
        Ok(Self { kind, vm, path, message, advice, checkpoints: ids(&checkpoints)?, now, note })
    }
}

impl TryFrom<pb::Layer> for Layer {
    type Error = Failure;

    fn try_from(layer: pb::Layer) -> Result<Self, Failure> {
        Ok(Self {
            checkpoints: ids(&layer.checkpoints)?,
            layer: layer.layer,
            disk: layer.disk,
            path: layer.path,
            format: layer.format,
            backing_layer: layer.backing_layer,
            backing_path: layer.backing_path,
            virtual_bytes: layer.virtual_bytes,
            allocated_bytes: layer.allocated_bytes,
            now: layer.now,
            frozen: layer.frozen,
            missing: layer.missing,
            problems: layer.problems,
            create_time: read_time(layer.create_time.as_ref()),
            file_system: layer.file_system,
            free_bytes: layer.free_bytes,
        })
    }
}

fn ids(checkpoints: &[String]) -> Result<Vec<CheckpointId>, Failure> {
    checkpoints.iter().map(|name| names::parse_checkpoint(name, "checkpoints").map(|(_, id)| id)).collect()
}
