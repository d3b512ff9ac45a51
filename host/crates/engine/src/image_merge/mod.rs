//! Merging image files that belong to no VM.
//!
//! The images are merged one into the next, from the first one down: `child → p1`, then `p1 → p2`, and so on. After each
//! step all images so far read as the child did. So whatever ends it, the child's chain reads the same, beginning again
//! moves the same data to the same places, and an image that is left over can be merged again without harm.

mod decide;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use stillpoint_common::{DiskFormat, Failure, FileIdentity, LayerFile, LayerId, Progress, Reason};

use self::decide::{Image, Neighbour};
use crate::{
    context::World,
    disks::is_whole,
    engine::ImageProgress,
    error::StepError,
    ports::{Moved, OfflineMerge, ProgressSink, Seen, Stop},
    space::{self, Need},
};

/// More layers than any chain that works.
const DEEPEST: usize = 200;

/// What a merge of images will do. Nothing has been changed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageMerge {
    /// From the child down to the image that takes it all.
    layers: Vec<Image>,
    /// What that one lies on, the nearest first.
    below: Vec<LayerFile>,
    /// Bytes that are moved at most.
    pub move_bytes: u64,
    /// Bytes by which the images grow at most, together.
    pub needed_bytes: u64,
}

impl ImageMerge {
    /// The images that are merged, the first one first.
    #[must_use]
    pub fn merged(&self) -> Vec<PathBuf> {
        self.layers.iter().rev().skip(1).rev().map(|image| image.file.path.clone()).collect()
    }

    /// The image that they are merged into.
    #[must_use]
    pub fn target(&self) -> &Path {
        self.layers.last().map_or(Path::new(""), |image| &image.file.path)
    }
}

/// Looks whether the child can be merged into this image, and what that takes.
pub(crate) async fn plan(world: &World, child: &Path, into: &Path) -> Result<ImageMerge, Failure> {
    for (field, path) in [("child", child), ("into", into)] {
        if !path.is_absolute() {
            return Err(Failure::field(
                field,
                format!("must be an absolute path, not {:?}", path.display().to_string()),
            ));
        }
    }
    let chain = chain(world, child).await?;
    let target = look(world, &as_file(into.to_owned(), DiskFormat::Qcow2)).await?.identity;
    let depth = decide::position(&chain, target, into)?;
    let (layers, below) = chain.split_at(depth + 1);
    decide::sizes(layers)?;
    is_nobodys(world, layers).await?;
    is_unused(world, layers).await?;
    decide::alone(layers, &neighbours(world, layers).await?)?;
    let (move_bytes, needs) = needs(world, layers).await?;
    let needed_bytes = needs.iter().map(|need| need.bytes).fold(0, u64::saturating_add);
    let mut known = Vec::with_capacity(needs.len());
    for need in needs {
        let space = world.ports.images.space(&need.path).await.map_err(StepError::from)?;
        known.push((need, space));
    }
    space::room_for(&known, 0)?;
    let below = below.iter().map(|image| image.file.clone()).collect();
    Ok(ImageMerge { layers: layers.to_vec(), below, move_bytes, needed_bytes })
}

/// Does what was planned, as long as the files are what they were.
pub(crate) async fn merge(
    world: &World,
    plan: &ImageMerge,
    stop: &Stop,
    progress: &ImageProgress,
) -> Result<Moved, Failure> {
    for at in 0..plan.layers.len() - 1 {
        let (child, parent) = (&plan.layers[at], &plan.layers[at + 1]);
        for image in [child, parent] {
            is_the_same(world, image).await?;
        }
        is_unused(world, &plan.layers[at..=at + 1]).await?;
        progress(&child.file.path, Progress::default());
        let (progress, path) = (progress.clone(), child.file.path.clone());
        let sink: ProgressSink = Arc::new(move |moved| progress(&path, moved));
        let deeper = plan.layers[at + 2..].iter().map(|image| image.file.clone());
        let below = deeper.chain(plan.below.iter().cloned()).collect();
        let step = OfflineMerge { child: child.file.clone(), parent: parent.file.clone(), below };
        let moved = world.ports.images.merge_offline(&step, stop, &sink).await;
        if moved.map_err(StepError::from)? == Moved::Stopped {
            return Ok(Moved::Stopped);
        }
    }
    Ok(Moved::Whole)
}

/// Removes the images that were merged, the first one first: what lies on another goes before it.
pub(crate) async fn remove(world: &World, plan: &ImageMerge) -> Result<(), Failure> {
    for image in &plan.layers[..plan.layers.len() - 1] {
        world.ports.images.remove(&image.file.path, image.identity).await.map_err(StepError::from)?;
    }
    Ok(())
}

fn as_file(path: PathBuf, format: DiskFormat) -> LayerFile {
    LayerFile { id: LayerId::generate(), path, format }
}

async fn look(world: &World, file: &LayerFile) -> Result<Seen, Failure> {
    Ok(world.ports.images.look(file).await.map_err(StepError::from)?)
}

/// The images from this one down, by what their heads say. None is opened by a name that is not written there.
async fn chain(world: &World, child: &Path) -> Result<Vec<Image>, Failure> {
    let (mut found, mut met) = (Vec::new(), BTreeSet::new());
    let mut file = as_file(child.to_owned(), DiskFormat::Qcow2);
    loop {
        let seen = look(world, &file).await?;
        let facts = world.ports.images.stat(&file.path, file.format).await.map_err(StepError::from)?;
        is_whole(&file.path, &facts)?;
        let shown = file.path.display().to_string();
        if !met.insert((seen.identity.device, seen.identity.inode)) || found.len() == DEEPEST {
            let message = format!("{shown} lies on itself, or on too many images");
            return Err(Failure::new(Reason::DiskFileUnusable, message));
        }
        let (identity, size) = (seen.identity, facts.virtual_size);
        found.push(Image { file, identity, size });
        let Some(backing) = seen.backing else { return Ok(found) };
        let unsaid = || {
            let message = format!(
                "{shown} does not say which format its backing file has; write it down with `qemu-img rebase -u -F \
                 FORMAT -b {} {shown}`",
                backing.display()
            );
            Failure::new(Reason::DiskFileUnusable, message)
        };
        file = as_file(backing.clone(), seen.backing_format.ok_or_else(unsaid)?);
    }
}

async fn is_nobodys(world: &World, layers: &[Image]) -> Result<(), Failure> {
    for image in layers {
        if let Some(vm) = world.catalogue.owner(image.identity).await? {
            let message = format!("{} is an image of VM {vm}", image.file.path.display());
            return Err(Failure::new(Reason::ImageOfVm, message));
        }
    }
    Ok(())
}

async fn is_unused(world: &World, layers: &[Image]) -> Result<(), Failure> {
    let paths: Vec<PathBuf> = layers.iter().map(|image| image.file.path.clone()).collect();
    match world.ports.images.users(&paths).await.map_err(StepError::from)?.first() {
        None => Ok(()),
        Some(user) => {
            let message = format!("{} is in use by {} (pid {})", user.path.display(), user.program, user.pid);
            Err(Failure::new(Reason::ImageInUse, message))
        }
    }
}

async fn is_the_same(world: &World, image: &Image) -> Result<(), Failure> {
    let seen = look(world, &image.file).await?;
    if seen.identity == image.identity {
        return Ok(());
    }
    let message = format!("{} is not the file it was when the merge began", image.file.path.display());
    Err(Failure::new(Reason::DiskChanged, message))
}

/// Images in the folders of these, and the file that each lies on.
async fn neighbours(world: &World, layers: &[Image]) -> Result<Vec<Neighbour>, Failure> {
    let folders: BTreeSet<&Path> = layers.iter().filter_map(|image| image.file.path.parent()).collect();
    let mut found = Vec::new();
    for folder in folders {
        for (path, seen) in world.ports.images.beside(folder).await.map_err(StepError::from)? {
            let Some(backing) = seen.backing else { continue };
            // What lies on a file that is not there lies on none of ours.
            let on: Option<FileIdentity> =
                look(world, &as_file(backing, DiskFormat::Raw)).await.ok().map(|seen| seen.identity);
            found.extend(on.map(|on| Neighbour { path, identity: seen.identity, on }));
        }
    }
    Ok(found)
}

/// Bytes that are moved, and what each image that takes data grows by: at most what those above it have and it has not.
async fn needs(world: &World, layers: &[Image]) -> Result<(u64, Vec<Need>), Failure> {
    let mut taken = Vec::with_capacity(layers.len());
    for image in layers {
        taken.push(look(world, &image.file).await?.allocated);
    }
    let (mut moves, mut needs) = (0_u64, Vec::new());
    for (at, parent) in layers.iter().enumerate().skip(1) {
        let mut grows = 0_u64;
        for (child, takes) in layers[..at].iter().zip(&taken) {
            let more = world.ports.images.merge_growth(&child.file, &parent.file).await.map_err(StepError::from)?;
            grows = grows.saturating_add(more);
            moves = moves.saturating_add(*takes);
        }
        needs.push(Need::new(
            format!("what is merged into {}", parent.file.path.display()),
            parent.file.path.clone(),
            grows,
        ));
    }
    Ok((moves, needs))
}
