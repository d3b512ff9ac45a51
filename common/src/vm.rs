//! The record of a VM.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    CheckpointId, CheckpointPolicy, CriticalSettings, DiskDefinition, DiskName, InstanceId, KeyValues, LayerId,
    MemoryId, MemoryState, VmDefinition, VmId, VmSettings,
};

/// A virtual machine as the catalogue knows it. Its active state is called *Now*.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Its name.
    pub id: VmId,
    /// Its identity towards the guest (SMBIOS). Constant.
    pub uid: Uuid,
    /// What it is made of.
    pub definition: VmDefinition,
    /// What a checkpoint of it shall be.
    pub checkpoint_policy: CheckpointPolicy,
    /// An apply that discards Now makes a checkpoint of it first.
    #[serde(default)]
    pub undo_checkpoint: bool,
    /// Where configuration and memory of its checkpoints are kept. Layers lie beside their backing files.
    pub checkpoint_location: PathBuf,
    /// The checkpoint Now is a child of.
    pub parent: Option<CheckpointId>,
    /// The layer that Now writes to, per disk.
    pub heads: BTreeMap<DiskName, LayerId>,
    /// Disks that were taken out of Now while checkpoints lay on them, as they were then.
    #[serde(default)]
    pub detached: Vec<DetachedDisk>,
    /// The process that runs it; `None` while it is off or saved.
    pub instance: Option<InstanceId>,
    /// The boot of the host in which that process was started; empty: not known.
    #[serde(default)]
    pub host_boot: String,
    /// The machine state it will go on from; never together with a process.
    #[serde(default)]
    pub saved: Option<SavedState>,
    /// The memory that its process still takes in, kept until it has all of it.
    #[serde(default)]
    pub held: Option<HeldMemory>,
    /// Folder with the state of Now's TPM; kept while the definition has no TPM, so that one that comes back is the same.
    #[serde(default)]
    pub tpm: Option<PathBuf>,
    /// Changes whenever the guest may see its past again: at every apply. Constant over reboot and pause.
    pub generation_id: Uuid,
    /// What it runs on, since its last start.
    pub accelerator: Option<Accelerator>,
    /// What is done when it stands still because a disk could not be written.
    #[serde(default)]
    pub critical: CriticalSettings,
    /// Whether layers that nothing needs are merged by themselves.
    #[serde(default)]
    pub merges: Merges,
    /// The request id it was defined with, if any: the same request again is the same VM.
    #[serde(default)]
    pub made_by: Option<String>,
    /// What its administrator has set.
    #[serde(default)]
    pub settings: VmSettings,
    /// What its host tells its guest.
    #[serde(default)]
    pub values: KeyValues,
    /// When it was defined.
    pub created: Timestamp,
    /// When its record last changed.
    pub updated: Timestamp,
}

/// A memory state that is kept for a process that takes it in while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeldMemory {
    /// The name that it has for this.
    pub id: MemoryId,
    /// The folder in which it is.
    pub folder: PathBuf,
}

/// Whether layers of a VM are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Merges {
    /// As soon as nothing needs them, when nothing more urgent is at work.
    #[default]
    Enabled,
    /// Not until somebody resumes merging. Deleting goes on: what nothing lies on is removed, the rest waits.
    Suspended,
}

impl Merges {
    /// Whether merges wait.
    #[must_use]
    pub const fn is_suspended(self) -> bool {
        matches!(self, Self::Suspended)
    }
}

/// A disk that was taken out of a VM which has checkpoints of it. Its layers are kept as those of a disk are: put back
/// under its name and path, it reads as it did. An apply gives it up with the rest of Now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachedDisk {
    /// What it was in the VM.
    pub disk: DiskDefinition,
    /// The layer it would write to.
    pub head: LayerId,
}

impl Vm {
    /// The layers that Now needs: those it writes to, and those that detached disks would write to.
    pub fn own_layers(&self) -> impl Iterator<Item = LayerId> {
        self.heads.values().copied().chain(self.detached.iter().map(|detached| detached.head))
    }

    /// The same VM, with another layer in the place of one of its own.
    pub fn replace_layer(&mut self, from: LayerId, to: LayerId) {
        let heads = self.heads.values_mut().chain(self.detached.iter_mut().map(|detached| &mut detached.head));
        heads.filter(|head| **head == from).for_each(|head| *head = to);
    }
}

/// Memory and devices of a VM whose process was ended, to go on from at its next start.
///
/// It belongs to the VM's heads as they are: nothing may write to them while it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedState {
    /// Its name.
    pub id: MemoryId,
    /// The state itself.
    pub memory: MemoryState,
    /// The guest ran (and was not paused): it will run again.
    pub was_running: bool,
    /// When it was saved.
    pub saved: Timestamp,
}

/// What a VM's virtual CPUs run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Accelerator {
    /// The host's hardware.
    Kvm,
    /// Emulation, with the reason why not hardware.
    Tcg(String),
}

/// Whether a VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PowerState {
    /// No process.
    Off,
    /// The guest runs.
    Running,
    /// The guest stands still because somebody asked for it.
    Paused,
    /// The guest stands still because a disk could not be written.
    PausedCritical,
    /// No process; the next start goes on where the guest was.
    Saved,
}
