//! Image files that belong to no VM.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use stillpoint_common::{Failure, Progress};

use super::Engine;
use crate::{
    ImageMerge, image_merge,
    ports::{Moved, Stop},
};

/// Is told which image is being merged, and how far.
pub type ImageProgress = Arc<dyn Fn(&Path, Progress) + Send + Sync>;

impl Engine {
    /// What merging an image into one that it lies on will do. Changes nothing.
    ///
    /// # Errors
    /// What stands against it: see the reasons of `MergeImage`.
    pub async fn plan_image_merge(&self, child: &Path, into: &Path) -> Result<ImageMerge, Failure> {
        image_merge::plan(&self.world, child, into).await
    }

    /// Does what was planned, and removes what was merged if that is wanted. Answers the images that were removed; `None`
    /// if it was asked to stop, and has. The child's chain reads the same at all times.
    ///
    /// # Errors
    /// A file has changed or is in use meanwhile, there is no space, or a merge failed. The same plan made anew goes on.
    pub async fn merge_images(
        &self,
        plan: &ImageMerge,
        remove_merged: bool,
        stop: &Stop,
        progress: &ImageProgress,
    ) -> Result<Option<Vec<PathBuf>>, Failure> {
        match image_merge::merge(&self.world, plan, stop, progress).await? {
            Moved::Stopped => return Ok(None),
            Moved::Whole => {}
        }
        if !remove_merged {
            return Ok(Some(Vec::new()));
        }
        image_merge::remove(&self.world, plan).await?;
        Ok(Some(plan.merged()))
    }
}
