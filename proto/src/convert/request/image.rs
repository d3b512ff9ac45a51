//! Requests of `Images`.

use std::path::PathBuf;

use stillpoint_common::Failure;

use super::absolute;
use crate::v1 as pb;

/// An image to merge into one that it lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeImage {
    /// The image.
    pub child: PathBuf,
    /// The one that takes it.
    pub into: PathBuf,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Remove what was merged.
    pub remove_merged: bool,
}

/// Reads a `MergeImageRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn merge_image(request: &pb::MergeImageRequest) -> Result<MergeImage, Failure> {
    Ok(MergeImage {
        child: absolute(&request.child, "child")?,
        into: absolute(&request.into, "into")?,
        dry_run: request.dry_run,
        remove_merged: request.remove_merged,
    })
}
