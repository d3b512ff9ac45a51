//! Writes a cpio archive in the "newc" format, which the Linux kernel unpacks as its first root. Written here
//! because it is a page of code, gives the same bytes for the same input, and needs no package.

use std::io::{self, Write};

const FOLDER: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const PROGRAM: u32 = 0o100_755;

/// An archive under construction; entries appear in the order in which they were added.
pub(super) struct Archive<W> {
    out: W,
    entries: u32,
    written: usize,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, entries: 0, written: 0 }
    }

    /// A folder; the folders above it must have been added before.
    pub(super) fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, FOLDER, &[])
    }

    /// A file that may be read and run by everyone.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.entry(name, PROGRAM, content)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, name: &str, to: &str) -> io::Result<()> {
        self.entry(name, LINK, to.as_bytes())
    }

    /// Closes the archive and gives back what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let number = if mode == 0 { 0 } else { self.entries + 1 };
        self.entries += 1;
        // number, mode, user, group, links, time, size, device (2), special device (2), name's size, checksum
        let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let header: String = fields.iter().map(|field| format!("{field:08X}")).collect();
        self.put(format!("070701{header}{name}\0").as_bytes())?;
        self.put(content)
    }

    /// Everything is padded to four bytes, counted from the archive's start.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let padding = (4 - (self.written + bytes.len()) % 4) % 4;
        self.written += bytes.len() + padding;
        self.out.write_all(bytes)?;
        self.out.write_all(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn headers_and_contents_start_at_multiples_of_four() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("a").unwrap();
        archive.file("a/b", b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let headers: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(headers, [0, 112, 112 + 116 + 8]);
        assert!(text[112 + 116..].starts_with("hello\x00\x00\x00070701"));
    }
}
