//! A memory state that is whole, open to be read at any page.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::{Path, PathBuf},
};

use stillpoint_common::MemoryId;

use super::{
    CHUNK_PAGES, Digest, Location, Manifest, ManifestFile, PackFile, PackUse, PageIndex, StateError, pack_path,
};
use crate::stream::{Block, Content, Devices, Prologue, StreamWriter};

/// Pages between two ends of a part: what is written at once.
const PART: u64 = 256;

/// The block of RAM that holds the variables of the firmware.
const VARIABLES: &str = "system.flash1";

/// A memory state of ours. Everything that is read is checked.
#[derive(Debug)]
pub struct SavedMemory {
    file: ManifestFile,
    folder: PathBuf,
    prologue: Prologue,
    indexes: Vec<PageIndex>,
    packs: Vec<Option<PackFile>>,
}

/// What a check has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Pages that are not all zeros.
    pub pages: u64,
    /// Bytes of the devices.
    pub devices: u64,
}

impl SavedMemory {
    /// Opens the state whose manifest this is. `Ok(None)` if it is a plain stream of QEMU.
    ///
    /// # Errors
    /// If it is missing, damaged or too new. Damage of pages shows when they are read.
    pub fn open(path: &Path) -> Result<Option<Self>, StateError> {
        let Some(file) = ManifestFile::open(path)? else { return Ok(None) };
        let prologue = file.prologue()?;
        let sizes = file.manifest.blocks.iter().map(|block| (&block.name, block.bytes));
        if !sizes.eq(prologue.blocks.iter().map(|block| (&block.name, block.bytes))) {
            return Err(file.damaged("its blocks are not those of its prologue"));
        }
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        let (indexes, packs) = (file.indexes()?, file.manifest.packs.iter().map(|_| None).collect());
        Ok(Some(Self { folder, prologue, indexes, packs, file }))
    }

    /// What it says of itself.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.file.manifest
    }

    /// The beginning of its stream.
    #[must_use]
    pub const fn prologue(&self) -> &Prologue {
        &self.prologue
    }

    /// The end of its stream.
    ///
    /// # Errors
    /// If they are damaged.
    pub fn devices(&self) -> Result<Devices, StateError> {
        self.file.devices()
    }

    /// The content of a page. A page that there is not is one of zeros.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn page(&mut self, block: usize, page: u64) -> Result<Content<'_>, StateError> {
        match self.location(block, page)?.place() {
            None => Ok(Content::Zero),
            Some((pack, page)) => self.pack(usize::from(pack))?.page(page).map(Content::Data),
        }
    }

    pub(crate) fn location(&mut self, block: usize, page: u64) -> Result<Location, StateError> {
        let location = self.indexes.get_mut(block).map_or(Ok(Location::ZERO_PAGE), |index| index.get(page));
        location.map_err(|_| self.file.damaged("an index cannot be decoded"))
    }

    /// The hash of the page that lies there; `None` for zeros.
    pub(crate) fn digest(&mut self, location: Location) -> Result<Option<Digest>, StateError> {
        match location.place() {
            None => Ok(None),
            Some((pack, page)) => self.pack(usize::from(pack))?.digest(page).map(Some),
        }
    }

    /// Marks the chunks of a pack, which has these numbers here, that pages of this state lie in.
    pub(crate) fn mark_chunks(&mut self, packs: &BTreeSet<usize>, needed: &mut [bool]) -> Result<(), StateError> {
        for (block, pages) in self.sizes() {
            for page in 0..pages {
                let Some((pack, page)) = self.location(block, page)?.place() else { continue };
                if packs.contains(&usize::from(pack)) {
                    let chunk = usize::try_from(page / CHUNK_PAGES as u64).ok();
                    let place = chunk.and_then(|chunk| needed.get_mut(chunk));
                    *place.ok_or_else(|| self.file.damaged("a page lies outside of its pack"))? = true;
                }
            }
        }
        Ok(())
    }

    /// Number and pages of each block.
    fn sizes(&self) -> Vec<(usize, u64)> {
        self.prologue.blocks.iter().map(Block::pages).enumerate().collect()
    }

    /// The checkpoints whose packs it needs: its own, and those that pages of it lie in.
    pub fn packs(&self) -> impl Iterator<Item = MemoryId> {
        let manifest = self.manifest();
        let needed = manifest.packs.iter().filter(|used| used.pages > 0 || used.checkpoint == manifest.checkpoint);
        needed.map(|used| used.checkpoint)
    }

    /// Opens every pack: what is missing is missed at once.
    pub(crate) fn open_packs(&mut self) -> Result<(), StateError> {
        let used = |(number, used): (usize, &PackUse)| (used.pages > 0).then_some(number);
        let used: Vec<usize> = self.manifest().packs.iter().enumerate().filter_map(used).collect();
        used.into_iter().try_for_each(|number| self.pack(number).map(drop))
    }

    /// Opens a pack when it is first needed.
    fn pack(&mut self, number: usize) -> Result<&mut PackFile, StateError> {
        let used = self.file.manifest.packs.get(number);
        let used =
            used.ok_or_else(|| StateError::damaged(self.file.path(), "a page lies in a pack that there is not"))?;
        let place = &mut self.packs[number];
        if place.is_none() {
            *place = Some(open_pack(&self.folder, used)?);
        }
        place.as_mut().ok_or_else(|| StateError::Missing { path: self.folder.clone() })
    }

    /// It has [`VARIABLES`], which must not be loaded.
    #[must_use]
    pub fn has_variables(&self) -> bool {
        self.prologue.blocks.iter().any(|block| block.name == VARIABLES)
    }

    /// Writes it as a plain stream that QEMU loads. `each` is told how many of all pages are written.
    ///
    /// Without the pages of [`VARIABLES`]: QEMU reads them from their image when it starts. That was cut in the instant of
    /// the checkpoint, while a capture in the background sees what the firmware has written there since: write-protection
    /// does not cover flash.
    ///
    /// # Errors
    /// If it is missing or damaged, or if `out` takes no more.
    pub fn write_stream(&mut self, out: &mut impl Write, mut each: impl FnMut(u64)) -> Result<(), WriteError> {
        out.write_all(self.prologue.bytes())?;
        let prologue = self.prologue.clone();
        let (mut writer, mut part, mut done) = (StreamWriter::new(&prologue), Vec::new(), 0);
        for (number, block) in prologue.blocks.iter().enumerate() {
            let mut first = if block.name == VARIABLES { block.pages() } else { 0 };
            while first < block.pages() {
                let last = block.pages().min(first.saturating_add(PART));
                part.clear();
                writer.begin_part(&mut part);
                for page in first..last {
                    writer.page(&mut part, number, page, self.page(number, page)?);
                }
                writer.end_part(&mut part);
                out.write_all(&part)?;
                done += last - first;
                first = last;
                each(done);
            }
        }
        out.write_all(self.devices()?.bytes())?;
        Ok(out.flush()?)
    }

    /// Reads everything, and so checks everything.
    ///
    /// # Errors
    /// The first damage found.
    pub fn check(&mut self) -> Result<Checked, StateError> {
        let mut checked = Checked { pages: 0, devices: self.devices()?.bytes().len() as u64 };
        self.open_packs()?;
        for (number, pages) in self.sizes() {
            for page in 0..pages {
                checked.pages += u64::from(self.page(number, page)? != Content::Zero);
            }
        }
        if checked.pages == self.manifest().pages.kept {
            Ok(checked)
        } else {
            Err(self.file.damaged("pages are missing"))
        }
    }
}

/// Why a state was not written as a stream.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// Who it is written to takes no more.
    #[error("writing the stream")]
    Sink(#[from] io::Error),
}

/// Opens a pack and makes sure that it is the one that the manifest means.
fn open_pack(folder: &Path, used: &PackUse) -> Result<PackFile, StateError> {
    let path = pack_path(folder, used.checkpoint);
    let pack = PackFile::open(&path, used.checkpoint)?;
    let same = blake3::Hash::from_bytes(pack.hash()).to_hex().as_str() == used.blake3;
    if same && pack.chunks() as u64 == used.chunks {
        return Ok(pack);
    }
    Err(StateError::damaged(&path, "its table is not what was written"))
}
