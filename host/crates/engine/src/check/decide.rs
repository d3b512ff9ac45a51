//! From what was seen to what is wrong. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use stillpoint_common::{
    Checkpoint, CheckpointId, CheckpointState, DiskName, Finding, FindingKind, Layer, LayerId, Vm,
};

use crate::{
    forest::Forest,
    ports::{FileUser, ImageError, Seen},
    truth::{Wrong, wrongs},
};

/// Who reads through a layer: the checkpoints that can be used otherwise, and whether Now does.
pub(crate) fn users_of(
    layer: LayerId,
    vm: &Vm,
    checkpoints: &[Checkpoint],
    forest: &Forest,
) -> (Vec<CheckpointId>, bool) {
    let reads = |heads: &BTreeMap<DiskName, LayerId>| {
        let chains = heads.values().filter_map(|head| forest.chain(*head));
        chains.flatten().any(|below| below.file.id == layer)
    };
    let ready = checkpoints.iter().filter(|checkpoint| checkpoint.state != CheckpointState::Deleting);
    (ready.filter(|checkpoint| reads(&checkpoint.disks)).map(|checkpoint| checkpoint.id).collect(), reads(&vm.heads))
}

/// What is wrong with the files of a VM's layers.
pub(crate) fn layer_findings(
    vm: &Vm,
    checkpoints: &[Checkpoint],
    forest: &Forest,
    seen: &BTreeMap<LayerId, Result<Seen, ImageError>>,
) -> Vec<Finding> {
    let of = |layer: &Layer| {
        let seen = seen.get(&layer.file.id).map(Result::as_ref);
        let wrong = seen.map(|seen| wrongs(layer, &forest.below(layer), seen)).unwrap_or_default();
        let (checkpoints, now) = users_of(layer.file.id, vm, checkpoints, forest);
        let finding = |wrong: &Wrong| Finding {
            kind: kind(wrong, layer, forest),
            vm: Some(vm.id.clone()),
            path: Some(layer.file.path.clone()),
            message: format!("{} (disk {}) {}", layer.file.path.display(), layer.disk, wrong.text()),
            checkpoints: checkpoints.clone(),
            now,
        };
        wrong.iter().map(finding).collect::<Vec<_>>()
    };
    forest.iter().flat_map(of).collect()
}

fn kind(wrong: &Wrong, layer: &Layer, forest: &Forest) -> FindingKind {
    match wrong {
        Wrong::Missing => FindingKind::LayerMissing,
        Wrong::Replaced => FindingKind::LayerReplaced,
        Wrong::Rewritten => FindingKind::LayerRewritten,
        Wrong::NamesItself => FindingKind::BackingIsItself,
        Wrong::NamesOther { named, .. } if lies_above(named.as_deref(), layer, forest) => FindingKind::BackingCycle,
        Wrong::NamesOther { .. } => FindingKind::BackingDiffers,
        Wrong::Unreadable(_) => FindingKind::LayerUnreadable,
    }
}

/// Whether this file is a layer that itself lies on `layer`.
fn lies_above(named: Option<&Path>, layer: &Layer, forest: &Forest) -> bool {
    let named = forest.iter().find(|other| Some(other.file.path.as_path()) == named);
    named.is_some_and(|named| forest.below(named).iter().any(|below| below.file.id == layer.file.id))
}

/// Processes that have no business with these files.
pub(super) fn user_findings(vm: &Vm, users: &[FileUser], ours: Option<u32>) -> Vec<Finding> {
    let foreign = users.iter().filter(|user| Some(user.pid) != ours);
    let finding = |user: &FileUser| {
        let does = if user.writes { "can write to" } else { "holds a lock on" };
        let message = format!("process {} ({}) {does} {}", user.pid, user.program, user.path.display());
        about(vm, FindingKind::ForeignUser, &user.path, message)
    };
    foreign.map(finding).collect()
}

/// Images beside the layers that lie on one of them and that nobody knows.
pub(super) fn unknown_layers(
    vm: &Vm,
    forest: &Forest,
    beside: &[(PathBuf, Seen)],
    known: &BTreeSet<PathBuf>,
) -> Vec<Finding> {
    let layers: BTreeSet<&PathBuf> = forest.iter().map(|layer| &layer.file.path).collect();
    let lies_on_one = |seen: &Seen| seen.backing.as_ref().is_some_and(|backing| layers.contains(backing));
    let unknown = beside.iter().filter(|(path, seen)| !known.contains(path) && lies_on_one(seen));
    let finding = |(path, seen): &(PathBuf, Seen)| {
        let backing = seen.backing.as_deref().unwrap_or(Path::new("")).display();
        let message = format!("{} lies on {backing}, and the catalogue does not know it", path.display());
        about(vm, FindingKind::UnknownLayer, path, message)
    };
    unknown.map(finding).collect()
}

/// Files in the checkpoint location that are called as ours are, and that nobody knows.
pub(super) fn unknown_files(vm: &Vm, names: &[String], known: &BTreeSet<String>) -> Vec<Finding> {
    const OURS: [&str; 6] = [".memory", ".memory.part", ".checkpoint.json", ".vm.json", ".json.new", ".memory.new"];
    let ours = names.iter().filter(|name| OURS.iter().any(|ending| name.ends_with(ending)));
    let finding = |name: &String| {
        let path = vm.checkpoint_location.join(name);
        let message = format!("{} belongs to no VM and no checkpoint that the catalogue knows", path.display());
        about(vm, FindingKind::UnknownFile, &path, message)
    };
    ours.filter(|name| !known.contains(*name)).map(finding).collect()
}

/// A finding that keeps nobody from anything.
pub(super) fn about(vm: &Vm, kind: FindingKind, path: &Path, message: String) -> Finding {
    let (path, vm) = (Some(path.to_owned()), Some(vm.id.clone()));
    Finding { kind, vm, path, message, checkpoints: Vec::new(), now: false }
}
