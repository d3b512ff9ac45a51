//! Whether images may be merged. Pure.

use std::path::{Path, PathBuf};

use stillpoint_common::{Failure, FileIdentity, LayerFile, Reason};

/// An image of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) file: LayerFile,
    pub(super) identity: FileIdentity,
    /// Size of the disk as a guest sees it.
    pub(super) size: u64,
}

/// An image in one of the folders, that lies on another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) path: PathBuf,
    pub(super) identity: FileIdentity,
    /// The file it lies on.
    pub(super) on: FileIdentity,
}

/// How far down the chain this file is.
pub(super) fn position(chain: &[Image], target: FileIdentity, into: &Path) -> Result<usize, Failure> {
    match chain.iter().position(|image| image.identity == target) {
        Some(0) => Err(Failure::field("into", format!("{} is the image that is to be merged", into.display()))),
        Some(at) => Ok(at),
        None => {
            let names: Vec<String> = chain.iter().map(|image| image.file.path.display().to_string()).collect();
            let (child, lies_on) = names.split_first().map(|(child, rest)| (child.as_str(), rest)).unwrap_or_default();
            let lies_on = if lies_on.is_empty() { "no other image".to_owned() } else { lies_on.join(", ") };
            Err(Failure::field(
                "into",
                format!("{} is not in the chain of {child}, which lies on {lies_on}", into.display()),
            ))
        }
    }
}

/// A merge makes an image larger where it must, never smaller: one that is larger than what lies on it would keep data
/// beyond the end of the merged disk.
pub(super) fn sizes(layers: &[Image]) -> Result<(), Failure> {
    let larger = layers.windows(2).find(|pair| pair[1].size > pair[0].size);
    match larger {
        None => Ok(()),
        Some(pair) => {
            let (child, parent) = (&pair[0], &pair[1]);
            let message = format!(
                "{} is a disk of {} bytes and lies on {}, of {} bytes: give them the same size with `qemu-img resize`",
                child.file.path.display(),
                child.size,
                parent.file.path.display(),
                parent.size
            );
            Err(Failure::new(Reason::DiskFileUnusable, message))
        }
    }
}

/// Nothing else lies on any of these images: it would read what was never its own.
pub(super) fn alone(layers: &[Image], neighbours: &[Neighbour]) -> Result<(), Failure> {
    for (at, image) in layers.iter().enumerate() {
        let above = at.checked_sub(1).map(|above| layers[above].identity);
        let other = neighbours.iter().find(|it| it.on == image.identity && Some(it.identity) != above);
        if let Some(other) = other {
            let message =
                format!("{} lies on {} and would be damaged", other.path.display(), image.file.path.display());
            return Err(Failure::new(Reason::DiskIsBacking, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stillpoint_common::{DiskFormat, LayerId};

    use super::*;

    fn image(inode: u64, size: u64) -> Image {
        let file = LayerFile { id: LayerId::generate(), path: format!("/i/{inode}").into(), format: DiskFormat::Qcow2 };
        Image { file, identity: FileIdentity { device: 1, inode }, size }
    }

    #[test]
    fn an_image_is_merged_into_one_of_its_own_chain() {
        let chain = [image(1, 9), image(2, 9), image(3, 9)];
        let at = |inode| position(&chain, FileIdentity { device: 1, inode }, Path::new("/i/x"));
        assert_eq!((at(2), at(3)), (Ok(1), Ok(2)));
        assert!(at(1).unwrap_err().message.contains("is the image that is to be merged"));
        let stranger = at(4).unwrap_err();
        assert_eq!(stranger.field.as_deref(), Some("into"));
        assert!(stranger.message.contains("not in the chain of /i/1, which lies on /i/2, /i/3"), "{stranger}");
    }

    #[test]
    fn a_larger_image_below_and_a_stranger_on_any_of_them_are_refused() {
        assert_eq!(sizes(&[image(1, 9), image(2, 9), image(3, 8)]), Ok(()));
        assert!(sizes(&[image(1, 9), image(2, 10)]).unwrap_err().message.contains("10 bytes"));
        let chain = [image(1, 9), image(2, 9), image(3, 9)];
        let lies = |own, on| {
            let identity = |inode| FileIdentity { device: 1, inode };
            Neighbour { path: format!("/i/{own}").into(), identity: identity(own), on: identity(on) }
        };
        assert_eq!(alone(&chain, &[lies(1, 2), lies(2, 3), lies(7, 8)]), Ok(()));
        for on in [1, 2, 3] {
            let refused = alone(&chain, &[lies(1, 2), lies(2, 3), lies(9, on)]).unwrap_err();
            assert_eq!(refused.reason, Reason::DiskIsBacking);
            assert!(refused.message.contains(&format!("/i/9 lies on /i/{on}")), "{refused}");
        }
    }
}
