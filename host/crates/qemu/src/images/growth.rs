//! How much a layer grows when another one is merged into it.

use serde::Deserialize;

/// An extent, as `qemu-img map` tells it of one layer alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Extent {
    start: u64,
    length: u64,
    /// It takes room, and is not just known to be zero.
    data: bool,
}

/// Bytes of data in `child` where `parent` has none: what must be allocated there. Both in order.
pub(super) fn growth(child: &[Extent], parent: &[Extent]) -> u64 {
    let data = |extents: &[Extent]| -> Vec<(u64, u64)> {
        let data = extents.iter().filter(|extent| extent.data);
        data.map(|extent| (extent.start, extent.start.saturating_add(extent.length))).collect()
    };
    let (child, parent) = (data(child), data(parent));
    let mut below = parent.iter().peekable();
    let mut grows = 0;
    for (mut at, end) in child {
        while at < end {
            while below.next_if(|(_, over)| *over <= at).is_some() {}
            match below.peek() {
                Some((from, over)) if *from <= at => at = *over,
                Some((from, _)) => {
                    grows += end.min(*from) - at;
                    at = end.min(*from);
                }
                None => {
                    grows += end - at;
                    at = end;
                }
            }
        }
    }
    grows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(text: &str) -> Vec<Extent> {
        let extent = |(start, c): (usize, char)| Extent { start: start as u64, length: 1, data: c == '#' };
        text.chars().enumerate().map(extent).collect()
    }

    #[test]
    fn only_data_over_nothing_makes_a_layer_grow() {
        for (child, parent, grows) in [
            ("....", "....", 0),
            ("####", "....", 4),
            ("####", "####", 0),
            ("##.#", ".#.#", 1),
            ("####", ".##.", 2),
            ("#..#", "#", 1),
            ("", "####", 0),
        ] {
            assert_eq!(growth(&extents(child), &extents(parent)), grows, "{child} over {parent}");
        }
        let long = [Extent { start: 0, length: 100, data: true }];
        let parts = [Extent { start: 10, length: 10, data: true }, Extent { start: 90, length: 50, data: true }];
        assert_eq!((growth(&long, &parts), growth(&parts, &long)), (80, 40));
    }
}
