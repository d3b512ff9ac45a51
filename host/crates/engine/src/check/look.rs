//! Gathering what is true of a VM's files and process.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use stillpoint_common::{
    Checkpoint, CheckpointState, Failure, Finding, FindingKind, LayerId, OperationState, Vm, VmId,
};

use super::decide::{about, layer_findings, unknown_files, unknown_layers, user_findings};
use crate::{
    Request,
    context::World,
    describe::{self, expected},
    error::StepError,
    forest::Forest,
    ports::{MemoryError, RunState},
    truth,
};

/// Everything that is wrong with a VM. `busy`: something is at work on it, so that files come and go.
pub(crate) async fn check_vm(world: &World, id: &VmId, busy: bool) -> Result<Vec<Finding>, Failure> {
    let vm = world.catalogue.vm(id).await?;
    let checkpoints = world.catalogue.checkpoints(id).await?;
    let forest = world.catalogue.forest(id).await?;
    let mut findings = layers(world, &vm, &checkpoints, &forest).await;
    findings.extend(memories(world, &vm, &checkpoints).await);
    findings.extend(process(world, &vm, &forest, busy).await);
    if busy {
        let message = format!("VM {id} is busy: leftovers and descriptions were not looked at");
        findings.push(about(&vm, FindingKind::Busy, &vm.checkpoint_location, message));
        return Ok(findings);
    }
    findings.extend(beside_layers(world, &vm, &forest).await?);
    findings.extend(in_location(world, &vm, &checkpoints).await?);
    findings.extend(pages(world, &vm).await);
    findings.extend(descriptions(world, &vm, &checkpoints, &forest).await?);
    findings.extend(exports(world, &vm).await?);
    Ok(findings)
}

async fn layers(world: &World, vm: &Vm, checkpoints: &[Checkpoint], forest: &Forest) -> Vec<Finding> {
    let seen = truth::see(&world.ports, forest.iter()).await;
    let seen = seen.into_iter().map(|(layer, seen)| (layer.file.id, seen)).collect();
    layer_findings(vm, checkpoints, forest, &seen)
}

async fn memories(world: &World, vm: &Vm, checkpoints: &[Checkpoint]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ready = checkpoints.iter().filter(|checkpoint| checkpoint.state != CheckpointState::Deleting);
    let of_checkpoints = ready.filter_map(|checkpoint| Some((Some(checkpoint.id), checkpoint.memory.as_ref()?)));
    let of_now = vm.saved.iter().map(|saved| (None, &saved.memory));
    for (checkpoint, memory) in of_checkpoints.chain(of_now) {
        let Err(error) = world.ports.memory.open(memory).await else { continue };
        let missing = matches!(&error, MemoryError::Damaged { problem, .. } if problem == "missing");
        let kind = if missing { FindingKind::MemoryMissing } else { FindingKind::MemoryDamaged };
        let message = Failure::from(StepError::from(error)).message;
        let (checkpoints, now) = (checkpoint.into_iter().collect(), checkpoint.is_none());
        findings.push(Finding { checkpoints, now, ..about(vm, kind, &memory.path, message) });
    }
    findings
}

/// The process against the heads, and everybody else who has the files open.
async fn process(world: &World, vm: &Vm, forest: &Forest, busy: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut ours = None;
    if let Some(instance) = vm.instance {
        ours = world.ports.hypervisor.process(instance).await;
        match world.ports.hypervisor.observe(instance).await {
            Ok(observed) if observed.run == RunState::Gone || busy => {}
            Ok(observed) => {
                let differs = |(disk, head): &(&_, &LayerId)| {
                    let chain = forest.chain(**head).unwrap_or_default();
                    let chain: Vec<LayerId> = chain.iter().rev().map(|layer| layer.file.id).collect();
                    observed.chains.get(*disk) != Some(&chain)
                };
                let differing = vm.heads.iter().filter(differs);
                findings.extend(differing.map(|(disk, _)| {
                    let message =
                        format!("the process of {} has other layers of disk {disk} open than the catalogue has", vm.id);
                    Finding {
                        now: true,
                        path: None,
                        ..about(vm, FindingKind::ProcessDiffers, &PathBuf::new(), message)
                    }
                }));
            }
            Err(error) => {
                let message = format!("the process of {} does not answer: {error}", vm.id);
                findings
                    .push(Finding { path: None, ..about(vm, FindingKind::ProcessSilent, &PathBuf::new(), message) });
            }
        }
    }
    let paths: Vec<PathBuf> = forest.iter().map(|layer| layer.file.path.clone()).collect();
    if !busy {
        let users = world.ports.images.users(&paths).await.unwrap_or_default();
        findings.extend(user_findings(vm, &users, ours));
    }
    findings
}

async fn beside_layers(world: &World, vm: &Vm, forest: &Forest) -> Result<Vec<Finding>, Failure> {
    let folders: BTreeSet<PathBuf> =
        forest.iter().filter_map(|layer| layer.file.path.parent().map(PathBuf::from)).collect();
    let mut known: BTreeSet<PathBuf> = forest.iter().map(|layer| layer.file.path.clone()).collect();
    known.extend(world.catalogue.leftovers(&vm.id).await?.into_iter().map(|layer| layer.file.path));
    let mut beside = Vec::new();
    for folder in folders {
        // A folder that is gone is said by its layers.
        for (path, seen) in world.ports.images.beside(&folder).await.unwrap_or_default() {
            if world.catalogue.owner(seen.identity).await?.is_some() {
                known.insert(path.clone());
            }
            beside.push((path, seen));
        }
    }
    Ok(unknown_layers(vm, forest, &beside, &known))
}

async fn in_location(world: &World, vm: &Vm, checkpoints: &[Checkpoint]) -> Result<Vec<Finding>, Failure> {
    let location = &vm.checkpoint_location;
    let names = world.ports.descriptions.names(location).await.map_err(StepError::from)?;
    let findings = unknown_files(vm, &names, &describe::names_of(vm, checkpoints));
    if findings.is_empty() {
        return Ok(findings);
    }
    // Several VMs may share a location. A record that cannot be read is said by itself.
    let mut known = describe::names_of(vm, checkpoints);
    let others = world.catalogue.vms().await.unwrap_or_default();
    for other in others.iter().filter(|other| other.checkpoint_location == *location) {
        known.extend(describe::names_of(other, &world.catalogue.checkpoints(&other.id).await?));
    }
    Ok(unknown_files(vm, &names, &known))
}

/// Pages that no memory state needs. A folder of which this cannot be told is said by its memory states.
async fn pages(world: &World, vm: &Vm) -> Vec<Finding> {
    let unneeded = world.ports.memory.unneeded(&vm.checkpoint_location).await.unwrap_or_default();
    let finding = |path: &PathBuf| {
        let message = format!("{} holds pages that no memory state needs", path.display());
        about(vm, FindingKind::UnknownFile, path, message)
    };
    unneeded.iter().map(finding).collect()
}

async fn descriptions(
    world: &World,
    vm: &Vm,
    checkpoints: &[Checkpoint],
    forest: &Forest,
) -> Result<Vec<Finding>, Failure> {
    let found = world.ports.descriptions.find(&vm.checkpoint_location, ".json").await.unwrap_or_default();
    let found: BTreeMap<PathBuf, Option<Vec<u8>>> =
        found.into_iter().map(|found| (found.path, found.content.ok())).collect();
    let mut findings = Vec::new();
    for (name, content) in expected(vm, checkpoints, forest) {
        let path = vm.checkpoint_location.join(&name);
        let says = match found.get(&path) {
            Some(Some(there)) if *there == content => continue,
            Some(_) => "does not say what the catalogue says",
            None => "does not exist",
        };
        let message = format!("the description {} {says}", path.display());
        findings.push(about(vm, FindingKind::DescriptionDiffers, &path, message));
    }
    Ok(findings)
}

/// Folders of exports that ended without being discarded.
async fn exports(world: &World, vm: &Vm) -> Result<Vec<Finding>, Failure> {
    let mut staged = Vec::new();
    for job in world.catalogue.jobs().await? {
        let ended = job.operation.state != OperationState::Running;
        if let (true, Some(Request::Export { folder, .. })) = (ended && job.operation.vm == vm.id, &job.request) {
            staged.push(world.ports.exports.staging_folder(folder, job.operation.id));
        }
    }
    let missing = world.ports.images.missing(&staged).await.map_err(StepError::from)?;
    let left = staged.iter().filter(|folder| !missing.contains(*folder));
    let finding = |folder: &PathBuf| {
        let message = format!("{} is what was left of an export that failed", folder.display());
        about(vm, FindingKind::UnfinishedExport, folder, message)
    };
    Ok(left.map(finding).collect())
}
