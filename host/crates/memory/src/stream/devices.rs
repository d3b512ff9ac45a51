//! Everything of a stream that comes after its pages.

use super::{MAX_DEVICES, StreamError, error::Limit, mark};

/// The device sections, the end mark and the description, byte by byte as QEMU wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    bytes: Vec<u8>,
    end: usize,
}

impl Devices {
    /// Takes what lies between the last page and the end of the stream.
    ///
    /// # Errors
    /// [`StreamError::Cut`] if it does not end as QEMU ends it: then QEMU did not come to the end.
    pub fn new(bytes: Vec<u8>) -> Result<Self, StreamError> {
        if bytes.len() > MAX_DEVICES {
            return Err(StreamError::TooMuch(Limit::Devices));
        }
        let is_end = |at: &usize| bytes.get(*at..).is_some_and(is_end);
        let end = if bytes.ends_with(b"}") { (0..bytes.len()).rev().find(is_end) } else { None };
        match end {
            Some(end) => Ok(Self { end, bytes }),
            None => Err(StreamError::Cut),
        }
    }

    /// All of it: what an eager load needs after the pages.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The device sections alone, without the end mark: what a lazy load is given.
    #[must_use]
    pub fn sections(&self) -> &[u8] {
        self.bytes.get(..self.end).unwrap_or_default()
    }
}

/// The end mark, the mark of a description, its length, and the description: JSON, up to the last byte.
fn is_end(bytes: &[u8]) -> bool {
    let [mark::END, mark::DESCRIPTION, a, b, c, d, description @ ..] = bytes else { return false };
    description.len() == u32::from_be_bytes([*a, *b, *c, *d]) as usize && description.starts_with(b"{")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_whole_only_with_their_end() {
        let whole = b"\x04sections\x00\x06\0\0\0\x0d{\"devices\":1}".to_vec();
        let devices = Devices::new(whole.clone()).unwrap();
        assert_eq!((devices.bytes(), devices.sections()), (&whole[..], &b"\x04sections"[..]));
        for cut in 0..whole.len() {
            assert_eq!(Devices::new(whole[..cut].to_vec()), Err(StreamError::Cut), "cut at {cut}");
        }
        assert_eq!(Devices::new([&whole[..], b"}"].concat()), Err(StreamError::Cut));
    }
}
