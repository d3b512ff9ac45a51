//! Requests about the files of VMs and the catalogue.

use std::path::PathBuf;

use stillpoint_common::{DiskName, Failure, LayerId, VmId};

use super::absolute;
use crate::{convert::names, v1 as pb};

/// Files of layers that are elsewhere now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconnectLayers {
    /// Whose.
    pub vm: VmId,
    /// Which.
    pub what: Reconnected,
    /// The file, or the folder.
    pub path: PathBuf,
    /// Without proof, too.
    pub accept_changed: bool,
}

/// What is reconnected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reconnected {
    /// One layer.
    Layer(LayerId),
    /// All layers of a disk.
    Disk(DiskName),
}

/// Reads a `ReconnectLayersRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn reconnect_layers(request: &pb::ReconnectLayersRequest) -> Result<ReconnectLayers, Failure> {
    use pb::reconnect_layers_request::What;
    let what = match request.what.as_ref().ok_or_else(|| Failure::field("what", "name a layer or a disk"))? {
        What::Layer(layer) => Reconnected::Layer(layer.parse().map_err(|problem| Failure::field("layer", problem))?),
        What::Disk(disk) => Reconnected::Disk(disk.parse().map_err(|problem| Failure::field("disk", problem))?),
    };
    Ok(ReconnectLayers {
        vm: names::parse_vm(&request.name, "name")?,
        what,
        path: absolute(&request.path, "path")?,
        accept_changed: request.accept_changed,
    })
}

/// Reads a `CheckHostRequest`: which VM; `None`: all.
///
/// # Errors
/// It is no name of a VM.
pub fn check_host(request: &pb::CheckHostRequest) -> Result<Option<VmId>, Failure> {
    let vm = Some(request.vm.as_str()).filter(|vm| !vm.is_empty());
    vm.map(|vm| names::parse_vm(vm, "vm")).transpose()
}

/// Reads a `RebuildCatalogueRequest`: folders to look in.
///
/// # Errors
/// A folder is not an absolute path.
pub fn rebuild_catalogue(request: &pb::RebuildCatalogueRequest) -> Result<Vec<PathBuf>, Failure> {
    let folder = |(index, folder): (usize, &String)| absolute(folder, &format!("folders[{index}]"));
    request.folders.iter().enumerate().map(folder).collect()
}
