//! Files against records, as clients ask for it.

use stillpoint_common::{CheckpointId, Failure, Finding, FindingKind, Layer, VmId};

use super::Engine;
use crate::{
    LayerView, Reconnect,
    actor::Message,
    catalogue::readable,
    check::{check_vm, users_of},
    error::StepError,
    truth::{see, wrongs},
};

/// Keys in one read.
const PAGE: usize = 256;
/// How often a VM is looked at again if an operation began or ended meanwhile.
const TRIES: usize = 3;

impl Engine {
    /// Looks whether files, processes and descriptions are what the catalogue says: of one VM, or of all, and then
    /// whether every record can be read. Changes nothing.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, or if the catalogue cannot be read.
    pub async fn check(&self, vm: Option<&VmId>) -> Result<Vec<Finding>, Failure> {
        if let Some(vm) = vm {
            return self.check_one(vm).await;
        }
        let mut findings = self.unreadable_records().await?;
        for vm in self.vm_ids().await? {
            match self.check_one(&vm).await {
                Ok(found) => findings.extend(found),
                // It was deleted meanwhile, or its record is said to be unreadable already.
                Err(failure) => tracing::info!(%vm, %failure, "could not be checked"),
            }
        }
        Ok(findings)
    }

    async fn check_one(&self, vm: &VmId) -> Result<Vec<Finding>, Failure> {
        let at_work = || self.hub.of_vm(vm).map(|operation| operation.id);
        for _ in 0..TRIES {
            let (before, record) = (at_work(), self.world.catalogue.vm(vm).await?);
            let findings = check_vm(&self.world, vm, before.is_some()).await?;
            if at_work() == before && (before.is_some() || self.world.catalogue.vm(vm).await? == record) {
                return Ok(findings);
            }
        }
        check_vm(&self.world, vm, true).await
    }

    async fn unreadable_records(&self) -> Result<Vec<Finding>, Failure> {
        let mut findings = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.world.ports.store.scan("", after.as_deref(), PAGE).await.map_err(StepError::from)?;
            for (key, stored) in &page {
                findings.extend(readable(key, &stored.value).err().map(|failure| Finding {
                    kind: FindingKind::RecordUnreadable,
                    vm: None,
                    path: None,
                    message: failure.message,
                    checkpoints: Vec::new(),
                    now: false,
                }));
            }
            match page.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => return Ok(findings),
            }
        }
    }

    /// The layers of a VM, by disk, each after the one it lies on.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`.
    pub async fn layers(&self, vm: &VmId) -> Result<Vec<LayerView>, Failure> {
        let record = self.world.catalogue.vm(vm).await?;
        let checkpoints = self.world.catalogue.checkpoints(vm).await?;
        let forest = self.world.catalogue.forest(vm).await?;
        let mut layers: Vec<&Layer> = forest.iter().collect();
        layers.sort_by_key(|layer| (&layer.disk, forest.below(layer).len(), layer.file.id));
        let mut views = Vec::with_capacity(layers.len());
        for (layer, seen) in see(&self.world.ports, layers).await {
            let below = forest.below(layer);
            let (checkpoints, now): (Vec<CheckpointId>, bool) = users_of(layer.file.id, &record, &checkpoints, &forest);
            views.push(LayerView {
                room: self.world.ports.images.space(&layer.file.path).await.ok(),
                wrong: wrongs(layer, &below, seen.as_ref()).iter().map(crate::truth::Wrong::text).collect(),
                missing: matches!(seen, Err(crate::ports::ImageError::Missing { .. })),
                backing: below.first().map(|backing| backing.file.clone()),
                allocated: seen.ok().map(|seen| seen.allocated),
                layer: layer.clone(),
                checkpoints,
                now,
            });
        }
        Ok(views)
    }

    /// Tells the catalogue where files of layers are now. Answers those layers.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `LAYER_NOT_FOUND`, `DISK_NOT_FOUND`, `VM_RUNNING`, `VM_BUSY`, `DISK_FILE_MISSING`,
    /// `DISK_FILE_UNUSABLE`, `DISK_IN_USE`; `DISK_CHANGED` if nothing proves that the file is the one that is meant.
    pub async fn reconnect(&self, vm: &VmId, asked: Reconnect) -> Result<Vec<LayerView>, Failure> {
        let moved = self.ask(vm, |reply| Message::Reconnect { asked: Box::new(asked), reply }).await??;
        let layers = self.layers(vm).await?;
        Ok(layers.into_iter().filter(|view| moved.contains(&view.layer.file.id)).collect())
    }
}
