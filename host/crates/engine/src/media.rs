//! Media that a guest cannot write to: taking them into a VM, and what becomes of one whose file has gone.
//!
//! Nothing but a new process looks for the file of a medium: checkpoints, merges, exports and changes go on without it.

use std::{collections::BTreeSet, path::PathBuf};

use stillpoint_common::{Drive, Failure, LeftOut, Medium, MediumFile, Reason, Vm, VmDefinition, VmId};

use crate::{
    context::{Cx, World},
    disks::{is_as_declared, stands_alone},
    error::StepError,
    ports::{ImageError, StartMode},
};

/// Makes sure that each medium which is new to a VM can be read as what it is said to be, and that nobody writes to it. One
/// that was in already is not looked at: its absence must not keep anything else from being changed.
pub(crate) async fn take_media(world: &World, known: &[Medium], definition: &VmDefinition) -> Result<(), Failure> {
    for (index, medium) in definition.media.iter().enumerate() {
        let Some(file) = medium.file.as_ref().filter(|_| !known.contains(medium)) else { continue };
        let field = format!("vm.spec.media[{index}].path");
        take_medium(world, file).await.map_err(|failure| failure.at(field))?;
    }
    Ok(())
}

/// The media whose files are there and cannot be media, by their place in the definition, and why. One whose file is not
/// there may be put in later.
pub(crate) async fn unfit_media(world: &World, definition: &VmDefinition) -> Vec<(usize, Failure)> {
    let mut unfit = Vec::new();
    for (index, medium) in definition.media.iter().enumerate() {
        let Some(file) = &medium.file else { continue };
        match take_medium(world, file).await {
            Err(failure) if failure.reason != Reason::MediumMissing => unfit.push((index, failure)),
            Ok(()) | Err(_) => {}
        }
    }
    unfit
}

async fn take_medium(world: &World, file: &MediumFile) -> Result<(), Failure> {
    let path = file.path.display();
    let facts = match world.ports.images.stat(&file.path, file.format).await {
        Ok(facts) => facts,
        Err(ImageError::Missing { .. }) => {
            return Err(Failure::new(Reason::MediumMissing, format!("{path} does not exist")));
        }
        Err(error) => return Err(StepError::from(error).into()),
    };
    stands_alone(&file.path, &facts)?;
    is_as_declared(&file.path, &facts)?;
    match world.catalogue.owner(facts.identity).await? {
        None => Ok(()),
        Some(owner) => {
            let message = format!("{path} is a disk of VM {owner}, which writes to it; give a copy of it");
            Err(Failure::new(Reason::DiskInUse, message))
        }
    }
}

/// The definition as a new process can have it: where the file of a medium has gone, a fresh start is refused. One that
/// goes on from a memory state has an empty drive instead, as if somebody had taken the medium out; this is said.
pub(crate) async fn at_hand(cx: &Cx, vm: &Vm, mode: StartMode) -> Result<VmDefinition, StepError> {
    let paths: Vec<PathBuf> = vm.definition.media.iter().filter_map(Medium::path).cloned().collect();
    if paths.is_empty() {
        return Ok(vm.definition.clone());
    }
    let missing = cx.ports().images.missing(&paths).await?;
    let (definition, emptied) = without(&vm.id, &vm.definition, &missing, mode)?;
    emptied.into_iter().for_each(|warning| cx.reporter.warn(warning));
    Ok(definition)
}

/// The definition without media whose files are missing, and what to say of each.
fn without(
    vm: &VmId,
    definition: &VmDefinition,
    missing: &BTreeSet<PathBuf>,
    mode: StartMode,
) -> Result<(VmDefinition, Vec<String>), Failure> {
    let (mut fitting, mut said) = (definition.clone(), Vec::new());
    for medium in &mut fitting.media {
        let Some(path) = medium.path().filter(|path| missing.contains(*path)) else { continue };
        let (name, path) = (&medium.name, path.display());
        match (mode, medium.drive) {
            (StartMode::Restore, Drive::Cdrom) => {
                said.push(format!("medium {name} is not in its drive: {path} does not exist"));
                medium.file = None;
            }
            (StartMode::Fresh, Drive::Cdrom | Drive::Disk) | (StartMode::Restore, Drive::Disk) => {
                let message = format!("the medium {name} of VM {vm} is missing: {path} does not exist");
                return Err(Failure::new(Reason::MediumMissing, message));
            }
        }
    }
    Ok((fitting, said))
}

/// What a checkpoint says of the media that are in: nothing of them is lost with an apply.
pub(crate) fn left_out(definition: &VmDefinition) -> impl Iterator<Item = LeftOut> {
    let left_out = |medium: &Medium| {
        let path = medium.path()?.display();
        let why = format!("{path} is a read-only medium: the guest cannot write to it, and an apply puts it in again");
        Some(LeftOut { disk: medium.name.clone(), why })
    };
    definition.media.iter().filter_map(left_out)
}
