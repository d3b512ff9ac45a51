//! Cuts what a host sends into requests.
//!
//! A request is one JSON object; what stands between two is white space. The byte 0xFF, which no JSON has, says: whatever
//! came before is not for you any more, begin anew. What is no request is told once, and passed over up to the next line
//! or the next 0xFF: an endless one costs no memory.

/// The longest request.
pub(super) const LONGEST: usize = 64 * 1024;
/// The deepest.
const DEEPEST: u32 = 32;

/// A piece of what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Begins and ends as an object does; what is between is not looked at yet.
    Request(Vec<u8>),
    /// Neither begins with an object, or is nested too deeply.
    Garbage,
    /// Longer than any request.
    TooLong,
}

/// What has come of a request that has not ended yet.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    begun: Vec<u8>,
    depth: u32,
    quoted: bool,
    escaped: bool,
    passing_over: bool,
}

impl Splitter {
    /// Takes what was sent, and answers what is whole now.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Piece> {
        bytes.iter().filter_map(|byte| self.take(*byte)).collect()
    }

    fn take(&mut self, byte: u8) -> Option<Piece> {
        if byte == 0xFF {
            *self = Self::default();
            return None;
        }
        if self.passing_over {
            self.passing_over = byte != b'\n';
            return None;
        }
        match (self.begun.is_empty(), byte) {
            (true, b' ' | b'\t' | b'\r' | b'\n') => return None,
            (true, b'{') | (false, _) => self.begun.push(byte),
            (true, _) => return Some(self.pass_over(Piece::Garbage)),
        }
        if self.begun.len() > LONGEST {
            return Some(self.pass_over(Piece::TooLong));
        }
        if self.quoted {
            self.quoted = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return None;
        }
        match byte {
            b'"' => self.quoted = true,
            b'{' | b'[' if self.depth == DEEPEST => return Some(self.pass_over(Piece::Garbage)),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Some(Piece::Request(std::mem::take(&mut self.begun)));
                }
            }
            _ => {}
        }
        None
    }

    fn pass_over(&mut self, piece: Piece) -> Piece {
        *self = Self { passing_over: true, ..Self::default() };
        piece
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(text: &str) -> Piece {
        Piece::Request(text.as_bytes().to_vec())
    }

    #[test]
    fn requests_are_cut_out_however_they_come() {
        let text = "{\"execute\":\"a\"}\n {\"x\":{\"y\":[\"}\\\"\",1]}}{}";
        let wanted = [request("{\"execute\":\"a\"}"), request("{\"x\":{\"y\":[\"}\\\"\",1]}}"), request("{}")];
        assert_eq!(Splitter::default().feed(text.as_bytes()), wanted);
        let mut slow = Splitter::default();
        let pieces: Vec<_> = text.bytes().flat_map(|byte| slow.feed(&[byte])).collect();
        assert_eq!(pieces, wanted);
    }

    #[test]
    fn what_is_no_request_is_told_once_and_passed_over() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.feed(b"noise {}\n{}"), [Piece::Garbage, request("{}")]);
        assert_eq!(splitter.feed(b"{\"half\": \"\xFF{}"), [request("{}")]);
        let nested = splitter.feed("{\"a\":".repeat(100).as_bytes());
        assert_eq!(nested, [Piece::Garbage]);
        assert_eq!(splitter.feed(b"\xFF{}"), [request("{}")]);
        assert_eq!(splitter.feed(b"{\""), []);
        let told: Vec<_> = (0..100).flat_map(|_| splitter.feed(&[b'x'; 4096])).collect();
        assert_eq!(told, [Piece::TooLong]);
        assert!(splitter.begun.capacity() <= 2 * LONGEST);
        assert_eq!(splitter.feed(b"}\n{}"), [request("{}")]);
    }

    proptest! {
        #[test]
        fn whatever_came_before_a_request_after_0xff_is_heard(noise: Vec<u8>) {
            let mut splitter = Splitter::default();
            splitter.feed(&noise);
            prop_assert_eq!(splitter.feed(b"\xFF{}"), [request("{}")]);
        }
    }
}
