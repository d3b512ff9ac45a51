//! Decides for each page where it lies: nowhere, where an equal one lies, or in the new pack.

use stillpoint_common::MemoryId;

use super::batch::Batch;
use crate::{
    state::{
        CHUNK_PAGES, Digest, Known, Location, MAX_PACKS, OpenChunk, PackNumber, PackUse, PageCounts, PageIndex,
        SavedMemory, StateError,
    },
    stream::{Block, PAGE, Prologue},
};

/// The state that lies below, and all its pages.
pub(super) struct Base {
    saved: SavedMemory,
    /// The packs that its pages lie in. With us they come after the new one.
    packs: Vec<PackUse>,
    /// For each pack of its manifest, the number that it has with us.
    numbers: Vec<Option<PackNumber>>,
    known: Known,
}

/// What is known so far. Batches must come in order.
pub(super) struct Sorter {
    indexes: Vec<PageIndex>,
    known: Known,
    /// With each of our blocks' number in it.
    base: Option<(Base, Vec<Option<usize>>)>,
    open: OpenChunk,
    /// Pages in the new pack.
    stored: u64,
    packs: Vec<PackUse>,
}

/// A full chunk and its number in the new pack.
pub(super) type Full = (usize, OpenChunk);

impl Base {
    /// Learns where the pages lie, so that one which has moved is found, too. One that cannot be read will be stored
    /// again. `None` if there are too many packs: then everything will be.
    pub(super) fn new(saved: SavedMemory) -> Option<Self> {
        let (mut packs, mut numbers) = (Vec::new(), Vec::new());
        for used in &saved.manifest().packs {
            if used.pages == 0 {
                numbers.push(None);
                continue;
            }
            packs.push(PackUse { pages: 0, ..used.clone() });
            numbers.push(PackNumber::try_from(packs.len()).ok());
        }
        if packs.len() >= MAX_PACKS {
            return None;
        }
        let blocks: Vec<u64> = saved.prologue().blocks.iter().map(Block::pages).collect();
        let mut base = Self { known: Known::new(blocks.iter().sum()), saved, packs, numbers };
        for (block, pages) in blocks.into_iter().enumerate() {
            for page in 0..pages {
                if let Some((digest, location)) = base.at(block, page) {
                    base.known.insert(digest, location);
                }
            }
        }
        Some(base)
    }

    /// Hash and, for us, location of the page at this place of the base; `None` if it is of zeros or cannot be had.
    fn at(&mut self, block: usize, page: u64) -> Option<(Digest, Location)> {
        let location = self.saved.location(block, page).ok()?;
        let (pack, number) = location.place()?;
        let ours = self.numbers.get(usize::from(pack)).copied().flatten()?;
        let digest = self.saved.digest(location).ok().flatten()?;
        Some((digest, Location::new(ours, number)))
    }
}

impl Sorter {
    pub(super) fn new(prologue: &Prologue, checkpoint: MemoryId, base: Option<Base>) -> Self {
        let mut packs = vec![PackUse { checkpoint, chunks: 0, pages: 0, blake3: String::new() }];
        let indexes = prologue.blocks.iter().map(|block| PageIndex::new(block.pages())).collect();
        let mut known = None;
        let base = base.map(|mut base| {
            packs.append(&mut base.packs);
            known = Some(std::mem::take(&mut base.known));
            let theirs = &base.saved.prologue().blocks;
            let named = |block: &Block| theirs.iter().position(|other| other.name == block.name);
            let blocks = prologue.blocks.iter().map(named).collect();
            (base, blocks)
        });
        let known = known.unwrap_or_else(|| Known::new(prologue.blocks.iter().map(Block::pages).sum()));
        Self { indexes, known, base, open: OpenChunk::default(), stored: 0, packs }
    }

    /// Sorts the pages of a batch, whose hashes these are; answers the chunks that have become full.
    pub(super) fn sort(&mut self, batch: &Batch, digests: &[Digest]) -> Result<Vec<Full>, StateError> {
        let (mut full, mut contents) = (Vec::new(), batch.data.chunks(PAGE).zip(digests));
        for &(block, page, has_content) in &batch.pages {
            let content = if has_content { contents.next() } else { None };
            let location = match content {
                None => Location::ZERO_PAGE,
                Some((bytes, digest)) => match self.find(block, page, digest) {
                    Some(location) => location,
                    None => self.store(*digest, bytes, &mut full),
                },
            };
            let index = self.indexes.get_mut(block);
            // Our own segments can be decoded: we have encoded them.
            let set = index.map_or(Ok(()), |index| index.set(page, location));
            set.map_err(|_| StateError::damaged("the index in memory".as_ref(), "it cannot be decoded"))?;
        }
        Ok(full)
    }

    /// What is known may have been forgotten; what lay in the same place never is.
    fn find(&mut self, block: usize, page: u64, digest: &Digest) -> Option<Location> {
        if let Some(found) = self.known.get(digest) {
            return Some(found);
        }
        let (base, blocks) = self.base.as_mut()?;
        let theirs = blocks.get(block).copied().flatten()?;
        base.at(theirs, page).filter(|(known, _)| known == digest).map(|(_, location)| location)
    }

    fn store(&mut self, digest: Digest, bytes: &[u8], full: &mut Vec<Full>) -> Location {
        let location = Location::new(0, self.stored);
        self.stored += 1;
        self.known.insert(digest, location);
        self.open.push(digest, bytes);
        if self.open.is_full() {
            full.extend(self.take_open());
        }
        location
    }

    /// The chunk that pages are being put into, if it has any.
    pub(super) fn take_open(&mut self) -> Option<Full> {
        let chunk = std::mem::take(&mut self.open);
        let last = self.stored.checked_sub(1).filter(|_| !chunk.is_empty())?;
        Some((usize::try_from(last).ok()? / CHUNK_PAGES, chunk))
    }

    /// The indexes, the packs with how many pages lie in each, and the pages counted. The new pack is the first.
    pub(super) fn finish(mut self, prologue: &Prologue) -> (Vec<PageIndex>, Vec<PackUse>, PageCounts) {
        let mut counts = PageCounts { stored: self.stored, ..PageCounts::default() };
        for (index, block) in self.indexes.iter_mut().zip(&prologue.blocks) {
            counts.all += block.pages();
            for page in 0..block.pages() {
                let Some((pack, _)) = index.get(page).ok().and_then(Location::place) else { continue };
                counts.kept += 1;
                if let Some(used) = self.packs.get_mut(usize::from(pack)) {
                    used.pages += 1;
                }
            }
        }
        (self.indexes, self.packs, counts)
    }
}
