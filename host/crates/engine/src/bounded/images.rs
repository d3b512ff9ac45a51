//! The calls for image files.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use stillpoint_common::{DiskFormat, FileIdentity, LayerFile};

use super::{Bounded, Moving, named, within};
use crate::ports::{
    Extent, FileUser, Flatten, ImageError, ImageFacts, Images, Moved, OfflineMerge, ProgressSink, Seen, Space, Stop,
};

type Answer<T = ()> = Result<T, ImageError>;

fn late(what: &'static str, path: &Path) -> impl FnOnce(Duration) -> ImageError {
    let what = format!("{what} {}", path.display());
    move |waited| ImageError::Failed { what, message: format!("no answer, and nothing moved, within {waited:?}") }
}

fn first(paths: &[PathBuf]) -> &Path {
    paths.first().map_or(Path::new("files"), PathBuf::as_path)
}

#[async_trait]
impl Images for Bounded<dyn Images> {
    async fn stat(&self, path: &Path, format: DiskFormat) -> Answer<ImageFacts> {
        within(self.limits.look, late("a look at the header of", path), named("stat", self.port.stat(path, format)))
            .await
    }

    async fn look_at(&self, files: &[LayerFile]) -> Answer<Vec<Answer<Seen>>> {
        let first = files.first().map_or(Path::new("files"), |file| &file.path);
        within(self.limits.look, late("a glance at", first), named("look_at", self.port.look_at(files))).await
    }

    async fn beside(&self, folder: &Path) -> Answer<Vec<(PathBuf, Seen)>> {
        within(self.limits.act, late("a look at images in", folder), named("beside", self.port.beside(folder))).await
    }

    async fn missing(&self, paths: &[PathBuf]) -> Answer<BTreeSet<PathBuf>> {
        within(self.limits.look, late("a look for", first(paths)), named("missing", self.port.missing(paths))).await
    }

    async fn users(&self, paths: &[PathBuf]) -> Answer<Vec<FileUser>> {
        within(self.limits.act, late("a look for users of", first(paths)), named("users", self.port.users(paths))).await
    }

    async fn space(&self, path: &Path) -> Answer<Space> {
        within(self.limits.look, late("a look at the space around", path), named("space", self.port.space(path))).await
    }

    async fn merge_growth(&self, child: &LayerFile, parent: &LayerFile) -> Answer<u64> {
        let call = self.port.merge_growth(child, parent);
        within(self.limits.look, late("a look at the data of", &child.path), call).await
    }

    async fn extents(&self, layer: &LayerFile, part: &Range<u64>) -> Answer<Vec<Extent>> {
        let call = named("extents", self.port.extents(layer, part));
        within(self.limits.act, late("a look at the data of", &layer.path), call).await
    }

    async fn create_overlay(&self, overlay: &Path, backing: &LayerFile, virtual_size: u64) -> Answer<FileIdentity> {
        let call = named("create_overlay", self.port.create_overlay(overlay, backing, virtual_size));
        within(self.limits.act, late("the making of", overlay), call).await
    }

    async fn create_variables(&self, path: &Path) -> Answer {
        let call = named("create_variables", self.port.create_variables(path));
        within(self.limits.act, late("the making of", path), call).await
    }

    async fn merge_offline(&self, merge: &OfflineMerge, stop: &Stop, progress: &ProgressSink) -> Answer<Moved> {
        let Moving { sink, seen } = Moving::new(progress);
        let call = named("merge_offline", self.port.merge_offline(merge, stop, &sink));
        Moving::within(seen, self.limits.stall, late("the merge of", &merge.child.path), call).await
    }

    async fn stream_offline(&self, merge: &OfflineMerge, stop: &Stop, progress: &ProgressSink) -> Answer<Moved> {
        let Moving { sink, seen } = Moving::new(progress);
        let call = named("stream_offline", self.port.stream_offline(merge, stop, &sink));
        Moving::within(seen, self.limits.stall, late("the merge of", &merge.parent.path), call).await
    }

    async fn overlays_of(&self, path: &Path) -> Answer<Vec<PathBuf>> {
        within(self.limits.act, late("a look for overlays of", path), named("overlays_of", self.port.overlays_of(path)))
            .await
    }

    async fn repoint(&self, overlay: &LayerFile, backing: &LayerFile) -> Answer {
        let call = named("repoint", self.port.repoint(overlay, backing));
        within(self.limits.act, late("a change of the backing file of", &overlay.path), call).await
    }

    async fn flatten(&self, flatten: &Flatten, progress: &ProgressSink) -> Answer {
        let Moving { sink, seen } = Moving::new(progress);
        let call = named("flatten", self.port.flatten(flatten, &sink));
        Moving::within(seen, self.limits.stall, late("the copy of", &flatten.target), call).await
    }

    async fn clear_unfinished(&self, overlay: &Path) -> Answer {
        within(
            self.limits.act,
            late("the clearing away of", overlay),
            named("clear_unfinished", self.port.clear_unfinished(overlay)),
        )
        .await
    }

    async fn remove(&self, path: &Path, identity: FileIdentity) -> Answer {
        within(self.limits.act, late("the removal of", path), named("remove", self.port.remove(path, identity))).await
    }
}
