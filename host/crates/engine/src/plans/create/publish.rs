//! The end of a creation: the checkpoint as it will be, described beside its memory, then published.

use stillpoint_common::Vm;

use super::{Create, decide::consistency};
use crate::{
    catalogue::Changes,
    context::Cx,
    describe::{self, Debt, Described},
    error::StepError,
    truth::freeze,
};

impl Create {
    /// Completes the checkpoint's record and describes it, and the VM, as they will be once it is published. The guest
    /// writes to the new layers already: were the catalogue lost now, they would be found again.
    pub(super) async fn describe(&mut self, cx: &Cx) -> Result<(), StepError> {
        let vm = self.complete(cx).await?;
        let mut checkpoints = cx.catalogue().checkpoints(&cx.vm).await?;
        checkpoints.push(self.facts.checkpoint.clone());
        let mut forest = cx.catalogue().forest(&cx.vm).await?;
        // The old heads will never be written to again.
        let heads = self.facts.checkpoint.disks.values().filter_map(|head| forest.get(*head).cloned()).collect();
        self.frozen = freeze(cx, heads).await?;
        forest.extend(self.frozen.iter().chain(&self.made).cloned());
        // No other checkpoint reads through the old heads.
        let described = Described { vm: &vm, checkpoints: &checkpoints, forest: &forest };
        describe::write_owed(&cx.world, described, &[Debt::Checkpoint(self.facts.checkpoint.id)]).await?;
        self.published = Some(vm);
        Ok(())
    }

    /// Answers the VM as it will be.
    async fn complete(&mut self, cx: &Cx) -> Result<Vm, StepError> {
        let mut vm = cx.catalogue().vm(&cx.vm).await?;
        let checkpoint = &mut self.facts.checkpoint;
        checkpoint.consistency = consistency(checkpoint, self.facts.as_it_is);
        checkpoint.phases = cx.reporter.now().phases;
        let consistency = checkpoint.consistency;
        vm.parent = Some(checkpoint.id);
        vm.heads.extend(self.facts.overlays.iter().map(|(disk, overlay)| (disk.clone(), overlay.file.id)));
        vm.updated = cx.ports().clock.now();
        self.is_enough_for_backup(cx, consistency).await?;
        Ok(vm)
    }

    pub(super) async fn publish(&mut self, cx: &Cx) -> Result<Changes, StepError> {
        let (vm, described) = match self.published.take() {
            Some(vm) => (vm, self.described()),
            None => (self.complete(cx).await?, Vec::new()),
        };
        let layers = self.frozen.iter().fold(Changes::default(), |changes, layer| changes.set_layer(&cx.vm, layer));
        let layers = self.made.iter().fold(layers, |changes, layer| changes.new_layer(&cx.vm, layer));
        let opened = self.opened_backup(cx).await?;
        let published = layers.set_checkpoint(&self.facts.checkpoint).set_vm(&vm).and(opened);
        Ok(published.settle(&cx.vm, &described))
    }

    /// What `Describe` has written down: what is published now is in the files already, and nothing else about the VM has
    /// changed since, which is busy with this. Files of other checkpoints that were owed before still are.
    fn described(&self) -> Vec<Debt> {
        let layers = self.frozen.iter().map(|layer| Debt::Layer(layer.file.id));
        [Debt::Own, Debt::Checkpoint(self.facts.checkpoint.id)].into_iter().chain(layers).collect()
    }
}
