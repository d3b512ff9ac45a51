//! What description files say. Pure.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use stillpoint_common::{Checkpoint, CheckpointId, CheckpointPolicy, Failure, Layer, Reason, Vm, VmId};
use uuid::Uuid;

use crate::forest::Forest;

const FORMAT: u32 = 1;

/// Ending of the description of a VM.
pub(crate) const VM_ENDING: &str = ".vm.json";
/// Ending of the description of a checkpoint.
pub(crate) const CHECKPOINT_ENDING: &str = ".checkpoint.json";

/// The file of a VM.
pub(crate) fn vm_file(vm: &VmId) -> String {
    format!("{vm}{VM_ENDING}")
}

/// The file of a checkpoint.
pub(crate) fn checkpoint_file(id: CheckpointId) -> String {
    format!("{id}{CHECKPOINT_ENDING}")
}

/// A VM with all that the catalogue has of it. Enough to take it up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VmDescription {
    format: u32,
    what: VmWord,
    pub(crate) vm: Vm,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) layers: Vec<Layer>,
}

/// A checkpoint by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckpointDescription {
    format: u32,
    what: CheckpointWord,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) vm: VmFacts,
    /// Of each disk from the user's image up.
    pub(crate) layers: Vec<Layer>,
}

/// What of a VM does not change with every act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VmFacts {
    pub(crate) id: VmId,
    pub(crate) uid: Uuid,
    pub(crate) checkpoint_policy: CheckpointPolicy,
    pub(crate) checkpoint_location: std::path::PathBuf,
    pub(crate) created: jiff::Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum VmWord {
    #[serde(rename = "a VM of Stillpoint, its checkpoints and its layers")]
    Vm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum CheckpointWord {
    #[serde(rename = "a checkpoint of Stillpoint and its layers")]
    Checkpoint,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// A VM as it is to be described.
pub(crate) struct Described<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) checkpoints: &'a [Checkpoint],
    pub(crate) forest: &'a Forest,
}

impl VmDescription {
    /// As if it had been read.
    pub(crate) fn new(vm: Vm, checkpoints: Vec<Checkpoint>, layers: Vec<Layer>) -> Self {
        Self { format: FORMAT, what: VmWord::Vm, vm, checkpoints, layers }
    }
}

impl Described<'_> {
    /// The VM's own file: name and content.
    pub(crate) fn vm_file(&self) -> (String, Vec<u8>) {
        let (vm, checkpoints) = (self.vm.clone(), self.checkpoints.to_vec());
        let layers = self.forest.iter().cloned().collect();
        let description = VmDescription::new(vm, checkpoints, layers);
        (vm_file(&self.vm.id), text(&description))
    }

    /// The file of a checkpoint: name and content.
    pub(crate) fn checkpoint_file(&self, checkpoint: &Checkpoint) -> (String, Vec<u8>) {
        let chains = checkpoint.disks.values().filter_map(|layer| self.forest.chain(*layer));
        let Vm { id, uid, checkpoint_policy, checkpoint_location, created, .. } = self.vm.clone();
        let description = CheckpointDescription {
            format: FORMAT,
            what: CheckpointWord::Checkpoint,
            checkpoint: checkpoint.clone(),
            vm: VmFacts { id, uid, checkpoint_policy, checkpoint_location, created },
            layers: chains.flatten().cloned().collect(),
        };
        (checkpoint_file(checkpoint.id), text(&description))
    }
}

fn text<T: Serialize>(description: &T) -> Vec<u8> {
    // Our own types have string keys only and cannot fail to become JSON.
    let mut text = serde_json::to_vec_pretty(description).unwrap_or_default();
    text.push(b'\n');
    text
}

/// A newer version has written it.
pub(crate) fn is_newer(bytes: &[u8]) -> bool {
    serde_json::from_slice::<FormatOnly>(bytes).is_ok_and(|known| known.format > FORMAT)
}

/// Reads the file of a VM, or of a checkpoint.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let damaged = |why: String| Failure::new(Reason::CatalogueDamaged, why);
    let known: FormatOnly = serde_json::from_slice(bytes).map_err(|e| damaged(format!("it is no description: {e}")))?;
    if known.format > FORMAT {
        return Err(damaged(format!("it has format {}, this version knows {FORMAT}", known.format)));
    }
    serde_json::from_slice(bytes).map_err(|error| damaged(format!("it cannot be read: {error}")))
}
