//! Exports as something to read, and to make VMs of.

use std::path::Path;

use stillpoint_common::{Failure, Operation, VmId};

use super::Engine;
use crate::{
    Request,
    actor::{Message, VmActor},
    error::StepError,
    import::{ImportRequest, Inspection, inspect},
    manifest::Manifest,
    ports::{Depth, FileDamage, ProgressSink},
};

impl Engine {
    /// What importing an export would be, and what stands against it. Changes nothing.
    ///
    /// # Errors
    /// The field that is wrong; `EXPORT_UNUSABLE`.
    pub async fn inspect_export(&self, vm: &VmId, asked: &ImportRequest) -> Result<Inspection, Failure> {
        inspect(&self.world, vm, asked).await
    }

    /// What an export says of itself.
    ///
    /// # Errors
    /// `EXPORT_UNUSABLE`.
    pub async fn read_export(&self, folder: &Path) -> Result<Manifest, Failure> {
        let content = self.world.ports.sources.manifest(folder).await.map_err(StepError::from)?;
        Manifest::read(content).map_err(|failure| failure.at("folder"))
    }

    /// Reads every byte of an export and answers the files that are not what was exported. Dropped, it stops.
    ///
    /// # Errors
    /// `EXPORT_UNUSABLE`, or why it cannot be read.
    pub async fn verify_export(
        &self,
        folder: &Path,
        manifest: &Manifest,
        progress: &ProgressSink,
    ) -> Result<Vec<FileDamage>, Failure> {
        let compare = self.world.ports.sources.compare(folder, &manifest.files, Depth::Content, progress);
        Ok(compare.await.map_err(StepError::from)?)
    }

    /// Begins to make a VM of an export. The same `request_id` with the same request answers the same operation.
    ///
    /// # Errors
    /// What stands against it, as [`Engine::inspect_export`] says.
    pub async fn import_vm(
        &self,
        vm: &VmId,
        asked: ImportRequest,
        request_id: Option<String>,
    ) -> Result<Operation, Failure> {
        let known = match &request_id {
            Some(id) => self.world.catalogue.request(vm, id).await?,
            None => None,
        };
        if known.is_none() {
            self.inspect_export(vm, &asked).await?.admit()?;
        }
        // Nobody has an actor before there is a VM, or an import that makes one.
        let mut actors = self.actors.lock().await;
        let spawn = || VmActor::spawn(self.world.clone(), self.hub.clone(), vm.clone(), Vec::new());
        actors.entry(vm.clone()).or_insert_with(spawn);
        drop(actors);
        let answer = self.submit(vm, Request::Import(Box::new(asked)), request_id).await;
        self.forget_actor_of_nobody(vm);
        answer
    }

    /// An import that failed leaves an actor without a VM: it goes when nothing is at work any more.
    pub(super) fn forget_actor_of_nobody(&self, vm: &VmId) {
        let (engine, vm) = (self.clone(), vm.clone());
        tokio::spawn(async move {
            if engine.idle(&vm).await.is_err() {
                return;
            }
            let mut actors = engine.actors.lock().await;
            let known = engine.world.catalogue.find_vm(&vm).await;
            if matches!(known, Ok(None))
                && let Some(actor) = actors.remove(&vm)
            {
                let _ = actor.try_send(Message::Stop);
            }
        });
    }
}
