//! Pages on their way from the reader to a worker.

use crate::stream::{Content, PAGE};

/// Pages of content in a batch: 512 KiB.
const PAGES: usize = 128;
/// Pages of zeros come by the hundred thousand and weigh little.
const MOST: usize = 16 * PAGES;

/// Some pages, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The how-manieth it is, from 0.
    pub(super) number: u64,
    /// Block, page, and whether it has content, which lies in `data` then.
    pub(super) pages: Vec<(usize, u64, bool)>,
    pub(super) data: Vec<u8>,
}

impl Batch {
    pub(super) fn new(number: u64) -> Self {
        Self { number, pages: Vec::with_capacity(PAGES), data: Vec::new() }
    }

    pub(super) fn push(&mut self, block: usize, page: u64, content: Content<'_>) {
        match content {
            Content::Zero => self.pages.push((block, page, false)),
            Content::Data(bytes) => {
                if self.data.capacity() == 0 {
                    self.data.reserve_exact(PAGES * PAGE);
                }
                self.pages.push((block, page, true));
                self.data.extend_from_slice(bytes);
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.data.len() >= PAGES * PAGE || self.pages.len() >= MOST
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}
