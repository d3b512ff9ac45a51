//! Changes of a VM's record, and its deletion.

use stillpoint_common::{CheckpointId, Event, EventKind, Failure, Reason, Vm, VmDefinition};

use super::VmActor;
use crate::{
    CheckpointChange, VmChange,
    admission::{Admitted, AtWork, Situation, of_no_backup, ready},
    catalogue::Changes,
    describe::{self, Debt},
    disks::{exchange_disks, take_disks},
    error::{StepError, wrong_definition},
    media::take_media,
    plans,
    ports::HypervisorError,
    tpm::{forget_tpm, give_tpm},
};

impl VmActor {
    pub(super) async fn change(&mut self, change: VmChange) -> Result<(), Failure> {
        let mut vm = self.idle_vm().await?;
        let has_checkpoints = !self.world.catalogue.checkpoints(&self.vm).await?.is_empty();
        let mut changes = Changes::default();
        if let Some(policy) = change.checkpoint_policy {
            vm.checkpoint_policy = policy;
        }
        vm.undo_checkpoint = change.undo_checkpoint.unwrap_or(vm.undo_checkpoint);
        if let Some(location) = change.checkpoint_location {
            refuse_saved(&vm, "its checkpoint location cannot be changed", "vm.checkpoint_location")?;
            if has_checkpoints {
                return Err(self
                    .has_checkpoints("its checkpoint location cannot be changed")
                    .at("vm.checkpoint_location"));
            }
            if vm.checkpoint_location != location {
                describe::remove_all(&self.world, &vm).await?;
                vm.checkpoint_location = location;
            }
        }
        if let Some(critical) = change.critical {
            vm.critical = critical;
            self.suspect_if_watched();
        }
        let settled = |definition: VmDefinition| definition.settled(&vm.id, Some(&vm.definition));
        let definition = change.definition.map(settled).transpose().map_err(wrong_definition)?;
        if let Some(definition) = definition.filter(|definition| *definition != vm.definition) {
            refuse_saved(&vm, "what it is made of cannot be changed", "vm.spec")?;
            changes = self.redefine(&mut vm, definition, has_checkpoints).await?;
        }
        for (key, value) in change.values {
            match value {
                Some(value) => vm.values.set(&key, &value).map_err(|problem| Failure::field("set", problem))?,
                None => drop(vm.values.unset(&key)),
            }
        }
        let setting = vm.settings.on_failure;
        vm.settings = change.settings.applied(vm.settings);
        if vm.settings.on_failure != setting {
            self.set_on_panic(&vm).await?;
        }
        vm.updated = self.now();
        let event = self.event(EventKind::VmChanged, "its record was changed");
        // The files of checkpoints hold settings of their VM.
        self.write(changes.set_vm(&vm).owe(&vm.id, Debt::All).event(&event)).await
    }

    /// What becomes of a guest that panics has to be known to its process before it does.
    async fn set_on_panic(&self, vm: &Vm) -> Result<(), Failure> {
        let Some(instance) = vm.instance else { return Ok(()) };
        let set = self.world.ports.hypervisor.set_on_panic(instance, vm.settings.on_failure.into()).await;
        match set {
            Ok(()) | Err(HypervisorError::Gone) => Ok(()),
            Err(error) => Err(StepError::from(error).into()),
        }
    }

    async fn redefine(&self, vm: &mut Vm, definition: VmDefinition, has_checkpoints: bool) -> Result<Changes, Failure> {
        if vm.instance.is_some() {
            return Err(Failure::new(Reason::VmRunning, format!("VM {} is running", vm.id)).at("vm.spec"));
        }
        definition.check().map_err(wrong_definition)?;
        take_media(&self.world, &vm.definition.media, &definition).await?;
        let mut changes = Changes::default();
        if !definition.layered().eq(vm.definition.layered()) {
            let has_points = !self.world.catalogue.points(&vm.id).await?.is_empty();
            changes = match has_checkpoints || has_points || !vm.detached.is_empty() {
                true => exchange_disks(&self.world, vm, &definition).await?,
                false => self.take_all_disks(vm, &definition).await?,
            };
        }
        vm.definition = definition;
        give_tpm(&self.world, vm).await?;
        Ok(changes)
    }

    /// Nothing but Now needs a layer: every disk is taken anew.
    async fn take_all_disks(&self, vm: &mut Vm, definition: &VmDefinition) -> Result<Changes, Failure> {
        self.has_only_its_own_images().await.map_err(|failure| failure.at("vm.spec.disks"))?;
        let mut changes = Changes::default();
        for layer in self.world.catalogue.forest(&vm.id).await?.iter() {
            changes = changes.delete_layer(&vm.id, layer);
        }
        let layers = take_disks(&self.world, Some(&vm.id), definition).await?;
        vm.heads = layers.iter().map(|layer| (layer.disk.clone(), layer.file.id)).collect();
        vm.detached.clear();
        Ok(layers.iter().fold(changes, |changes, layer| changes.set_layer(&vm.id, layer)))
    }

    pub(super) async fn remark(&mut self, id: CheckpointId, change: CheckpointChange) -> Result<(), Failure> {
        self.idle_vm().await?;
        let checkpoint = self.world.catalogue.checkpoint(&self.vm, id).await?;
        ready(&checkpoint)?;
        of_no_backup(&checkpoint)?;
        let changed = change.applied(checkpoint);
        let text = format!("it is called {:?} now", changed.name.as_str());
        let event = Event { checkpoint: Some(id), ..self.event(EventKind::CheckpointRenamed, text) };
        self.write(Changes::default().set_checkpoint(&changed).event(&event)).await
    }

    /// Writes changes down, and describes them.
    pub(super) async fn write(&self, changes: Changes) -> Result<(), Failure> {
        self.world.catalogue.commit(changes).await.map_err(StepError::from)?;
        describe::settled(&self.world, &self.vm).await;
        Ok(())
    }

    pub(super) async fn delete(&mut self) -> Result<(), Failure> {
        let vm = self.idle_vm().await?;
        if vm.instance.is_some() {
            return Err(Failure::new(Reason::VmRunning, format!("VM {} is running", vm.id)));
        }
        refuse_saved(&vm, "it cannot be deleted", "name")?;
        let backups = self.world.catalogue.backups(&self.vm).await?;
        if let Some(open) = backups.iter().find(|backup| backup.is_open()) {
            let message = format!("backup session {} of VM {} is open: it cannot be deleted", open.id, self.vm);
            return Err(Failure::new(Reason::BackupOpen, message));
        }
        if !self.world.catalogue.checkpoints(&self.vm).await?.is_empty() {
            return Err(self.has_checkpoints("it cannot be deleted"));
        }
        if !self.world.catalogue.points(&self.vm).await?.is_empty() {
            let message = format!("VM {} has reference points: it cannot be deleted", self.vm);
            return Err(Failure::new(Reason::VmHasReferencePoints, message));
        }
        plans::release_memory(&self.idle_cx()).await?;
        self.nothing_to_collect(&vm).await?;
        self.has_only_its_own_images().await?;
        describe::remove_all(&self.world, &vm).await?;
        let forest = self.world.catalogue.forest(&vm.id).await?;
        let changes = forest.iter().fold(Changes::default(), |changes, layer| changes.delete_layer(&vm.id, layer));
        let event = self.event(EventKind::VmForgotten, format!("{} was forgotten; its images stay", vm.id));
        let changes = backups.iter().fold(changes, |changes, backup| changes.forget_backup(&vm.id, backup.id));
        let changes = changes.delete_vm(&vm.id).event(&event);
        if let Err(error) = self.world.catalogue.commit(changes).await {
            self.world.catalogue.settled().await.map_err(StepError::from)?;
            match self.world.catalogue.vm(&self.vm).await {
                Err(gone) if gone.reason == Reason::VmNotFound => {}
                Ok(_) | Err(_) => return Err(StepError::from(error).into()),
            }
        }
        forget_tpm(&self.world, &vm).await;
        Ok(())
    }

    /// What the VM's disks hold is to be in the user's own images when the VM is forgotten: what an earlier failure has
    /// left in other layers is merged first.
    async fn nothing_to_collect(&mut self, vm: &Vm) -> Result<(), Failure> {
        if !plans::collection_is_due(&self.idle_cx()).await? {
            return Ok(());
        }
        self.collect().await;
        let message = format!("layers of VM {} are still to be merged into its images", vm.id);
        Err(Failure::new(Reason::VmBusy, message))
    }

    /// The VM's record, when nothing is at work on it: merging makes way.
    pub(super) async fn idle_vm(&mut self) -> Result<Vm, Failure> {
        let vm = self.world.catalogue.vm(&self.vm).await?;
        let busy = self.busy();
        let running = busy.as_ref().map(|(operation, makes_way)| AtWork { operation, makes_way: *makes_way });
        let max_checkpoints = self.world.config.max_checkpoints;
        match (Situation { vm: &vm, checkpoints: &[], running, max_checkpoints }).idle()? {
            Admitted::Now => Ok(vm),
            Admitted::AfterMakingWay => {
                self.make_way().await;
                self.world.catalogue.vm(&self.vm).await
            }
        }
    }

    /// What the user knows as the disks holds all the data: no layer lies on them.
    async fn has_only_its_own_images(&self) -> Result<(), Failure> {
        let forest = self.world.catalogue.forest(&self.vm).await?;
        match forest.iter().find(|layer| layer.backing.is_some()) {
            None => Ok(()),
            Some(layer) => {
                let (vm, disk) = (&self.vm, &layer.disk);
                let message = format!("layers of VM {vm}'s disk {disk} are still to be merged into its image");
                Err(Failure::new(Reason::DiskHasLayers, message))
            }
        }
    }

    fn has_checkpoints(&self, so: &str) -> Failure {
        Failure::new(Reason::VmHasCheckpoints, format!("VM {} has checkpoints: {so}", self.vm))
    }
}

/// A saved state fits the machine as it was saved, and lies in the folder where it was put.
fn refuse_saved(vm: &Vm, so: &str, field: &str) -> Result<(), Failure> {
    match &vm.saved {
        None => Ok(()),
        Some(_) => Err(Failure::new(Reason::VmSaved, format!("VM {} is saved: {so}", vm.id)).at(field)),
    }
}
