//! The port to folders that VMs are imported from and to.

use std::{fs::File, io::Write as _, os::fd::OwnedFd, path::Path};

use async_trait::async_trait;
use stillpoint_common::{OperationId, Progress};
use stillpoint_engine::{
    ExportedFile,
    ports::{Depth, ExportError, ExportSources, FileDamage, ProgressSink},
};

use crate::{Call, process::Process};

pub(super) struct SimSources {
    process: Process,
}

impl SimSources {
    pub(super) fn new(process: Process) -> Self {
        Self { process }
    }
}

#[async_trait]
impl ExportSources for SimSources {
    async fn manifest(&self, folder: &Path) -> Result<serde_json::Value, ExportError> {
        self.process.call(Call::ReadManifest, |state| state.read_manifest(folder)).await
    }

    async fn compare(
        &self,
        folder: &Path,
        files: &[ExportedFile],
        depth: Depth,
        progress: &ProgressSink,
    ) -> Result<Vec<FileDamage>, ExportError> {
        let total = files.iter().map(|file| file.bytes).sum();
        progress(Progress { done: total, total });
        self.process.call(Call::CompareExport, |state| Ok(state.compare_export(folder, files, depth))).await
    }

    async fn read(&self, folder: &Path, file: &str, _at_most: u64) -> Result<Vec<u8>, ExportError> {
        self.process.call(Call::ReadExport, |state| state.exported_bytes(&folder.join(file))).await
    }

    async fn send(&self, folder: &Path, file: &str, sink: OwnedFd, progress: &ProgressSink) -> Result<(), ExportError> {
        let path = folder.join(file);
        let failed = |error: std::io::Error| ExportError::Failed {
            what: format!("copying {}", path.display()),
            message: error.to_string(),
        };
        let sent = self.process.call(Call::SendMemory, |state| {
            let bytes = state.exported_bytes(&path)?;
            File::from(sink).write_all(&bytes).map_err(failed)?;
            Ok(bytes.len() as u64)
        });
        let total = sent.await?;
        progress(Progress { done: total, total });
        Ok(())
    }

    async fn claim(&self, target: &Path, operation: OperationId) -> Result<(), ExportError> {
        self.process.call(Call::ClaimFolder, |state| state.claim(target, operation)).await
    }

    async fn give_back(&self, target: &Path, operation: OperationId) -> Result<(), ExportError> {
        self.process
            .call(Call::GiveBackFolder, |state| {
                state.give_back(target, operation);
                Ok(())
            })
            .await
    }

    async fn keep(&self, target: &Path, operation: OperationId) -> Result<(), ExportError> {
        self.process
            .call(Call::KeepFolder, |state| {
                if state.marks.get(target) == Some(&operation) {
                    state.marks.remove(target);
                }
                Ok(())
            })
            .await
    }

    async fn retire(&self, folder: &Path) -> Result<(), ExportError> {
        self.process
            .call(Call::RetireExport, |state| {
                state.manifests.remove(folder);
                Ok(())
            })
            .await
    }
}
