//! What the head of a qcow2 file says, read without opening anything it names.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use stillpoint_common::DiskFormat;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// QEMU's own limit for the name of a backing file.
const NAME_LIMIT: u32 = 1023;
/// The data is in another file, which the header names.
const EXTERNAL_DATA: u64 = 1 << 2;

/// The extension that says which format the backing file has.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Length of the head before version 3.
const OLD_HEAD: usize = 72;
/// Extensions further behind are not looked for.
const EXTENSIONS: u64 = 4096;

/// The head of a qcow2 file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The backing file, as it is written there.
    pub(super) backing: Option<PathBuf>,
    /// The format that the backing file has, as it is written there.
    pub(super) backing_format: Option<DiskFormat>,
    /// The data is in another file.
    pub(super) external_data: bool,
}

impl Header {
    /// `None` if the file is no qcow2 image, or one whose head makes no sense.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut file = File::open(path)?;
        let mut head = Vec::new();
        file.by_ref().take(80).read_to_end(&mut head)?;
        let number = |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let long = |at: usize| Some(u64::from(number(at)?) << 32 | u64::from(number(at + 4)?));
        let (Some(version), Some(offset), Some(length)) = (number(4), long(8), number(16)) else { return Ok(None) };
        if head[..4] != MAGIC || length > NAME_LIMIT {
            return Ok(None);
        }
        let external_data = version >= 3 && long(72).is_some_and(|features| features & EXTERNAL_DATA != 0);
        if offset == 0 || length == 0 {
            return Ok(Some(Self { backing: None, backing_format: None, external_data }));
        }
        let mut name = vec![0; length as usize];
        if file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut name)).is_err() {
            return Ok(None);
        }
        let backing = Some(std::ffi::OsString::from_vec(name).into());
        let backing_format = extension(&mut file, version, BACKING_FORMAT)?.as_deref().and_then(format_called);
        Ok(Some(Self { backing, backing_format, external_data }))
    }
}

/// The content of one of the extensions behind the head; `None` if it is not there, or makes no sense.
fn extension(file: &mut File, version: u32, wanted: u32) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(EXTENSIONS).read_to_end(&mut head)?;
    let number = |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let mut at = match version {
        ..=2 => OLD_HEAD,
        3.. => number(100).and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX - 8),
    };
    while let (Some(kind), Some(length)) = (number(at), at.checked_add(4).and_then(number)) {
        let Ok(length) = usize::try_from(length) else { break };
        let Some(end) = (at + 8).checked_add(length) else { break };
        match kind {
            0 => break,
            kind if kind == wanted => return Ok(head.get(at + 8..end).map(<[u8]>::to_vec)),
            _ => at = end.next_multiple_of(8),
        }
    }
    Ok(None)
}

fn format_called(name: &[u8]) -> Option<DiskFormat> {
    [DiskFormat::Raw, DiskFormat::Qcow2, DiskFormat::Vhdx, DiskFormat::Vpc]
        .into_iter()
        .find(|format| format.driver().as_bytes() == name)
}

/// The file that a layer in this folder means by a backing name.
pub(super) fn resolve(folder: &Path, name: &Path) -> PathBuf {
    folder.join(name.strip_prefix(".").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sound_head_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Header::read(&path).unwrap()
        };
        assert_eq!(read(b""), None);
        assert_eq!(read(&[0; 512]), None);
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(&MAGIC);
        head[7] = 3;
        let bare = Header { backing: None, backing_format: None, external_data: false };
        assert_eq!(read(&head), Some(bare.clone()));
        head[79] = 4;
        assert_eq!(read(&head), Some(Header { external_data: true, ..bare }));
        (head[14], head[19]) = (1, 9);
        head[256..265].copy_from_slice(b"base.qcow");
        assert_eq!(read(&head).unwrap().backing, Some("base.qcow".into()));
        assert_eq!(read(&head).unwrap().backing_format, None, "it is not said");
        head[103] = 112;
        head[112..120].copy_from_slice(&[0xaa, 0, 0, 1, 0, 0, 0, 3]);
        head[128..136].copy_from_slice(&[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 5]);
        head[136..141].copy_from_slice(b"qcow2");
        assert_eq!(read(&head).unwrap().backing_format, Some(DiskFormat::Qcow2));
        head[132] = 0xff;
        assert_eq!(read(&head).unwrap().backing_format, None, "an extension beyond the end");
        head[18] = 0xff;
        assert_eq!(read(&head), None, "a name that is too long");
        (head[18], head[8]) = (0, 0x7f);
        assert_eq!(read(&head), None, "a name beyond the end");
    }

    #[test]
    fn a_backing_name_is_taken_from_the_layers_folder() {
        assert_eq!(resolve(Path::new("/vm"), Path::new("./nbd:x")), Path::new("/vm/nbd:x"));
        assert_eq!(resolve(Path::new("/vm"), Path::new("/other/x")), Path::new("/other/x"));
    }
}
