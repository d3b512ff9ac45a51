//! Taking back what an attempt to create a checkpoint has done.

use super::Create;
use crate::{
    catalogue::Changes,
    context::Cx,
    error::StepError,
    plans::disks::layer_of,
    ports::{HypervisorError, ImageError, RunState},
    saga::up_to,
};

impl Create {
    pub(super) async fn detach(&self, cx: &Cx) -> Result<(), StepError> {
        let overlays: Vec<_> = self.facts.overlays.values().map(|overlay| overlay.file.id).collect();
        match cx.ports().hypervisor.detach_overlays(self.instance()?, &overlays).await {
            Ok(()) | Err(HypervisorError::Gone) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the guest write again. If it cannot be asked, even at a second time, its own lease lets it.
    pub(super) async fn let_go(&self, cx: &Cx) -> Result<(), StepError> {
        let (instance, session) = (self.instance()?, self.facts.session);
        let told = up_to(2, "letting the guest go on", || cx.ports().guest.finish(instance, session)).await;
        if let Err(error) = told {
            tracing::info!(vm = %cx.vm, %error, "the guest could not be told to go on; its lease ends the hold");
        }
        Ok(())
    }

    /// Lets the VM run, if it ran. One that does not say how it is gets told all the same: running already is fine. If
    /// it cannot be told, a note stays, so that it will be told as soon as that is possible.
    pub(super) async fn let_run(&self, cx: &Cx) -> Result<(), StepError> {
        let instance = self.instance()?;
        let run = cx.ports().hypervisor.observe(instance).await.map(|observed| observed.run);
        if !self.facts.checkpoint.was_running || !matches!(run, Ok(RunState::Paused) | Err(_)) {
            return Ok(());
        }
        match cx.ports().hypervisor.resume(instance).await {
            Ok(()) => Ok(cx.catalogue().commit(Changes::default().clear_hold(&cx.vm)).await?),
            Err(HypervisorError::Gone) => Ok(()),
            Err(error) => {
                cx.catalogue().commit(Changes::default().set_hold(&cx.vm, instance)).await?;
                Err(error.into())
            }
        }
    }

    /// Once the guest may have written to an overlay, the overlay is its disk: it becomes the head, and collection
    /// merges it down. Of a process that is gone or does not answer nobody knows whether it had switched; an overlay
    /// that it had not switched to is empty and reads as what it lies on, so that taking it is right in either case.
    ///
    /// The step is vital, so that this has succeeded before any overlay is removed: one may be all that there is of what
    /// the guest wrote.
    pub(super) async fn adopt(&self, cx: &Cx) -> Result<(), StepError> {
        let observed = match cx.ports().hypervisor.observe(self.instance()?).await {
            Ok(observed) => Some(observed).filter(|observed| observed.run != RunState::Gone),
            Err(error) => {
                tracing::warn!(vm = %cx.vm, %error, "taking the new layers as heads without knowing whether they are");
                None
            }
        };
        let mut vm = cx.catalogue().vm(&cx.vm).await?;
        let mut changes = Changes::default();
        for (disk, overlay) in &self.facts.overlays {
            let head = |chain: &Vec<_>| chain.first() == Some(&overlay.file.id);
            if observed.as_ref().is_some_and(|observed| !observed.chains.get(disk).is_some_and(head)) {
                continue;
            }
            match cx.ports().images.stat(&overlay.file.path, overlay.file.format).await {
                Ok(facts) => {
                    vm.heads.insert(disk.clone(), overlay.file.id);
                    let layer =
                        layer_of(disk, overlay, facts.identity, facts.virtual_size, self.facts.checkpoint.created);
                    changes = changes.set_layer(&cx.vm, &layer);
                }
                Err(ImageError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(cx.catalogue().commit(changes.set_vm(&vm)).await?)
    }

    pub(super) async fn give_up_capture(&self, cx: &Cx) {
        let Some(instance) = self.facts.instance else { return };
        match cx.ports().hypervisor.cancel_capture(instance).await {
            Ok(()) | Err(HypervisorError::Gone) => {}
            Err(error) => cx.reporter.warn(format!("giving up the memory capture: {error}")),
        }
    }

    pub(super) async fn drop_memory(&self, cx: &Cx) -> Result<(), StepError> {
        let vm = cx.catalogue().vm(&cx.vm).await?;
        Ok(cx.ports().memory.remove(&vm.checkpoint_location, self.facts.checkpoint.id.into()).await?)
    }
}
