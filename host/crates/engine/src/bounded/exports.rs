//! The calls for export folders.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use stillpoint_common::OperationId;

use super::{Bounded, Moving, named, within};
use crate::{
    ExportedFile,
    ports::{ExportError, ExportTargets, MemorySource, ProgressSink},
};

pub(super) fn late(what: &'static str, path: &Path) -> impl FnOnce(Duration) -> ExportError {
    let what = format!("{what} {}", path.display());
    move |waited| ExportError::Failed { what, message: format!("no answer, and nothing moved, within {waited:?}") }
}

#[async_trait]
impl ExportTargets for Bounded<dyn ExportTargets> {
    fn staging_folder(&self, target: &Path, operation: OperationId) -> PathBuf {
        self.port.staging_folder(target, operation)
    }

    async fn stage(&self, target: &Path, operation: OperationId) -> Result<PathBuf, ExportError> {
        within(self.limits.act, late("beginning", target), named("exports.stage", self.port.stage(target, operation)))
            .await
    }

    async fn copy_memory(
        &self,
        source: MemorySource<'_>,
        to: &Path,
        progress: &ProgressSink,
    ) -> Result<(), ExportError> {
        let Moving { sink, seen } = Moving::new(progress);
        let call = named("exports.copy_memory", self.port.copy_memory(source, to, &sink));
        Moving::within(seen, self.limits.stall, late("copying memory to", to), call).await
    }

    async fn write(&self, bytes: &[u8], to: &Path) -> Result<(), ExportError> {
        within(self.limits.act, late("writing", to), named("exports.write", self.port.write(bytes, to))).await
    }

    /// Reads all that was written, and reports nothing meanwhile.
    async fn seal(
        &self,
        staged: &Path,
        target: &Path,
        describe: serde_json::Value,
    ) -> Result<Vec<ExportedFile>, ExportError> {
        within(
            self.limits.bulk,
            late("sealing", target),
            named("exports.seal", self.port.seal(staged, target, describe)),
        )
        .await
    }

    async fn is_sealed(&self, target: &Path, operation: OperationId) -> Result<bool, ExportError> {
        let call = named("exports.is_sealed", self.port.is_sealed(target, operation));
        within(self.limits.act, late("looking at", target), call).await
    }

    async fn discard(&self, folder: &Path) -> Result<(), ExportError> {
        within(self.limits.act, late("removing", folder), named("exports.discard", self.port.discard(folder))).await
    }

    async fn files(&self, target: &Path) -> Result<Vec<ExportedFile>, ExportError> {
        within(self.limits.look, late("reading", target), named("exports.files", self.port.files(target))).await
    }
}
