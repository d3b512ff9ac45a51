//! Writes a stream piece by piece, into memory.

use super::{Block, Content, PAGE_BYTES, Prologue, flag, mark};

/// Writes what QEMU loads eagerly: the prologue, parts of pages, the devices.
///
/// The prologue and the devices are written by who has them, as they are. Each method appends to `out`.
#[derive(Debug, Clone)]
pub struct StreamWriter<'a> {
    ram: u32,
    blocks: &'a [Block],
    /// The block that the reader will take «the same» for.
    block: Option<usize>,
}

impl<'a> StreamWriter<'a> {
    /// For the pages of this machine.
    #[must_use]
    pub fn new(prologue: &'a Prologue) -> Self {
        Self { ram: prologue.ram, blocks: &prologue.blocks, block: None }
    }

    /// Begins a part; pages follow.
    pub fn begin_part(&mut self, out: &mut Vec<u8>) {
        out.push(mark::SECTION_PART);
        out.extend(self.ram.to_be_bytes());
        self.block = None;
    }

    /// A page of a block, both by number. A block that there is not writes nothing.
    pub fn page(&mut self, out: &mut Vec<u8>, block: usize, page: u64, content: Content<'_>) {
        let Some(name) = self.blocks.get(block).map(|block| block.name.as_bytes()) else { return };
        let same = if self.block == Some(block) { flag::SAME_BLOCK } else { 0 };
        let kind = match content {
            Content::Zero => flag::ZERO,
            Content::Data(_) => flag::DATA,
        };
        out.extend(((page * PAGE_BYTES) | same | kind).to_be_bytes());
        if same == 0 {
            // It was read with its length in a byte.
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend(name);
            self.block = Some(block);
        }
        match content {
            Content::Zero => out.push(0),
            Content::Data(bytes) => out.extend(bytes),
        }
    }

    /// Ends a part.
    pub fn end_part(&mut self, out: &mut Vec<u8>) {
        out.extend(flag::END.to_be_bytes());
        out.push(mark::FOOTER);
        out.extend(self.ram.to_be_bytes());
    }
}
