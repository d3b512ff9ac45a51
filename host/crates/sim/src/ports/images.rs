//! The port to image files.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use stillpoint_common::{DiskFormat, FileIdentity, LayerFile, Progress};
use stillpoint_engine::ports::{
    Extent, FileUser, Flatten, ImageError, ImageFacts, Images, Moved, OfflineMerge, ProgressSink, Seen, Space, Stop,
};

use crate::{
    Call,
    merging::Merged,
    process::{Point, Process},
    state::State,
};

pub(super) struct SimImages {
    process: Process,
}

impl SimImages {
    pub(super) fn new(process: Process) -> Self {
        Self { process }
    }

    async fn moved(
        &self,
        point: &Point<'_>,
        merge: &OfflineMerge,
        some: fn(&mut State, &OfflineMerge) -> Result<Merged, ImageError>,
        stop: &Stop,
        progress: &ProgressSink,
    ) -> Result<Moved, ImageError> {
        self.process.act(|state| state.begin_merge_offline(merge))?;
        let mut done = 0;
        while let Merged::Part(moved) = self.process.act(|state| some(state, merge))? {
            done += moved;
            progress(Progress { done, total: 0 });
            tokio::task::yield_now().await;
            tokio::select! {
                biased;
                () = stop.asked() => return Ok(Moved::Stopped),
                () = self.process.pass(point.latency) => {}
            }
            self.process.living().await;
        }
        Ok(Moved::Whole)
    }
}

#[async_trait]
impl Images for SimImages {
    async fn stat(&self, path: &Path, format: DiskFormat) -> Result<ImageFacts, ImageError> {
        self.process.call(Call::Stat, |state| state.stat(path, format)).await
    }

    async fn create_overlay(
        &self,
        overlay: &Path,
        backing: &LayerFile,
        virtual_size: u64,
    ) -> Result<FileIdentity, ImageError> {
        self.process.call(Call::CreateOverlay, |state| state.create_overlay(overlay, backing, virtual_size)).await
    }

    async fn create_variables(&self, path: &Path) -> Result<(), ImageError> {
        self.process.call(Call::CreateVariables, |state| state.create_variables(path)).await
    }

    async fn merge_offline(
        &self,
        merge: &OfflineMerge,
        stop: &Stop,
        progress: &ProgressSink,
    ) -> Result<Moved, ImageError> {
        let point = self.process.enter(Call::MergeOffline).await?;
        let result = self.moved(&point, merge, State::merge_some_offline, stop, progress).await;
        point.leave(result).await
    }

    async fn stream_offline(
        &self,
        merge: &OfflineMerge,
        stop: &Stop,
        progress: &ProgressSink,
    ) -> Result<Moved, ImageError> {
        let point = self.process.enter(Call::StreamOffline).await?;
        let result = self.moved(&point, merge, State::stream_some_offline, stop, progress).await;
        point.leave(result).await
    }

    async fn merge_growth(&self, child: &LayerFile, parent: &LayerFile) -> Result<u64, ImageError> {
        self.process.call(Call::MergeGrowth, |state| Ok(state.merge_growth(child, parent))).await
    }

    async fn extents(&self, layer: &LayerFile, part: &Range<u64>) -> Result<Vec<Extent>, ImageError> {
        self.process.call(Call::Extents, |state| state.extents(layer, part)).await
    }

    async fn look_at(&self, files: &[LayerFile]) -> Result<Vec<Result<Seen, ImageError>>, ImageError> {
        self.process.call(Call::Look, |state| Ok(files.iter().map(|file| state.look(&file.path)).collect())).await
    }

    async fn beside(&self, folder: &Path) -> Result<Vec<(PathBuf, Seen)>, ImageError> {
        let beside = self.process.call(Call::Beside, |state| {
            let inside =
                state.files.all().filter(|(path, image)| path.parent() == Some(folder) && image.backing.is_some());
            inside.map(|(path, _)| Ok((path.clone(), state.look(path)?))).collect()
        });
        beside.await
    }

    async fn missing(&self, paths: &[PathBuf]) -> Result<BTreeSet<PathBuf>, ImageError> {
        let gone = self.process.call(Call::Missing, |state| {
            let there = |path: &PathBuf| {
                state.files.inode(path).is_some() || state.memories.contains_key(path) || state.folders.contains(path)
            };
            Ok(paths.iter().filter(|path| !there(path)).cloned().collect())
        });
        gone.await
    }

    async fn users(&self, paths: &[PathBuf]) -> Result<Vec<FileUser>, ImageError> {
        self.process.call(Call::Users, |state| Ok(state.users(paths))).await
    }

    async fn space(&self, path: &Path) -> Result<Space, ImageError> {
        self.process.call(Call::Space, |state| Ok(state.space(path))).await
    }

    async fn overlays_of(&self, path: &Path) -> Result<Vec<PathBuf>, ImageError> {
        let overlays = self.process.call(Call::OverlaysOf, |state| {
            let children = state.files.children(path).into_iter().map(|(child, _)| child.clone());
            Ok(children.filter(|child| child.parent() == path.parent()).collect())
        });
        overlays.await
    }

    async fn repoint(&self, overlay: &LayerFile, backing: &LayerFile) -> Result<(), ImageError> {
        self.process.call(Call::Repoint, |state| state.repoint(overlay, backing)).await
    }

    async fn flatten(&self, flatten: &Flatten, progress: &ProgressSink) -> Result<(), ImageError> {
        let point = self.process.enter(Call::Flatten).await?;
        let result = self.process.act(|state| state.flatten(flatten));
        progress(Progress { done: 1, total: 1 });
        point.leave(result).await
    }

    async fn remove(&self, path: &Path, identity: FileIdentity) -> Result<(), ImageError> {
        self.process.call(Call::RemoveFile, |state| state.remove(path, identity)).await
    }
}
