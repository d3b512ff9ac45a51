//! What is true of an export and of the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use stillpoint_common::{Boot, Failure, Medium, NicBackend, VmDefinition, VmId};
use uuid::Uuid;

use super::{ImportRequest, ImportedDisk, Inspection, decide::decide, propose::propose};
use crate::{
    context::World,
    disks::{is_as_declared, stands_alone},
    error::StepError,
    manifest::Manifest,
    media::unfit_media,
    ports::{Depth, FileDamage, ProgressSink},
};

/// What an import is compared with.
#[derive(Debug, Default)]
pub(super) struct HostFacts {
    /// There is a VM of the name.
    pub(super) vm_exists: bool,
    /// Who is which machine towards its guest.
    pub(super) machines: BTreeMap<Uuid, VmId>,
    /// Who has which hardware address.
    pub(super) addresses: BTreeMap<String, VmId>,
    /// Files of the export that are not as long as they were.
    pub(super) damaged: Vec<FileDamage>,
    /// Images of the export that cannot be disks, and why.
    pub(super) unusable: Vec<Failure>,
    /// Images of the export that are disks of a VM.
    pub(super) owned: Vec<(PathBuf, VmId)>,
    /// Media of the definition that are there and cannot be media, by their place in it, and why.
    pub(super) unfit_media: Vec<(usize, Failure)>,
    /// Paths that were looked for and are not there.
    pub(super) missing: BTreeSet<PathBuf>,
}

/// What making a VM of an export would be. Changes nothing, and reads no more of the disks than their heads.
pub(crate) async fn inspect(world: &World, vm: &VmId, asked: &ImportRequest) -> Result<Inspection, Failure> {
    let content = world.ports.sources.manifest(&asked.folder).await.map_err(StepError::from)?;
    let manifest = Manifest::read(content).map_err(|failure| failure.at("folder"))?;
    let proposal = propose(&manifest, asked, vm)?;
    let facts = look(world, vm, asked, &manifest, &proposal.definition, &proposal.disks).await?;
    let (found, warnings) = decide(&manifest, asked, vm, &proposal.definition, &facts);
    let incompatibilities = proposal.incompatibilities.into_iter().chain(found).collect();
    Ok(Inspection { manifest, definition: proposal.definition, incompatibilities, warnings, disks: proposal.disks })
}

async fn look(
    world: &World,
    vm: &VmId,
    asked: &ImportRequest,
    manifest: &Manifest,
    definition: &VmDefinition,
    disks: &[ImportedDisk],
) -> Result<HostFacts, Failure> {
    let untold: ProgressSink = Arc::new(|_| ());
    let compare = world.ports.sources.compare(&asked.folder, &manifest.files, Depth::Sizes, &untold);
    let damaged = compare.await.map_err(StepError::from)?;
    let mut facts = HostFacts { damaged, ..HostFacts::default() };
    for other in world.catalogue.vms().await? {
        facts.vm_exists |= other.id == *vm;
        facts.machines.insert(other.uid, other.id.clone());
        let addresses = other.definition.nics.iter().filter_map(|nic| nic.mac.as_ref());
        facts.addresses.extend(addresses.map(|mac| (mac.to_lowercase(), other.id.clone())));
    }
    let whole: Vec<_> = disks.iter().filter(|disk| !is_damaged(&facts.damaged, &disk.from)).collect();
    for disk in whole {
        look_at_image(world, disk, &mut facts).await?;
    }
    facts.unfit_media = unfit_media(world, definition).await;
    let mut paths = host_paths(definition);
    paths.extend(interfaces(definition));
    paths.extend(
        asked.target.iter().flat_map(|target| [Some(target.as_path()), target.parent()]).flatten().map(Path::to_owned),
    );
    facts.missing = world.ports.images.missing(&paths).await.map_err(StepError::from)?;
    Ok(facts)
}

fn is_damaged(damaged: &[FileDamage], path: &Path) -> bool {
    damaged.iter().any(|damage| path.file_name().is_some_and(|name| name == damage.path.as_str()))
}

/// The head of an image that somebody else has made: it must need no other file, and be what it is said to be.
async fn look_at_image(world: &World, disk: &ImportedDisk, facts: &mut HostFacts) -> Result<(), Failure> {
    let image = match world.ports.images.stat(&disk.from, disk.from_format).await {
        Ok(image) => image,
        Err(error) => {
            facts.unusable.push(StepError::from(error).into());
            return Ok(());
        }
    };
    let fit = stands_alone(&disk.from, &image).and_then(|()| is_as_declared(&disk.from, &image));
    facts.unusable.extend(fit.err());
    let owner = world.catalogue.owner(image.identity).await?;
    facts.owned.extend(owner.map(|owner| (disk.from.clone(), owner)));
    Ok(())
}

/// What a definition takes from the host beside its disks, as far as it has to be there.
pub(super) fn host_paths(definition: &VmDefinition) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = definition.pass_through.iter().map(|disk| disk.device.clone()).collect();
    if let Boot::Kernel { kernel, initrd, .. } = &definition.boot {
        paths.extend([Some(kernel), initrd.as_ref()].into_iter().flatten().cloned());
    }
    paths.extend(definition.media.iter().filter_map(Medium::path).cloned());
    paths
}

/// The network interfaces that it is connected to, as the kernel shows them.
fn interfaces(definition: &VmDefinition) -> impl Iterator<Item = PathBuf> {
    definition.nics.iter().filter_map(|nic| match &nic.backend {
        NicBackend::User => None,
        NicBackend::Tap { interface } => Some(interface_path(interface)),
    })
}

pub(super) fn interface_path(interface: &str) -> PathBuf {
    Path::new("/sys/class/net").join(interface)
}
