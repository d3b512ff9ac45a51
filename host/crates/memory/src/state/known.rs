//! Pages that are known to lie somewhere.

use super::{Digest, Location};

/// So many places are looked at for one hash. While at most two thirds of all places are taken, that is as good as
/// all of them.
const REACH: usize = 128;
/// The most places: 48 MiB, enough for more than 5 GiB of pages that differ.
const MOST: u64 = 1 << 21;

/// From a page's hash to its location, in memory of a fixed size: when it is full, some pages are forgotten, and
/// would be stored again.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Those of one hash follow each other, from the place that the hash says on, around the end.
    places: Vec<(Digest, Location)>,
}

impl Known {
    /// For a machine of so many pages.
    pub(crate) fn new(pages: u64) -> Self {
        let places = usize::try_from((pages.saturating_mul(3) / 2).clamp(1024, MOST)).unwrap_or(1024);
        Self { places: vec![Default::default(); places] }
    }

    /// The places where a hash may be, nearest first.
    fn reach(&self, digest: &Digest) -> impl Iterator<Item = usize> + use<> {
        let [a, b, c, d, e, f, ..] = *digest;
        let (number, places) = (u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), self.places.len());
        let first = usize::try_from(number % (places as u64).max(1)).unwrap_or(0);
        (first..first + REACH.min(places)).map(move |place| if place < places { place } else { place - places })
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Location> {
        for place in self.reach(digest) {
            match self.places.get(place) {
                None | Some((_, Location::ZERO_PAGE)) => return None,
                Some((known, location)) if known == digest => return Some(*location),
                Some(_) => {}
            }
        }
        None
    }

    pub(crate) fn insert(&mut self, digest: Digest, location: Location) {
        let free = |place: &usize| {
            let taken = self.places.get(*place);
            taken.is_some_and(|(known, taken)| *taken == Location::ZERO_PAGE || *known == digest)
        };
        let place = self.reach(&digest).find(free);
        // Which one is forgotten does not matter; that it is not always the same one does.
        let place = place.or_else(|| self.reach(&digest).nth(usize::from(digest[15]) % REACH));
        if let Some(place) = place.and_then(|place| self.places.get_mut(place)) {
            *place = (digest, location);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::digest, *};

    #[test]
    fn a_page_is_found_and_none_is_found_that_was_not_put_in() {
        let mut known = Known::new(20_000);
        for number in 0..20_000_u64 {
            known.insert(digest(&number.to_le_bytes()), Location::new(0, number));
        }
        let found = |number: u64| known.get(&digest(&number.to_le_bytes()));
        assert!((0..20_000).all(|number| found(number) == Some(Location::new(0, number))));
        assert!((20_000..40_000).all(|number| found(number).is_none()));
        assert_eq!(known.get(&Digest::default()), None);
    }

    #[test]
    fn it_does_not_grow() {
        let mut known = Known::new(1);
        for number in 0..100_000_u64 {
            known.insert(digest(&number.to_le_bytes()), Location::new(0, number));
        }
        assert_eq!(known.places.len(), 1024);
        assert_eq!(Known::new(u64::MAX / 4).places.len() as u64, MOST);
    }
}
