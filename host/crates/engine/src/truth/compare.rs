//! A layer's file against its record. Pure.

use std::path::PathBuf;

use stillpoint_common::{Failure, FileIdentity, Layer, Reason};

use crate::ports::{ImageError, Seen};

/// What is wrong with the file of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It is not there.
    Missing,
    /// Another file lies under its name.
    Replaced,
    /// The same file, written to since it was frozen.
    Rewritten,
    /// It names another backing file than the catalogue; `None`: none at all.
    NamesOther {
        /// Which one it names.
        named: Option<PathBuf>,
        /// Which one it should.
        expected: Option<PathBuf>,
    },
    /// It names itself as its backing file.
    NamesItself,
    /// It cannot be looked at.
    Unreadable(String),
}

/// Everything that is wrong with a layer's file, the gravest first. `below` are the layers below it, the nearest first.
///
/// A merge of our own that was cut short may have written into the file already that it lies on the layer which is
/// merged into, and which is open therefore: that is as it should be, since the two read the same.
pub(crate) fn wrongs(layer: &Layer, below: &[&Layer], seen: Result<&Seen, &ImageError>) -> Vec<Wrong> {
    let seen = match seen {
        Ok(seen) => seen,
        Err(ImageError::Missing { .. }) => return vec![Wrong::Missing],
        Err(error) => return vec![Wrong::Unreadable(error.to_string())],
    };
    let mut wrongs = Vec::new();
    if !is_same(layer.identity, seen.identity) {
        wrongs.push(Wrong::Replaced);
    } else if layer.frozen.is_some_and(|frozen| frozen != seen.stamp) {
        wrongs.push(Wrong::Rewritten);
    }
    let expected = below.first().map(|backing| backing.file.path.clone());
    let merged = below.get(1).filter(|parent| parent.frozen.is_none()).map(|parent| &parent.file.path);
    if seen.backing.as_ref() == Some(&layer.file.path) {
        wrongs.push(Wrong::NamesItself);
    } else if seen.backing != expected && (merged.is_none() || seen.backing.as_ref() != merged) {
        wrongs.push(Wrong::NamesOther { named: seen.backing.clone(), expected });
    }
    wrongs
}

/// Device numbers may change when the host restarts; inodes stay.
fn is_same(known: FileIdentity, found: FileIdentity) -> bool {
    known.inode == found.inode
}

impl Wrong {
    /// In words, after the file's name.
    pub(crate) fn text(&self) -> String {
        let shown = |path: &Option<PathBuf>| path.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
        match self {
            Self::Missing => "does not exist".to_owned(),
            Self::Replaced => "is not the file it was: another one lies under its name".to_owned(),
            Self::Rewritten => "was written to by somebody else since it was frozen".to_owned(),
            Self::NamesOther { named, expected } => {
                format!("names {} as its backing file and should name {}", shown(named), shown(expected))
            }
            Self::NamesItself => "names itself as its backing file".to_owned(),
            Self::Unreadable(why) => format!("cannot be looked at: {why}"),
        }
    }

    /// Why nothing is done with the layer.
    pub(crate) fn failure(&self, layer: &Layer) -> Failure {
        let reason = match self {
            Self::Missing => Reason::DiskFileMissing,
            Self::Replaced | Self::Rewritten | Self::NamesOther { .. } | Self::NamesItself => Reason::DiskChanged,
            Self::Unreadable(_) => Reason::DiskFileUnusable,
        };
        Failure::new(reason, format!("{} {}", layer.file.path.display(), self.text()))
    }
}

#[cfg(test)]
mod tests {
    use stillpoint_common::{DiskFormat, FileStamp, LayerFile, LayerId};

    use super::*;

    fn layer(name: &str, inode: u64) -> Layer {
        Layer {
            file: LayerFile {
                id: LayerId::generate(),
                path: format!("/vm/{name}.qcow2").into(),
                format: DiskFormat::Qcow2,
            },
            disk: "system".parse().unwrap(),
            backing: None,
            identity: FileIdentity { device: 1, inode },
            virtual_size: 1 << 30,
            frozen: Some(stamp(10)),
            made: None,
        }
    }

    fn stamp(bytes: u64) -> FileStamp {
        FileStamp { bytes, modified: jiff::Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn each_way_in_which_a_file_can_be_wrong_is_told_apart() {
        let (base, top) = (layer("base", 1), layer("top", 2));
        let right = Seen {
            identity: top.identity,
            stamp: stamp(10),
            allocated: 10,
            backing: Some(base.file.path.clone()),
            backing_format: None,
        };
        let wrong = |change: &dyn Fn(&mut Seen)| {
            let mut seen = right.clone();
            change(&mut seen);
            wrongs(&top, &[&base], Ok(&seen))
        };
        assert_eq!(wrong(&|_| ()), []);
        assert_eq!(wrong(&|seen| seen.identity.device = 9), [], "the host was restarted");
        assert_eq!(wrong(&|seen| seen.identity.inode = 9), [Wrong::Replaced]);
        assert_eq!(wrong(&|seen| seen.stamp = stamp(11)), [Wrong::Rewritten]);
        assert_eq!(wrong(&|seen| seen.backing = Some(top.file.path.clone())), [Wrong::NamesItself]);
        for named in [None, Some("/vm/x.qcow2".into())] {
            let other = Wrong::NamesOther { named: named.clone(), expected: Some(base.file.path.clone()) };
            assert_eq!(wrong(&|seen| seen.backing.clone_from(&named)), [other]);
        }
        let missing = ImageError::Missing { path: top.file.path.clone() };
        assert_eq!(wrongs(&top, &[&base], Err(&missing)), [Wrong::Missing]);
        let middle = layer("middle", 3);
        assert_eq!(wrongs(&top, &[&middle, &base], Ok(&right)).len(), 1);
        let open = Layer { frozen: None, ..base.clone() };
        assert_eq!(wrongs(&top, &[&middle, &open], Ok(&right)), [], "a merge of ours was cut short");
        let head = Layer { frozen: None, ..top };
        assert_eq!(wrongs(&head, &[&base], Ok(&Seen { stamp: stamp(11), ..right })), [], "a head is written to");
    }
}
