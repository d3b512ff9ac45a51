//! Requests about the files of VMs and the catalogue.

use std::path::PathBuf;

use stillpoint_common::Failure;

use super::absolute;
use crate::v1 as pb;

/// Reads a `RebuildCatalogueRequest`: folders to look in.
///
/// # Errors
/// A folder is not an absolute path.
pub fn rebuild_catalogue(request: &pb::RebuildCatalogueRequest) -> Result<Vec<PathBuf>, Failure> {
    let folder = |(index, folder): (usize, &String)| absolute(folder, &format!("folders[{index}]"));
    request.folders.iter().enumerate().map(folder).collect()
}
