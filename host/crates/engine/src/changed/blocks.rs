//! Sets of parts of a disk, in blocks of 64 KiB. Pure.

use std::ops::Range;

/// Bytes of a block: parts of disks are told apart no finer.
pub(crate) const BLOCK: u64 = 64 << 10;

/// Some blocks of a disk: ranges of their numbers, in order, none of which touches the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    ranges: Vec<Range<u64>>,
}

impl Blocks {
    /// Every block that one of these ranges of bytes touches.
    pub(crate) fn touched(bytes: impl IntoIterator<Item = Range<u64>>) -> Self {
        let touched = |bytes: Range<u64>| bytes.start / BLOCK..bytes.end.div_ceil(BLOCK);
        Self::of(bytes.into_iter().filter(|bytes| !bytes.is_empty()).map(touched))
    }

    /// Every block that lies in one of these ranges of bytes as a whole.
    pub(crate) fn inside(bytes: impl IntoIterator<Item = Range<u64>>) -> Self {
        Self::of(bytes.into_iter().map(|bytes| bytes.start.div_ceil(BLOCK)..bytes.end / BLOCK))
    }

    fn of(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut given: Vec<Range<u64>> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        given.sort_by_key(|range| range.start);
        let mut ranges: Vec<Range<u64>> = Vec::with_capacity(given.len());
        for range in given {
            match ranges.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                Some(_) | None => ranges.push(range),
            }
        }
        Self { ranges }
    }

    /// What is in one of the two.
    pub(crate) fn and(self, other: Self) -> Self {
        Self::of(self.ranges.into_iter().chain(other.ranges))
    }

    /// What is in this and not in the other.
    pub(crate) fn without(self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.ranges.len());
        let mut holes = other.ranges.iter().peekable();
        for Range { mut start, end } in self.ranges {
            while holes.next_if(|hole| hole.end <= start).is_some() {}
            // A hole may reach into the next range too: it is looked at, not taken.
            for hole in holes.clone().take_while(|hole| hole.start < end) {
                if start < hole.start {
                    left.push(start..hole.start);
                }
                start = start.max(hole.end);
            }
            if start < end {
                left.push(start..end);
            }
        }
        Self { ranges: left }
    }

    /// As ranges of bytes that end at the latest with this byte.
    pub(crate) fn bytes(&self, end: u64) -> impl Iterator<Item = Range<u64>> {
        let bytes = self
            .ranges
            .iter()
            .map(move |range| range.start.saturating_mul(BLOCK)..range.end.saturating_mul(BLOCK).min(end));
        bytes.filter(|bytes| !bytes.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks by their marks: `"#.#"` are the blocks 0 and 2.
    fn marked(text: &str) -> Blocks {
        let at = text.chars().enumerate().filter(|(_, mark)| *mark == '#').map(|(at, _)| at as u64);
        Blocks::of(at.map(|at| at..at + 1))
    }

    #[test]
    fn blocks_are_joined_and_taken_away() {
        for (one, other, both, rest) in [
            ("", "", "", ""),
            ("##..", "..##", "####", "##.."),
            ("####", ".##.", "####", "#..#"),
            ("##.##.#", ".###..#", "#####.#", "#...#"),
            ("#.#.#", "#####", "#####", ""),
            ("#####", "#.#.#", "#####", ".#.#"),
            (".###", "##", "####", "..##"),
        ] {
            assert_eq!(marked(one).and(marked(other)), marked(both), "{one} and {other}");
            assert_eq!(marked(one).without(&marked(other)), marked(rest), "{one} without {other}");
        }
    }

    #[test]
    fn what_is_touched_is_rounded_outwards_and_what_is_whole_inwards() {
        let bytes = [BLOCK - 1..BLOCK + 1, 5 * BLOCK..7 * BLOCK, 9 * BLOCK..9 * BLOCK];
        let touched = Blocks::touched(bytes.clone());
        assert_eq!(touched, marked("##...##"));
        assert_eq!(Blocks::inside(bytes), marked(".....##"));
        let clipped: Vec<_> = touched.bytes(6 * BLOCK + 7).collect();
        assert_eq!(clipped, [0..2 * BLOCK, 5 * BLOCK..6 * BLOCK + 7]);
        assert_eq!(touched.bytes(BLOCK).collect::<Vec<_>>(), std::slice::from_ref(&(0..BLOCK)));
    }
}
