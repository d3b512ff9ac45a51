//! Copying and hashing files, beside the async tasks.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use stillpoint_common::Progress;
use stillpoint_engine::ports::ProgressSink;

const CHUNK: usize = 1 << 20;

/// BLAKE3 of a file, hexadecimal, and its size. The file's bytes are on disk when it returns.
pub(crate) fn hash_and_sync(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    file.sync_all()?;
    hash(&mut file, |_| Ok(()))
}

/// BLAKE3 of what is left of a file, hexadecimal, and its size. `read` is told of the bytes of each piece, and can end it.
pub(crate) fn hash(file: &mut File, mut read: impl FnMut(u64) -> io::Result<()>) -> io::Result<(String, u64)> {
    let mut hasher = blake3::Hasher::new();
    let bytes = pump(file, |chunk| {
        hasher.update(chunk);
        read(chunk.len() as u64)
    })?;
    Ok((hasher.finalize().to_hex().to_string(), bytes))
}

/// Copies a stream into a new file and answers its BLAKE3, hexadecimal.
pub(crate) fn copy_hashed(mut source: File, to: &Path, total: u64, progress: &ProgressSink) -> io::Result<String> {
    let mut target = File::create(to)?;
    let (mut hasher, mut done) = (blake3::Hasher::new(), 0);
    pump(&mut source, |chunk| {
        hasher.update(chunk);
        done += chunk.len() as u64;
        // How much there will be may have been a guess.
        progress(Progress { done: done.min(total), total });
        target.write_all(chunk)
    })?;
    Ok(hasher.finalize().to_hex().to_string())
}

pub(crate) fn pump(source: &mut File, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
    let (mut buffer, mut bytes) = (vec![0; CHUNK], 0);
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok(bytes),
            n => {
                each(&buffer[..n])?;
                bytes += n as u64;
            }
        }
    }
}
