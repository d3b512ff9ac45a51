//! Whether a file holds a whole migration stream, as far as its two ends tell.
//!
//! It begins with a magic number and version 3. It ends with the end mark (a zero byte), a description mark, the length
//! of the description, and the description: JSON, up to the very last byte. QEMU writes that end after the devices, and
//! those after all memory, so a file with a good end is one that QEMU came to the end of.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

const HEAD: [u8; 8] = *b"QEVM\0\0\0\x03";
const DESCRIPTION: u8 = 6;
/// Far longer than the description of any machine.
const TAIL: u64 = 8 << 20;

/// `Err` says what is wrong with it, in words that follow «the memory state is».
pub(crate) fn is_whole(file: &mut File) -> io::Result<Result<(), &'static str>> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(Err("empty"));
    }
    if !has_head(file)? {
        return Ok(Err("no stream of QEMU"));
    }
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(if has_end(&tail) { Ok(()) } else { Err("not whole: its end is missing") })
}

/// The file begins as a stream does.
pub(crate) fn has_head(file: &mut File) -> io::Result<bool> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(HEAD.len() as u64).read_to_end(&mut head)?;
    Ok(head == HEAD)
}

fn has_end(tail: &[u8]) -> bool {
    let is_end = |bytes: &[u8]| -> bool {
        let [0, DESCRIPTION, a, b, c, d, description @ ..] = bytes else { return false };
        description.len() == u32::from_be_bytes([*a, *b, *c, *d]) as usize && description.starts_with(b"{")
    };
    tail.ends_with(b"}") && (0..tail.len()).rev().any(|at| is_end(&tail[at..]))
}

/// A stream that is whole, for tests.
#[cfg(test)]
pub(crate) fn example(pages: usize) -> Vec<u8> {
    let mut stream = HEAD.to_vec();
    stream.extend(std::iter::repeat_n(0x06, pages * 4096));
    stream.extend([0, DESCRIPTION, 0, 0, 0, 13]);
    stream.extend(br#"{"devices":1}"#);
    stream
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn verdict(bytes: &[u8]) -> Result<(), &'static str> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        is_whole(&mut file).unwrap()
    }

    #[test]
    fn a_stream_is_whole_only_with_both_its_ends() {
        let whole = example(3);
        assert_eq!(verdict(&whole), Ok(()));
        assert_eq!(verdict(&example(3000)), Ok(()));
        assert_eq!(verdict(b""), Err("empty"));
        assert_eq!(verdict(b"QEVM"), Err("no stream of QEMU"));
        assert_eq!(verdict(&whole[1..]), Err("no stream of QEMU"));
        for cut in 8..whole.len() {
            assert!(verdict(&whole[..cut]).is_err(), "cut at {cut}");
        }
        assert!(verdict(&[&whole[..], b"}"].concat()).is_err());
    }
}
