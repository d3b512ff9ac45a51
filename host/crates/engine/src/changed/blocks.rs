//! Sets of parts of a disk, in blocks of 64 KiB. Pure.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Bytes of a block: parts of disks are told apart no finer.
pub(crate) const BLOCK: u64 = 64 << 10;

/// Some blocks of a disk: ranges of their numbers, in order, none of which touches the next.
///
/// Stored as pairs of a first block and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
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

    /// What lies in this range of bytes.
    pub(crate) fn within(&self, bytes: &Range<u64>) -> Self {
        let (start, end) = (bytes.start / BLOCK, bytes.end.div_ceil(BLOCK));
        let clipped = self.ranges.iter().map(|range| range.start.max(start)..range.end.min(end));
        Self { ranges: clipped.filter(|range| !range.is_empty()).collect() }
    }

    /// The same in at most so many ranges: those with the smallest gaps between them are joined, and none is left out.
    pub(crate) fn in_at_most(self, most: usize) -> Self {
        let excess = self.ranges.len().saturating_sub(most.max(1));
        let mut gaps: Vec<u64> = self.ranges.windows(2).map(|pair| pair[1].start - pair[0].end).collect();
        let Some(last) = excess.checked_sub(1) else { return self };
        let widest = *gaps.select_nth_unstable(last).1;
        // Of gaps of the same width only as many as need be are joined.
        let mut ties = excess - gaps.iter().filter(|gap| **gap < widest).count();
        let mut ranges: Vec<Range<u64>> = Vec::with_capacity(most);
        for range in self.ranges {
            match ranges.last_mut() {
                Some(before) if range.start - before.end < widest => before.end = range.end,
                Some(before) if range.start - before.end == widest && ties > 0 => {
                    (before.end, ties) = (range.end, ties - 1);
                }
                Some(_) | None => ranges.push(range),
            }
        }
        Self { ranges }
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

impl From<Vec<(u64, u64)>> for Blocks {
    fn from(stored: Vec<(u64, u64)>) -> Self {
        Self::of(stored.into_iter().map(|(first, count)| first..first.saturating_add(count)))
    }
}

impl From<Blocks> for Vec<(u64, u64)> {
    fn from(blocks: Blocks) -> Self {
        blocks.ranges.into_iter().map(|range| (range.start, range.end - range.start)).collect()
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
    fn blocks_read_back_and_are_clipped() {
        let blocks = marked("##..#");
        let stored = serde_json::to_string(&blocks).unwrap();
        assert_eq!(stored, "[[0,2],[4,1]]");
        assert_eq!(serde_json::from_str::<Blocks>(&stored).unwrap(), blocks);
        assert_eq!(blocks.within(&(BLOCK..4 * BLOCK)), marked(".#"));
        assert_eq!(blocks.within(&(BLOCK..4 * BLOCK + 1)), marked(".#..#"));
    }

    #[test]
    fn of_too_many_ranges_the_nearest_are_joined() {
        let blocks = marked("#.#...#.#..#");
        assert_eq!(blocks.clone().in_at_most(5), blocks);
        assert_eq!(blocks.clone().in_at_most(4), marked("###...#.#..#"));
        assert_eq!(blocks.clone().in_at_most(3), marked("###...###..#"));
        assert_eq!(blocks.clone().in_at_most(2), marked("###...######"));
        assert_eq!(blocks.clone().in_at_most(1), marked("############"));
        assert_eq!(blocks.in_at_most(0), marked("############"));
        assert_eq!(Blocks::default().in_at_most(1), Blocks::default());
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
