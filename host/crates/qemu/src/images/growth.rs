//! What a layer holds, and how much it grows when another one is merged into it.

use serde::Deserialize;
use stillpoint_engine::ports::Extent;

/// An extent, as `qemu-img map` tells it of one layer alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Mapped {
    start: u64,
    length: u64,
    /// It is the layer's own, and not just what is read where there is nothing.
    #[serde(default = "yes")]
    present: bool,
    /// It takes room, and is not just known to be zero.
    data: bool,
}

/// A tool that does not tell apart what is present tells too much rather than too little.
const fn yes() -> bool {
    true
}

impl Mapped {
    /// What it means for the layer, if it is the layer's own.
    pub(super) fn own(&self) -> Option<Extent> {
        let bytes = self.start..self.start.saturating_add(self.length);
        (self.present && !bytes.is_empty()).then_some(Extent { bytes, zero: !self.data })
    }
}

/// Bytes of data in `child` where `parent` has none: what must be allocated there. Both in order.
pub(super) fn growth(child: &[Mapped], parent: &[Mapped]) -> u64 {
    let data = |extents: &[Mapped]| -> Vec<(u64, u64)> {
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

    fn extents(text: &str) -> Vec<Mapped> {
        let extent =
            |(start, c): (usize, char)| Mapped { start: start as u64, length: 1, present: true, data: c == '#' };
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
        let long = [Mapped { start: 0, length: 100, present: true, data: true }];
        let parts = [(10, 10), (90, 50)].map(|(start, length)| Mapped { start, length, present: true, data: true });
        assert_eq!((growth(&long, &parts), growth(&parts, &long)), (80, 40));
    }
}
