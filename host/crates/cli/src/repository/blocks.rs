//! The file of a disk in a backup: ranges of the disk, in order, with their bytes or without them if they are zeros.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `STILLBLK` |
//! | then 17 for each range, and its bytes | offset (8), length (8), 1: bytes follow, 0: they are zeros |
//!
//! Numbers are little endian. A full disk has no ranges of zeros.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read as _, Write as _},
    path::Path,
};

const MAGIC: &[u8; 8] = b"STILLBLK";
/// Bytes of a range, at most.
const LONGEST: u64 = 16 << 20;

/// A file of ranges that is being written.
#[derive(Debug)]
pub(crate) struct BlockWriter {
    file: BufWriter<File>,
    hash: blake3::Hasher,
    bytes: u64,
}

impl BlockWriter {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create_new(path)?);
        let mut writer = Self { file, hash: blake3::Hasher::new(), bytes: 0 };
        writer.put(MAGIC)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn head(&mut self, offset: u64, length: u64, data: u8) -> io::Result<()> {
        self.put(&offset.to_le_bytes())?;
        self.put(&length.to_le_bytes())?;
        self.put(&[data])
    }

    pub(crate) fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.head(offset, data.len() as u64, 1)?;
        self.put(data)
    }

    pub(crate) fn zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.head(offset, length, 0)
    }

    /// Durable on return; answers its size and its BLAKE3.
    pub(crate) fn finish(self) -> io::Result<(u64, String)> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok((self.bytes, self.hash.finalize().to_hex().to_string()))
    }
}

/// A range of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Block {
    Data(u64, Vec<u8>),
    Zeros(u64, u64),
}

/// Reads a file of ranges.
#[derive(Debug)]
pub(crate) struct BlockReader {
    file: BufReader<File>,
}

impl BlockReader {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let mut magic = [0; 8];
        file.read_exact(&mut magic)?;
        match magic == *MAGIC {
            true => Ok(Self { file }),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file of a backup")),
        }
    }

    /// The next range; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Block>> {
        let mut head = [0; 17];
        if self.file.read(&mut head[..1])? == 0 {
            return Ok(None);
        }
        self.file.read_exact(&mut head[1..])?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let (offset, length) = (number(&head[..8]), number(&head[8..16]));
        match head[16] {
            0 => Ok(Some(Block::Zeros(offset, length))),
            1 if length <= LONGEST => {
                let mut data = vec![0; usize::try_from(length).unwrap_or_default()];
                self.file.read_exact(&mut data)?;
                Ok(Some(Block::Data(offset, data)))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a range that cannot be")),
        }
    }
}

/// Size and BLAKE3 of a file, hexadecimal.
pub(crate) fn hash(path: &Path) -> io::Result<(u64, String)> {
    let mut hash = blake3::Hasher::new();
    let bytes = io::copy(&mut File::open(path)?, &mut hash)?;
    Ok((bytes, hash.finalize().to_hex().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_back_and_a_file_that_is_cut_off_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.blocks");
        let mut writer = BlockWriter::create(&path).unwrap();
        writer.data(65536, &[7; 1000]).unwrap();
        writer.zeros(1 << 40, 1 << 41).unwrap();
        let told = writer.finish().unwrap();
        assert_eq!(hash(&path).unwrap(), told);
        let mut reader = BlockReader::open(&path).unwrap();
        assert_eq!(reader.next().unwrap(), Some(Block::Data(65536, vec![7; 1000])));
        assert_eq!(reader.next().unwrap(), Some(Block::Zeros(1 << 40, 1 << 41)));
        assert_eq!(reader.next().unwrap(), None);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..500]).unwrap();
        assert!(BlockReader::open(&path).unwrap().next().is_err());
        assert_ne!(hash(&path).unwrap(), told);
    }
}
