//! Checkpoints whose files are missing can be deleted, and nothing else.

use stillpoint_common::{Checkpoint, Failure, Reason, Vm};

use super::VmActor;
use crate::{Request, tree::shown, truth::missing_files};

impl VmActor {
    /// Refuses what would read a checkpoint of which a file is missing.
    pub(super) async fn refuse_missing(
        &self,
        vm: &Vm,
        checkpoints: &[Checkpoint],
        request: &Request,
    ) -> Result<(), Failure> {
        let Some(id) = request.reads().or_else(|| shown(checkpoints, vm.parent).filter(|_| request.reverts())) else {
            return Ok(());
        };
        let forest = self.world.catalogue.forest(&self.vm).await?;
        let Some(checkpoint) = checkpoints.iter().find(|checkpoint| checkpoint.id == id) else { return Ok(()) };
        let missing = missing_files(&self.world, &forest, std::slice::from_ref(checkpoint)).await?;
        let Some(path) = missing.get(&id).and_then(|missing| missing.first()) else { return Ok(()) };
        let name = checkpoint.name.as_str();
        let message = format!("checkpoint {name:?} ({id}) is MISSING: {} does not exist", path.display());
        Err(Failure::new(Reason::CheckpointMissing, message))
    }
}
