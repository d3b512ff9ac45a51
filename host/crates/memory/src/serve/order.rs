//! Which page goes next. Pure.
//!
//! What somebody waits for goes first; from there on the others follow, since who reads a page mostly reads the next one
//! too. Each page goes once.

use std::collections::VecDeque;

use crate::stream::Block;

/// Requests that are kept at most. The other side has a handful of virtual CPUs that can wait for a page.
const MOST: usize = 4096;

/// The pages of a machine that are still to go.
#[derive(Debug)]
pub(crate) struct Order {
    blocks: Vec<Left>,
    /// Where the pages go on that nobody waits for: block and page.
    at: (usize, u64),
    wanted: VecDeque<(usize, u64, u64)>,
    left: u64,
}

/// The pages of a block; a bit is set for each that is still to go.
#[derive(Debug)]
struct Left(Vec<u64>);

impl Left {
    fn all(pages: u64) -> Self {
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or_default();
        let mut bits = vec![u64::MAX; words];
        if let (Some(last), rest @ 1..) = (bits.last_mut(), pages % 64) {
            *last = (1 << rest) - 1;
        }
        Self(bits)
    }

    /// Takes a page out; false if it has gone already.
    fn take(&mut self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok().and_then(|word| self.0.get_mut(word));
        let Some(word) = word else { return false };
        let bit = 1 << (page % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    /// The first page from this one on.
    fn next(&self, from: u64) -> Option<u64> {
        let mut word = usize::try_from(from / 64).ok()?;
        let mut bits = self.0.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.0.get(word)?;
        }
        Some(word as u64 * 64 + u64::from(bits.trailing_zeros()))
    }
}

impl Order {
    /// All pages of these blocks.
    pub(crate) fn new(blocks: &[Block]) -> Self {
        let left = blocks.iter().map(Block::pages).sum();
        let blocks = blocks.iter().map(|block| Left::all(block.pages())).collect();
        Self { blocks, at: (0, 0), wanted: VecDeque::new(), left }
    }

    /// Somebody waits for these.
    pub(crate) fn want(&mut self, block: usize, first: u64, pages: u64) {
        self.wanted.push_back((block, first, pages));
    }

    /// So many wait that no more should be heard for now.
    pub(crate) fn is_full(&self) -> bool {
        self.wanted.len() >= MOST
    }

    /// How many pages are still to go.
    pub(crate) const fn left(&self) -> u64 {
        self.left
    }

    /// The next page that somebody waits for.
    pub(crate) fn next_wanted(&mut self) -> Option<(usize, u64)> {
        while let Some((block, first, pages)) = self.wanted.front_mut() {
            let (number, page) = (*block, *first);
            if *pages == 0 {
                self.wanted.pop_front();
                continue;
            }
            (*first, *pages) = (page + 1, *pages - 1);
            if self.take(number, page) {
                return Some((number, page));
            }
        }
        None
    }

    /// The next page that nobody waits for.
    pub(crate) fn next_other(&mut self) -> Option<(usize, u64)> {
        let (block, from) = self.at;
        let here = self.blocks.get(block).and_then(|left| left.next(from)).map(|page| (block, page));
        let after = || {
            (block + 1..self.blocks.len())
                .chain(0..=block)
                .find_map(|other| Some((other, self.blocks.get(other)?.next(0)?)))
        };
        let (number, page) = here.or_else(after)?;
        self.take(number, page).then_some((number, page))
    }

    fn take(&mut self, block: usize, page: u64) -> bool {
        let taken = self.blocks.get_mut(block).is_some_and(|left| left.take(page));
        if taken {
            self.left -= 1;
            self.at = (block, page + 1);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn blocks(pages: &[u64]) -> Vec<Block> {
        let block = |pages: &u64| Block { name: "block".to_owned(), bytes: pages * 4096 };
        pages.iter().map(block).collect()
    }

    #[test]
    fn what_is_waited_for_goes_first_and_what_lies_behind_it_next() {
        let mut order = Order::new(&blocks(&[100, 300]));
        assert_eq!(order.next_other(), Some((0, 0)));
        order.want(1, 200, 2);
        order.want(0, 0, 1);
        assert_eq!(
            [order.next_wanted(), order.next_wanted(), order.next_wanted()],
            [Some((1, 200)), Some((1, 201)), None]
        );
        assert_eq!([order.next_other(), order.next_other()], [Some((1, 202)), Some((1, 203))]);
        assert_eq!(order.left(), 400 - 5);
    }

    proptest! {
        #[test]
        fn each_page_goes_once_whatever_is_asked_for(
            pages in prop::collection::vec(0_u64..200, 1..4),
            asked in prop::collection::vec((0_usize..4, 0_u64..200, 0_u64..80), 0..40),
        ) {
            let mut order = Order::new(&blocks(&pages));
            let (mut gone, mut asked) = (BTreeSet::new(), asked.into_iter());
            loop {
                if let Some((block, first, many)) = asked.next() {
                    order.want(block, first, many);
                }
                let Some(page) = order.next_wanted().or_else(|| order.next_other()) else { break };
                prop_assert!(page.1 < pages[page.0], "a page that there is not: {:?}", page);
                prop_assert!(gone.insert(page), "twice: {:?}", page);
            }
            prop_assert_eq!(gone.len() as u64, pages.iter().sum::<u64>());
            prop_assert_eq!(order.left(), 0);
        }
    }
}
