//! Which parts of a disk differ between two points in the life of its VM.
//!
//! ```text
//!  two points ──catalogue──▶ two layers ──path──▶ the layers between them ──look──▶ what these hold ──▶ ranges
//! ```
//! Nothing is tracked while the guest writes: a layer holds what was written while it was the head, and that is looked up
//! when somebody asks. So nothing is lost with a process, and after an apply the way leads over the common ancestor.
//!
//! What a checkpoint reads as never changes, whatever is merged meanwhile. So an answer is made part by part, each of them by
//! the catalogue as it is then: a part for which the layers changed while it was read is read again. Nobody waits for a
//! reader, and nothing is kept for one.

mod blocks;
mod look;
mod path;
mod way;

use std::{collections::VecDeque, ops::Range, sync::Arc};

use stillpoint_common::{CheckpointId, DiskName, Failure, Reason, ReferencePointId, VmId};

use self::{
    blocks::BLOCK,
    way::{Sizes, Way},
};
pub(crate) use self::{blocks::Blocks, look::held_by};
use crate::context::World;

/// Bytes of the disk that are looked at in one go: what bounds the memory an answer takes.
const PART: u64 = 16 << 30;
/// Ranges that are answered at a time, at most.
const RANGES: usize = 4096;
/// How often a part is read again because layers were merged away meanwhile. Each time something was done for good, so
/// that it ends long before.
const TRIES: u32 = 60;

/// Which parts of a disk are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedRequest {
    /// Whose disk.
    pub vm: VmId,
    /// Which disk.
    pub disk: DiskName,
    /// Where it begins.
    pub from: ChangedFrom,
    /// Where it leads.
    pub to: CheckpointId,
    /// The bytes of the disk that are asked for. The end may lie past its end.
    pub bytes: Range<u64>,
}

/// What there is a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangedFrom {
    /// Nothing: everything that holds data is answered.
    Nothing,
    /// What the disk was in a checkpoint.
    Checkpoint(CheckpointId),
    /// What the disk was at a reference point.
    Point(ReferencePointId),
}

/// Some of the ranges in which a disk differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedPart {
    /// In order, none touching the next, none before those of earlier parts.
    pub ranges: Vec<Range<u64>>,
    /// Up to this byte the answer is whole with this part.
    pub complete_to: u64,
}

/// Reads which parts of a disk differ.
pub struct ChangedReader {
    world: Arc<World>,
    asked: ChangedRequest,
    sizes: Sizes,
    /// Something was answered.
    begun: bool,
    /// What has been looked at ends here.
    at: u64,
    /// Found, and not answered yet. The last one may go on in the next part.
    found: VecDeque<Range<u64>>,
}

impl ChangedReader {
    pub(crate) async fn begin(world: Arc<World>, asked: ChangedRequest) -> Result<Self, Failure> {
        let aligned = |byte: u64| byte.is_multiple_of(BLOCK);
        let wrong = |field| Failure::field(field, format!("must be a multiple of {BLOCK}"));
        if !aligned(asked.bytes.start) {
            return Err(wrong("offset_bytes"));
        }
        if asked.bytes.end != u64::MAX && !aligned(asked.bytes.end) {
            return Err(wrong("length_bytes"));
        }
        let Found { sizes, .. } = found(&world, &asked, &(0..0)).await?;
        let at = asked.bytes.start.min(sizes.to);
        Ok(Self { world, sizes, begun: false, at, found: VecDeque::new(), asked })
    }

    /// Size of the disk, in bytes, where it begins; 0 if that is an empty disk.
    #[must_use]
    pub const fn from_size(&self) -> u64 {
        self.sizes.from
    }

    /// Size of the disk, in bytes, where it leads.
    #[must_use]
    pub const fn to_size(&self) -> u64 {
        self.sizes.to
    }

    /// The next part of the answer, possibly one without ranges; `None` when all is answered. There is one at least.
    ///
    /// # Errors
    /// `CHECKPOINT_NOT_FOUND`, `CHECKPOINT_DELETING`, `REFERENCE_POINT_NOT_FOUND` if one of the two was deleted meanwhile;
    /// `DISK_FILE_MISSING`, `DISK_CHANGED` if a layer between them is not what it should be.
    pub async fn next(&mut self) -> Result<Option<ChangedPart>, Failure> {
        let end = self.asked.bytes.end.min(self.sizes.to);
        if self.begun && self.at >= end && self.found.is_empty() {
            return Ok(None);
        }
        self.begun = true;
        if self.at < end && self.found.len() <= RANGES {
            let part = self.at..(self.at / PART + 1).saturating_mul(PART).min(end);
            let found = found(&self.world, &self.asked, &part).await?;
            found.blocks.bytes(part.end).for_each(|range| self.take(range));
            self.at = part.end;
        }
        Ok(Some(self.answer(end)))
    }

    fn take(&mut self, range: Range<u64>) {
        match self.found.back_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            Some(_) | None => self.found.push_back(range),
        }
    }

    fn answer(&mut self, end: u64) -> ChangedPart {
        // A range that ends where the look ended may go on in the next part.
        let open = usize::from(self.at < end && self.found.back().is_some_and(|last| last.end == self.at));
        let ready = (self.found.len() - open).min(RANGES);
        let ranges = self.found.drain(..ready).collect();
        ChangedPart { ranges, complete_to: self.found.front().map_or(self.at, |next| next.start) }
    }
}

/// What was found of a part of the disk.
struct Found {
    sizes: Sizes,
    blocks: Blocks,
}

/// What differs in a part of the disk, by the layers as they are now.
async fn found(world: &World, asked: &ChangedRequest, part: &Range<u64>) -> Result<Found, Failure> {
    for _ in 0..TRIES {
        let way = Way::find(world, asked).await?;
        let found = way.look(world, part).await;
        // Read while layers were merged away, it would be neither what was nor what is.
        if Way::find(world, asked).await? == way {
            return Ok(found?);
        }
    }
    Err(restless(&asked.vm))
}

fn restless(vm: &VmId) -> Failure {
    Failure::new(Reason::VmBusy, format!("the layers of VM {vm} do not come to rest"))
}
