//! The port to export folders.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use stillpoint_common::{OperationId, Progress};
use stillpoint_engine::{
    ExportedFile,
    ports::{ExportError, ExportTargets, MemorySource, ProgressSink},
};

use crate::{Call, exports, process::Process};

pub(super) struct SimExports {
    process: Process,
}

impl SimExports {
    pub(super) fn new(process: Process) -> Self {
        Self { process }
    }
}

#[async_trait]
impl ExportTargets for SimExports {
    fn staging_folder(&self, target: &Path, operation: OperationId) -> PathBuf {
        exports::staging_folder(target, operation)
    }

    async fn stage(&self, target: &Path, operation: OperationId) -> Result<PathBuf, ExportError> {
        self.process.call(Call::StageExport, |state| state.stage(target, operation)).await
    }

    async fn copy_memory(
        &self,
        source: MemorySource<'_>,
        to: &Path,
        progress: &ProgressSink,
    ) -> Result<(), ExportError> {
        let memory = source.state;
        let copied = self.process.call(Call::CopyMemory, |state| state.copy_memory(memory, to)).await;
        progress(Progress { done: memory.bytes, total: memory.bytes });
        copied
    }

    async fn write(&self, bytes: &[u8], to: &Path) -> Result<(), ExportError> {
        self.process.call(Call::WriteExport, |state| state.write_export(bytes, to)).await
    }

    async fn seal(
        &self,
        staged: &Path,
        target: &Path,
        describe: serde_json::Value,
    ) -> Result<Vec<ExportedFile>, ExportError> {
        self.process.call(Call::SealExport, |state| state.seal_export(staged, target, describe)).await
    }

    async fn is_sealed(&self, target: &Path, operation: OperationId) -> Result<bool, ExportError> {
        self.process.call(Call::IsSealed, |state| Ok(state.is_sealed(target, operation))).await
    }

    async fn discard(&self, staged: &Path) -> Result<(), ExportError> {
        self.process
            .call(Call::DiscardExport, |state| {
                state.discard_export(staged);
                Ok(())
            })
            .await
    }

    async fn files(&self, target: &Path) -> Result<Vec<ExportedFile>, ExportError> {
        self.process.call(Call::ExportFiles, |state| state.exported_files(target)).await
    }
}
