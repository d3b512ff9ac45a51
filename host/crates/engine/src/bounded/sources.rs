//! The calls for folders that VMs are imported from and to.

use std::{os::fd::OwnedFd, path::Path};

use async_trait::async_trait;
use stillpoint_common::OperationId;

use super::{Bounded, Moving, exports::late, named, within};
use crate::{
    ExportedFile,
    ports::{Depth, ExportError, ExportSources, FileDamage, ProgressSink},
};

#[async_trait]
impl ExportSources for Bounded<dyn ExportSources> {
    async fn manifest(&self, folder: &Path) -> Result<serde_json::Value, ExportError> {
        let call = named("sources.manifest", self.port.manifest(folder));
        within(self.limits.look, late("reading", folder), call).await
    }

    async fn compare(
        &self,
        folder: &Path,
        files: &[ExportedFile],
        depth: Depth,
        progress: &ProgressSink,
    ) -> Result<Vec<FileDamage>, ExportError> {
        let Moving { sink, seen } = Moving::new(progress);
        let call = named("sources.compare", self.port.compare(folder, files, depth, &sink));
        Moving::within(seen, self.limits.stall, late("comparing", folder), call).await
    }

    async fn read(&self, folder: &Path, file: &str, at_most: u64) -> Result<Vec<u8>, ExportError> {
        let call = named("sources.read", self.port.read(folder, file, at_most));
        within(self.limits.act, late("reading", &folder.join(file)), call).await
    }

    async fn send(
        &self,
        folder: &Path,
        file: &str,
        descriptor: OwnedFd,
        progress: &ProgressSink,
    ) -> Result<(), ExportError> {
        let Moving { sink, seen } = Moving::new(progress);
        let call = named("sources.send", self.port.send(folder, file, descriptor, &sink));
        Moving::within(seen, self.limits.stall, late("copying", &folder.join(file)), call).await
    }

    async fn claim(&self, target: &Path, operation: OperationId) -> Result<(), ExportError> {
        let call = named("sources.claim", self.port.claim(target, operation));
        within(self.limits.act, late("making", target), call).await
    }

    async fn give_back(&self, target: &Path, operation: OperationId) -> Result<(), ExportError> {
        let call = named("sources.give_back", self.port.give_back(target, operation));
        within(self.limits.act, late("removing", target), call).await
    }

    async fn keep(&self, target: &Path, operation: OperationId) -> Result<(), ExportError> {
        let call = named("sources.keep", self.port.keep(target, operation));
        within(self.limits.act, late("finishing", target), call).await
    }

    async fn retire(&self, folder: &Path) -> Result<(), ExportError> {
        let call = named("sources.retire", self.port.retire(folder));
        within(self.limits.act, late("putting the manifest aside in", folder), call).await
    }
}
