//! The record of a VM that nobody has said more about.

use std::collections::BTreeMap;

use stillpoint_common::{CheckpointPolicy, CriticalSettings, KeyValues, Merges, Vm, VmDefinition, VmId, VmSettings};
use uuid::Uuid;

use crate::context::World;

/// A VM that is off, without layers, with the settings of one that is defined without any, and identities of its own.
pub(crate) fn new_vm(world: &World, id: VmId, definition: VmDefinition) -> Vm {
    let now = world.ports.clock.now();
    Vm {
        uid: Uuid::new_v4(),
        definition,
        checkpoint_policy: CheckpointPolicy::default(),
        undo_checkpoint: false,
        checkpoint_location: world.config.checkpoints_folder.join(id.as_str()),
        parent: None,
        heads: BTreeMap::new(),
        detached: Vec::new(),
        instance: None,
        host_boot: String::new(),
        saved: None,
        held: None,
        tpm: None,
        generation_id: Uuid::new_v4(),
        accelerator: None,
        critical: CriticalSettings::default(),
        merges: Merges::default(),
        made_by: None,
        settings: VmSettings::default(),
        values: KeyValues::default(),
        created: now,
        updated: now,
        id,
    }
}
