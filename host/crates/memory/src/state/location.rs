//! Where a page lies.

/// Number of a pack in a manifest's list; 0 is the checkpoint's own.
pub(crate) type PackNumber = u16;

/// The most packs that a manifest may name. A state that would need more shares nothing.
pub(crate) const MAX_PACKS: usize = 1000;

const PAGE_BITS: u32 = 40;
const PAGE_MASK: u64 = (1 << PAGE_BITS) - 1;

/// The pack in the upper bits, one more than the number of the page in the pack in the lower 40; 0 is the page of
/// zeros, which lies nowhere. Pages that follow each other in a pack have locations that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Location(pub(crate) u64);

impl Location {
    pub(crate) const ZERO_PAGE: Self = Self(0);

    /// `page` is below 2⁴⁰ − 1: 4 PiB.
    pub(crate) const fn new(pack: PackNumber, page: u64) -> Self {
        Self(((pack as u64) << PAGE_BITS) | ((page + 1) & PAGE_MASK))
    }

    /// Pack and page; `None` for the page of zeros.
    pub(crate) fn place(self) -> Option<(PackNumber, u64)> {
        let page = (self.0 & PAGE_MASK).checked_sub(1)?;
        Some((PackNumber::try_from(self.0 >> PAGE_BITS).ok()?, page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_pack_and_a_page_and_zeros_lie_nowhere() {
        for place in [(0, 0), (0, 1), (7, 0), (999, (1 << 40) - 2)] {
            assert_eq!(Location::new(place.0, place.1).place(), Some(place));
        }
        assert_eq!(Location::ZERO_PAGE.place(), None);
        assert_eq!(Location(Location::new(3, 31).0 + 1), Location::new(3, 32));
        assert_eq!(Location(u64::MAX).place(), None, "more packs than can be");
    }
}
