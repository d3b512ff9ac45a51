//! Some pages that lie together: what is compressed, read and checked at once.

use super::{Digest, digest};
use crate::stream::PAGE;

/// Pages of a chunk: 128 KiB, enough to compress well and little enough to read for the sake of one page.
pub(crate) const CHUNK_PAGES: usize = 32;
/// The fastest level that does not give up much: this has to keep up with QEMU.
const LEVEL: i32 = 1;
const DIGEST: usize = size_of::<Digest>();

/// How the pages of a chunk are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    /// As they are: they cannot be compressed.
    Plain,
    Zstd,
}

/// A chunk's row in the table of its pack: 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkEntry {
    pub(crate) offset: u64,
    /// Head and pages.
    pub(crate) bytes: u32,
    codec: Codec,
    pub(crate) pages: u8,
    head: Digest,
}

impl ChunkEntry {
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[12] = match self.codec {
            Codec::Plain => 0,
            Codec::Zstd => 1,
        };
        bytes[13] = self.pages;
        bytes[16..].copy_from_slice(&self.head);
        bytes
    }

    /// `None` if it cannot be one.
    pub(crate) fn read(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (offset, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let ([codec, pages, 0, 0], rest) = rest.split_first_chunk()? else { return None };
        let codec = match codec {
            0 => Codec::Plain,
            1 => Codec::Zstd,
            _ => return None,
        };
        let entry = Self {
            offset: u64::from_le_bytes(*offset),
            bytes: u32::from_le_bytes(*length),
            codec,
            pages: *pages,
            head: *rest.first_chunk()?,
        };
        let room = entry.head_bytes()..=entry.head_bytes() + entry.data_bytes();
        let possible = (1..=CHUNK_PAGES).contains(&usize::from(entry.pages)) && room.contains(&(entry.bytes as usize));
        possible.then_some(entry)
    }

    pub(crate) fn head_bytes(&self) -> usize {
        usize::from(self.pages) * DIGEST
    }

    fn data_bytes(&self) -> usize {
        usize::from(self.pages) * PAGE
    }

    /// The hashes of the pages, if `head` is what was written.
    pub(crate) fn digests(&self, head: &[u8]) -> Option<Vec<Digest>> {
        if head.len() != self.head_bytes() || digest(head) != self.head {
            return None;
        }
        Some(head.as_chunks::<DIGEST>().0.to_vec())
    }

    /// The pages, if `stored`, head and all, is what was written.
    pub(crate) fn pages(&self, stored: &[u8]) -> Option<Vec<u8>> {
        let (head, packed) = stored.split_at_checked(self.head_bytes())?;
        let digests = self.digests(head)?;
        let pages = match self.codec {
            Codec::Plain => packed.to_vec(),
            Codec::Zstd => zstd::bulk::decompress(packed, self.data_bytes()).ok()?,
        };
        let whole = pages.len() == self.data_bytes();
        let same = pages.chunks(PAGE).zip(&digests).all(|(page, expected)| digest(page) == *expected);
        (whole && same).then_some(pages)
    }
}

/// A chunk that pages are being put into.
#[derive(Debug, Default)]
pub(crate) struct OpenChunk {
    digests: Vec<Digest>,
    pages: Vec<u8>,
}

impl OpenChunk {
    /// There must be room: see [`OpenChunk::is_full`].
    pub(crate) fn push(&mut self, digest: Digest, page: &[u8]) {
        if self.pages.capacity() == 0 {
            self.pages.reserve_exact(CHUNK_PAGES * PAGE);
        }
        self.digests.push(digest);
        self.pages.extend_from_slice(page);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.digests.len() == CHUNK_PAGES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// What is to be stored, and its row, whose offset is still to be set.
    pub(crate) fn seal(&self) -> (Vec<u8>, ChunkEntry) {
        let head = self.digests.as_flattened();
        let compressed = zstd::bulk::compress(&self.pages, LEVEL).ok();
        let smaller = compressed.filter(|compressed| compressed.len() < self.pages.len());
        let (codec, packed) = match &smaller {
            Some(compressed) => (Codec::Zstd, &compressed[..]),
            None => (Codec::Plain, &self.pages[..]),
        };
        let stored = [head, packed].concat();
        let entry = ChunkEntry {
            offset: 0,
            // At most 32 hashes and pages.
            bytes: u32::try_from(stored.len()).unwrap_or(u32::MAX),
            codec,
            pages: u8::try_from(self.digests.len()).unwrap_or(u8::MAX),
            head: digest(head),
        };
        (stored, entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(pages: &[Vec<u8>]) -> OpenChunk {
        let mut chunk = OpenChunk::default();
        pages.iter().for_each(|page| chunk.push(digest(page), page));
        chunk
    }

    fn noise(seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        (0..PAGE / 8).flat_map(|_| next()).collect()
    }

    #[test]
    fn pages_come_back_and_what_can_be_compressed_is() {
        let soft: Vec<_> = (0..32).map(|number| vec![number; PAGE]).collect();
        let hard: Vec<_> = [1, 3, 5].map(noise).to_vec();
        for (pages, small) in [(soft, true), (hard, false)] {
            let (stored, entry) = chunk(&pages).seal();
            assert_eq!(entry.pages(&stored), Some(pages.concat()));
            assert_eq!(stored.len() < pages.len() * PAGE, small);
            assert_eq!(ChunkEntry::read(&entry.to_bytes()), Some(entry));
        }
    }

    #[test]
    fn no_bit_can_be_bent_unseen() {
        for pages in [vec![vec![7; PAGE], vec![8; PAGE]], vec![noise(1)]] {
            let (stored, entry) = chunk(&pages).seal();
            for at in 0..stored.len() {
                let mut bent = stored.clone();
                bent[at] ^= 1 << (at % 8);
                let read = entry.pages(&bent);
                // A frame of zstd has bits that mean nothing; the pages are the same then.
                assert!(read.is_none() || read == Some(pages.concat()), "byte {at}");
            }
            assert_eq!(entry.pages(&stored[..stored.len() - 1]), None);
        }
    }
}
