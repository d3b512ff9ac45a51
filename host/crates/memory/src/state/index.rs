//! Where each page of a block lies.

use super::Location;

/// Pages of a segment: 128 MiB of memory.
pub(crate) const SEGMENT_PAGES: u64 = 1 << 15;
/// So many segments are open at once; each takes 256 KiB.
const OPEN: usize = 64;
/// Fast; the locations of pages that lie as they came take next to nothing anyway.
const LEVEL: i32 = 1;

/// The locations of all pages of one block.
///
/// Segments that are not being used are kept encoded, as they will be in the manifest. A page that was never set is
/// one of zeros.
#[derive(Debug)]
pub(crate) struct PageIndex {
    segments: Vec<Segment>,
    /// Open segments, the one used last at the end.
    open: Vec<usize>,
    /// Pages of this block.
    pages: u64,
}

#[derive(Debug)]
enum Segment {
    Zeros,
    Open(Vec<Location>),
    Encoded(Vec<u8>),
}

/// A segment that cannot be decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadSegment;

impl PageIndex {
    pub(crate) fn new(pages: u64) -> Self {
        let segments = (0..pages.div_ceil(SEGMENT_PAGES)).map(|_| Segment::Zeros).collect();
        Self { segments, open: Vec::new(), pages }
    }

    /// Of encoded segments; `None` is one of zeros. Their content is looked at when it is needed.
    pub(crate) fn of_segments(pages: u64, segments: Vec<Option<Vec<u8>>>) -> Result<Self, BadSegment> {
        if segments.len() as u64 != pages.div_ceil(SEGMENT_PAGES) {
            return Err(BadSegment);
        }
        let segments = segments.into_iter().map(|segment| segment.map_or(Segment::Zeros, Segment::Encoded)).collect();
        Ok(Self { segments, open: Vec::new(), pages })
    }

    /// A page outside of the block is one of zeros.
    pub(crate) fn get(&mut self, page: u64) -> Result<Location, BadSegment> {
        let Ok(number) = usize::try_from(page / SEGMENT_PAGES) else { return Ok(Location::ZERO_PAGE) };
        match self.segments.get(number) {
            None | Some(Segment::Zeros) => return Ok(Location::ZERO_PAGE),
            Some(Segment::Open(_) | Segment::Encoded(_)) => {}
        }
        let segment = self.opened(number)?;
        Ok(segment.get(within(page)).copied().unwrap_or_default())
    }

    /// A page outside of the block is not kept.
    pub(crate) fn set(&mut self, page: u64, location: Location) -> Result<(), BadSegment> {
        let Ok(number) = usize::try_from(page / SEGMENT_PAGES) else { return Ok(()) };
        match self.segments.get(number) {
            None => return Ok(()),
            Some(Segment::Zeros) if location == Location::ZERO_PAGE => return Ok(()),
            Some(Segment::Zeros | Segment::Open(_) | Segment::Encoded(_)) => {}
        }
        if let Some(place) = self.opened(number)?.get_mut(within(page)) {
            *place = location;
        }
        Ok(())
    }

    /// How many pages a segment has: the last one may be short.
    fn length(&self, number: usize) -> usize {
        let left = self.pages.saturating_sub(number as u64 * SEGMENT_PAGES).min(SEGMENT_PAGES);
        usize::try_from(left).unwrap_or(0)
    }

    fn opened(&mut self, number: usize) -> Result<&mut Vec<Location>, BadSegment> {
        if self.open.last() != Some(&number) {
            match self.open.iter().position(|open| *open == number) {
                Some(at) => drop(self.open.remove(at)),
                None => self.open_segment(number)?,
            }
            self.open.push(number);
        }
        match self.segments.get_mut(number) {
            Some(Segment::Open(locations)) => Ok(locations),
            Some(Segment::Zeros | Segment::Encoded(_)) | None => Err(BadSegment),
        }
    }

    fn open_segment(&mut self, number: usize) -> Result<(), BadSegment> {
        if self.open.len() >= OPEN {
            let oldest = self.open.remove(0);
            self.close(oldest);
        }
        let length = self.length(number);
        let segment = self.segments.get_mut(number).ok_or(BadSegment)?;
        let locations = match segment {
            Segment::Zeros => vec![Location::ZERO_PAGE; length],
            Segment::Encoded(bytes) => decode(bytes, length)?,
            Segment::Open(_) => return Ok(()),
        };
        *segment = Segment::Open(locations);
        Ok(())
    }

    fn close(&mut self, number: usize) {
        let Some(segment) = self.segments.get_mut(number) else { return };
        if let Segment::Open(locations) = segment {
            *segment = encode(locations).map_or(Segment::Zeros, Segment::Encoded);
        }
    }

    /// All segments as the manifest has them: `None` is one of zeros.
    pub(crate) fn into_segments(mut self) -> Vec<Option<Vec<u8>>> {
        for number in std::mem::take(&mut self.open) {
            self.close(number);
        }
        let encoded = |segment| match segment {
            Segment::Zeros | Segment::Open(_) => None,
            Segment::Encoded(bytes) => Some(bytes),
        };
        self.segments.into_iter().map(encoded).collect()
    }
}

fn within(page: u64) -> usize {
    usize::try_from(page % SEGMENT_PAGES).unwrap_or(usize::MAX)
}

/// For each page: 0 if it is zeros, or else one more than the distance, folded to be positive, from where the page
/// after the last one lies. Numbers have seven bits a byte, and all of them go through zstd. `None` if all are zeros.
fn encode(locations: &[Location]) -> Option<Vec<u8>> {
    let (mut numbers, mut expected) = (Vec::with_capacity(locations.len() + 16), 1_u64);
    for location in locations {
        if *location == Location::ZERO_PAGE {
            numbers.push(0);
            continue;
        }
        put(&mut numbers, fold(location.0.wrapping_sub(expected)).wrapping_add(1));
        expected = location.0.wrapping_add(1);
    }
    if locations.iter().all(|location| *location == Location::ZERO_PAGE) {
        return None;
    }
    zstd::bulk::compress(&numbers, LEVEL).ok()
}

fn decode(bytes: &[u8], length: usize) -> Result<Vec<Location>, BadSegment> {
    let numbers = zstd::bulk::decompress(bytes, length.saturating_mul(10)).map_err(|_| BadSegment)?;
    let (mut rest, mut expected) = (&numbers[..], 1_u64);
    let mut locations = Vec::with_capacity(length);
    while !rest.is_empty() && locations.len() < length {
        let number = get(&mut rest).ok_or(BadSegment)?;
        if number == 0 {
            locations.push(Location::ZERO_PAGE);
            continue;
        }
        let location = expected.wrapping_add(unfold(number.wrapping_sub(1)));
        expected = location.wrapping_add(1);
        locations.push(Location(location));
    }
    if rest.is_empty() && locations.len() == length { Ok(locations) } else { Err(BadSegment) }
}

/// Small distances, to either side, become small numbers.
const fn fold(distance: u64) -> u64 {
    if distance >> 63 == 0 { distance << 1 } else { (!distance << 1) | 1 }
}

const fn unfold(number: u64) -> u64 {
    if number & 1 == 0 { number >> 1 } else { !(number >> 1) }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn get(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_set_is_there_after_any_number_of_segments_was_closed() {
        let pages = SEGMENT_PAGES * (OPEN as u64 + 20) + 5;
        let mut index = PageIndex::new(pages);
        let location = |page: u64| Location::new(3, page * 7 + 1);
        for page in (0..pages).step_by(1013).chain([pages - 1, 0]) {
            index.set(page, location(page)).unwrap();
        }
        index.set(pages + SEGMENT_PAGES, location(1)).unwrap();
        let mut again = PageIndex::of_segments(pages, index.into_segments()).unwrap();
        for page in (0..pages).step_by(1013).chain([pages - 1]) {
            assert_eq!(again.get(page), Ok(location(page)));
            assert_eq!(again.get(page + 1), Ok(Location::ZERO_PAGE));
        }
        assert!(again.open.len() <= OPEN);
        assert!(PageIndex::of_segments(pages + SEGMENT_PAGES, again.into_segments()).is_err());
    }

    #[test]
    fn pages_that_lie_as_they_came_take_no_room() {
        let locations: Vec<_> = (0..SEGMENT_PAGES).map(|page| Location::new(0, page)).collect();
        assert!(encode(&locations).unwrap().len() < 200);
        assert_eq!(encode(&[Location::ZERO_PAGE; 100]), None);
    }

    proptest! {
        #[test]
        fn every_segment_is_decoded_as_it_was(numbers in proptest::collection::vec(any::<u64>(), 1..300)) {
            let locations: Vec<_> = numbers.into_iter().map(Location).collect();
            let bytes = encode(&locations).unwrap();
            prop_assert_eq!(decode(&bytes, locations.len()), Ok(locations.clone()));
            prop_assert_eq!(decode(&bytes, locations.len() + 1), Err(BadSegment));
        }

        #[test]
        fn garbage_is_a_bad_segment_or_another_one(bytes in proptest::collection::vec(any::<u8>(), 0..100), length in 0_usize..50) {
            let _ = decode(&zstd::bulk::compress(&bytes, 1).unwrap(), length);
            let _ = decode(&bytes, length);
        }
    }
}
