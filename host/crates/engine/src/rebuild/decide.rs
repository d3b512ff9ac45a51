//! Whether a VM can be taken as it is described. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use stillpoint_common::{CheckpointState, DiskName, InstanceId, Layer, LayerId, Vm, VmId};

use crate::{
    describe::VmDescription,
    forest::Forest,
    ports::{FileUser, ImageError, Seen},
    truth::wrongs,
};

/// What was found out about a described VM.
pub(crate) struct Evidence {
    /// The catalogue has a VM of this name.
    pub(crate) known: bool,
    /// What is seen of each layer's file.
    pub(crate) seen: BTreeMap<LayerId, Result<Seen, ImageError>>,
    /// Layers whose files are layers of another VM in the catalogue.
    pub(crate) owned: BTreeMap<LayerId, VmId>,
    /// Files beside the layers that lie on a head and that the description does not know.
    pub(crate) above_heads: BTreeSet<PathBuf>,
    /// Who else has heads open.
    pub(crate) users: Vec<FileUser>,
    /// The described process.
    pub(crate) process: Process,
    /// Files of its memory states that are missing.
    pub(crate) missing_memory: BTreeSet<PathBuf>,
}

/// What is true of the process that a description names.
pub(crate) enum Process {
    /// None is named, or it has ended.
    None,
    /// It lives, and has these layers open, from the head down.
    Lives(InstanceId, BTreeMap<DiskName, Vec<LayerId>>),
    /// It does not answer.
    Silent(String),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Take it, as this record, with these notes.
    Take(Box<Vm>, Vec<String>),
    /// Leave it.
    Leave(String),
}

/// Decides.
pub(crate) fn judge(described: &VmDescription, evidence: &Evidence) -> Verdict {
    let forest = Forest::new(described.layers.iter().cloned());
    let against = known(described, evidence)
        .or_else(|| contradiction(described, &forest))
        .or_else(|| owned(described, evidence))
        .or_else(|| above_heads(evidence))
        .or_else(|| process(described, &forest, evidence))
        .or_else(|| used(evidence));
    if let Some(why) = against {
        return Verdict::Leave(why);
    }
    let instance = match &evidence.process {
        Process::Lives(instance, _) => Some(*instance),
        Process::None | Process::Silent(_) => None,
    };
    let vm = Vm { instance, ..described.vm.clone() };
    Verdict::Take(Box::new(vm), notes(described, &forest, evidence))
}

fn known(described: &VmDescription, evidence: &Evidence) -> Option<String> {
    let id = &described.vm.id;
    evidence.known.then(|| format!("VM {id} is in the catalogue already and was not touched"))
}

/// What the description itself says cannot be.
fn contradiction(described: &VmDescription, forest: &Forest) -> Option<String> {
    if let Err(wrong) = described.vm.definition.check() {
        return Some(format!("its definition is wrong: {} {}", wrong.field, wrong.problem));
    }
    let heads = &described.vm.heads;
    let lacking = described.vm.definition.layered().find(|disk| !heads.contains_key(&disk.name));
    if let Some(disk) = lacking {
        return Some(format!("it does not say which layer disk {} writes to", disk.name));
    }
    let of_checkpoints = described.checkpoints.iter().flat_map(|checkpoint| &checkpoint.disks);
    let detached = described.vm.detached.iter().map(|detached| (&detached.disk.name, &detached.head));
    let broken = heads.iter().chain(detached).chain(of_checkpoints).find(|(_, layer)| forest.chain(**layer).is_none());
    if let Some((disk, layer)) = broken {
        return Some(format!("it does not have all layers below layer {layer} of disk {disk}"));
    }
    let ready = described.checkpoints.iter().filter(|checkpoint| checkpoint.state != CheckpointState::Deleting);
    let held = ready
        .flat_map(|checkpoint| checkpoint.disks.values())
        .find(|layer| described.vm.own_layers().any(|own| own == **layer));
    held.map(|layer| format!("layer {layer} is said to be a checkpoint's and written to as well"))
}

fn owned(described: &VmDescription, evidence: &Evidence) -> Option<String> {
    let (layer, owner) = evidence.owned.iter().next()?;
    let layer = described.layers.iter().find(|known| known.file.id == *layer)?;
    Some(format!("{} is a layer of VM {owner}", layer.file.path.display()))
}

fn above_heads(evidence: &Evidence) -> Option<String> {
    let file = evidence.above_heads.first()?.display();
    Some(format!(
        "{file} lies on what the VM writes to, and the description does not know it: writing below would destroy it. \
         If it holds what the guest wrote last, commit it with `qemu-img commit`; if not, move it away"
    ))
}

/// A process that lives must have open what is described.
fn process(described: &VmDescription, forest: &Forest, evidence: &Evidence) -> Option<String> {
    match &evidence.process {
        Process::None => None,
        Process::Silent(why) => Some(format!("its process does not answer ({why}): end it, or try again")),
        Process::Lives(instance, chains) => {
            let differs = described.vm.heads.iter().find(|(disk, head)| {
                let mut chain = forest.chain(**head).unwrap_or_default();
                chain.reverse();
                let described: Vec<LayerId> = chain.iter().map(|layer| layer.file.id).collect();
                chains.get(*disk) != Some(&described)
            })?;
            Some(format!(
                "its process {instance} has other layers of disk {} open than the description says: shut the guest \
                 down, then rebuild again",
                differs.0
            ))
        }
    }
}

fn used(evidence: &Evidence) -> Option<String> {
    let user = evidence.users.first()?;
    Some(format!(
        "{} is open in process {} ({}), which the description does not know: end it, then rebuild again",
        user.path.display(),
        user.pid,
        user.program
    ))
}

/// What is wrong with the files of a VM that can be taken all the same: each act checks them again.
fn notes(described: &VmDescription, forest: &Forest, evidence: &Evidence) -> Vec<String> {
    let of = |layer: &Layer| {
        let seen = evidence.seen.get(&layer.file.id)?;
        let wrong = wrongs(layer, &forest.below(layer), seen.as_ref()).into_iter().next()?;
        Some(format!("{} {}", layer.file.path.display(), wrong.text()))
    };
    let memory = evidence.missing_memory.iter().map(|path| format!("{} does not exist", path.display()));
    described.layers.iter().filter_map(of).chain(memory).collect()
}
