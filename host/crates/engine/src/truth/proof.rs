//! Whether a file under another name is the file of a layer. Pure.

use stillpoint_common::Layer;

use crate::ports::Seen;

/// What speaks for a file being the one that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It is the very file, and nobody has written to it since it was frozen.
    SameFile,
    /// It came from another file system with its length and the time of its last write, as a move does.
    SameStamp,
    /// Nothing; why.
    None(&'static str),
}

/// What speaks for it.
pub(crate) fn proof(layer: &Layer, seen: &Seen) -> Proof {
    match layer.frozen {
        Some(frozen) if frozen != seen.stamp => {
            Proof::None("has another length, or was written to at another time, than the layer when it was frozen")
        }
        _ if layer.identity == seen.identity => Proof::SameFile,
        Some(_) => Proof::SameStamp,
        None => Proof::None("is another file, and what a head holds cannot be told from outside"),
    }
}

#[cfg(test)]
mod tests {
    use stillpoint_common::{DiskFormat, FileIdentity, FileStamp, LayerFile, LayerId};

    use super::*;

    #[test]
    fn a_moved_file_is_known_by_its_inode_and_elsewhere_by_its_stamp() {
        let stamp = |bytes| FileStamp { bytes, modified: jiff::Timestamp::UNIX_EPOCH };
        let file = LayerFile { id: LayerId::generate(), path: "/a".into(), format: DiskFormat::Raw };
        let (disk, identity) = ("system".parse().unwrap(), FileIdentity { device: 1, inode: 1 });
        let layer = Layer { file, disk, backing: None, identity, virtual_size: 1, frozen: Some(stamp(1)), made: None };
        let elsewhere = FileIdentity { device: 2, inode: 1 };
        let seen = |identity, stamp| Seen { identity, stamp, allocated: 0, backing: None, backing_format: None };
        assert_eq!(proof(&layer, &seen(identity, stamp(1))), Proof::SameFile);
        assert_eq!(proof(&layer, &seen(elsewhere, stamp(1))), Proof::SameStamp);
        assert!(matches!(proof(&layer, &seen(identity, stamp(2))), Proof::None(_)));
        let head = Layer { frozen: None, ..layer };
        assert_eq!(proof(&head, &seen(identity, stamp(2))), Proof::SameFile);
        assert!(matches!(proof(&head, &seen(elsewhere, stamp(1))), Proof::None(_)));
    }
}
