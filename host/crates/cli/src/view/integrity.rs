//! What the service found out about files.

use serde::Serialize;
use stillpoint_common::{Failure, VmId};
use stillpoint_proto::{convert::names, v1 as pb};

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
