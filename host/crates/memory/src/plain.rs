//! Memory states that an older version kept: the stream, as QEMU wrote it.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
};

const HEAD: [u8; 8] = *b"QEVM\0\0\0\x03";

/// The file begins as a stream does. It is at its beginning again afterwards.
pub(crate) fn has_head(file: &mut File) -> io::Result<bool> {
    let mut head = Vec::new();
    file.rewind()?;
    file.take(HEAD.len() as u64).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(head == HEAD)
}
