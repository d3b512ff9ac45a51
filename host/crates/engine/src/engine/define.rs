//! Defining a VM.

use stillpoint_common::{Event, EventKind, Failure, Layer, Reason, Vm};

use super::Engine;
use crate::{
    NewVm, VmView,
    actor::VmActor,
    admission::exists,
    catalogue::Changes,
    describe,
    disks::take_disks,
    error::{StepError, wrong_definition},
    media::take_media,
    ports::StoreError,
    record::new_vm,
    tpm::{forget_tpm, give_tpm},
};

impl Engine {
    /// Defines a VM; it is off. The same `request_id` again answers the VM that it has made.
    ///
    /// # Errors
    /// The field that is wrong, or the disk that cannot be taken.
    pub async fn create_vm(&self, mut new: NewVm, request_id: Option<String>) -> Result<VmView, Failure> {
        new.definition = new.definition.settled(&new.id, None).map_err(wrong_definition)?;
        new.definition.check().map_err(wrong_definition)?;
        if let Ok(known) = self.world.catalogue.vm(&new.id).await {
            return match request_id.is_some() && known.made_by == request_id && known.definition == new.definition {
                true => self.view(known).await,
                false => Err(exists(&new.id)),
            };
        }
        let layers = take_disks(&self.world, None, &new.definition).await?;
        take_media(&self.world, &[], &new.definition).await?;
        let mut vm = Vm { made_by: request_id, ..self.new_record(new, &layers) };
        give_tpm(&self.world, &mut vm).await?;
        self.write_new(&vm, &layers).await?;
        describe::settled(&self.world, &vm.id).await;
        let actor = VmActor::spawn(self.world.clone(), self.hub.clone(), vm.id.clone(), Vec::new());
        self.actors.lock().await.insert(vm.id.clone(), actor);
        self.vm(&vm.id).await
    }

    async fn write_new(&self, vm: &Vm, layers: &[Layer]) -> Result<(), Failure> {
        let event = Event::of_vm(vm.created, EventKind::VmDefined, &vm.id, format!("{} was defined", vm.id));
        let changes =
            layers.iter().fold(Changes::default().new_vm(vm), |changes, layer| changes.new_layer(&vm.id, layer));
        let refused = match self.world.catalogue.commit(changes.event(&event)).await {
            Ok(()) => return Ok(()),
            Err(StoreError::Conflict { key }) if key.starts_with("vm/") => exists(&vm.id),
            Err(StoreError::Conflict { .. }) => {
                Failure::new(Reason::DiskInUse, "one of the disks has just been taken by another VM")
            }
            Err(error) => return self.made_all_the_same(vm, error).await,
        };
        forget_tpm(&self.world, vm).await;
        Err(refused)
    }

    /// A store that failed may have written all the same. A VM that is in the catalogue has to have its actor.
    async fn made_all_the_same(&self, vm: &Vm, error: StoreError) -> Result<(), Failure> {
        self.world.catalogue.settled().await.map_err(StepError::from)?;
        match self.world.catalogue.vm(&vm.id).await {
            Ok(known) if known.uid == vm.uid => Ok(()),
            Ok(_) | Err(_) => Err(StepError::from(error).into()),
        }
    }

    fn new_record(&self, new: NewVm, layers: &[Layer]) -> Vm {
        let vm = new_vm(&self.world, new.id, new.definition);
        Vm {
            checkpoint_policy: new.checkpoint_policy,
            checkpoint_location: new.checkpoint_location.unwrap_or(vm.checkpoint_location),
            heads: layers.iter().map(|layer| (layer.disk.clone(), layer.file.id)).collect(),
            critical: new.critical,
            settings: new.settings,
            ..vm
        }
    }
}
