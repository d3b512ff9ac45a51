//! Which way two layers are merged. Pure.

use stillpoint_common::{Layer, MergeDirection};

/// What is known of two neighbouring layers, of which the parent is superfluous.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Bytes that the parent's file takes: what has to move upwards, at most.
    pub(crate) parent: u64,
    /// Bytes that the child's file takes: what has to move downwards.
    pub(crate) child: u64,
    /// The guest writes to the child at this moment: merged downwards, the VM stands still at the end for some
    /// milliseconds.
    pub(crate) is_live: bool,
}

/// The direction in which fewer bytes move. The user's own image is never renamed nor replaced, so that what lies on it
/// goes down into it.
pub(crate) const fn direction(parent: &Layer, sizes: Sizes) -> MergeDirection {
    if parent.backing.is_none() {
        return MergeDirection::Down;
    }
    if sizes.parent < sizes.child || sizes.parent == sizes.child && sizes.is_live {
        MergeDirection::Up
    } else {
        MergeDirection::Down
    }
}

impl Sizes {
    /// What moves in this direction.
    pub(crate) const fn moved(self, direction: MergeDirection) -> u64 {
        match direction {
            MergeDirection::Down => self.child,
            MergeDirection::Up => self.parent,
        }
    }
}

#[cfg(test)]
mod tests {
    use stillpoint_common::{DiskFormat, FileIdentity, LayerFile, LayerId};

    use super::*;

    fn layer(backing: Option<LayerId>) -> Layer {
        Layer {
            file: LayerFile { id: LayerId::generate(), path: "/vm/x".into(), format: DiskFormat::Qcow2 },
            disk: "system".parse().unwrap(),
            backing,
            identity: FileIdentity { device: 1, inode: 1 },
            virtual_size: 1 << 30,
            frozen: None,
            made: None,
        }
    }

    #[test]
    fn fewer_bytes_move_and_the_users_own_image_stays_where_it_is() {
        use MergeDirection::{Down, Up};
        let (own, between) = (layer(None), layer(Some(LayerId::generate())));
        for (parent, sizes, expected) in [
            (&between, (10, 20, false), Up),
            (&between, (20, 10, false), Down),
            (&between, (20, 10, true), Down),
            (&between, (10, 10, false), Down),
            (&between, (10, 10, true), Up),
            (&own, (10, 20, false), Down),
            (&own, (0, 20, true), Down),
        ] {
            let sizes = Sizes { parent: sizes.0, child: sizes.1, is_live: sizes.2 };
            assert_eq!(direction(parent, sizes), expected, "{:?} {sizes:?}", parent.backing.is_some());
        }
    }

    #[test]
    fn a_merge_that_made_way_goes_on_in_the_same_direction() {
        let between = layer(Some(LayerId::generate()));
        for first in [(10, 20), (20, 10)] {
            let sizes = Sizes { parent: first.0, child: first.1, is_live: false };
            let chosen = direction(&between, sizes);
            // Half of it had moved.
            let moved = sizes.moved(chosen) / 2;
            let later = match chosen {
                MergeDirection::Down => Sizes { parent: sizes.parent + moved, ..sizes },
                MergeDirection::Up => Sizes { child: sizes.child + moved, ..sizes },
            };
            assert_eq!(direction(&between, later), chosen);
        }
    }
}
