//! Bytes to messages. Whatever the peer sends, nothing here panics, waits for ever or grows without bound.

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest line taken from a peer. QEMU's longest answer, its schema, has some 300 KiB.
pub(super) const LINE_LIMIT: usize = 16 << 20;
/// Room for what is read at once; most answers are shorter, and a VM may stand still until they are read.
const ROOM: usize = 16 << 10;

/// Something QEMU tells without being asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name: `SHUTDOWN`.
    pub name: String,
    /// What comes with it; `Null` if nothing does.
    pub data: Value,
}

/// One line from QEMU.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    Greeting,
    Reply {
        id: String,
        outcome: Result<Value, String>,
    },
    Event(Event),
    /// Nothing we know what to do with; passed over.
    Stray,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    id: Option<Value>,
    #[serde(default, rename = "return", deserialize_with = "present")]
    answer: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    desc: String,
}

/// A member that is there with the value `null` is there all the same.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

pub(super) fn parse(line: &[u8]) -> Message {
    let Ok(line) = serde_json::from_slice::<Line>(line) else { return Message::Stray };
    match line {
        Line { greeting: Some(_), .. } => Message::Greeting,
        Line { event: Some(name), data, .. } => Message::Event(Event { name, data }),
        Line { id: Some(Value::String(id)), error: Some(refusal), .. } => {
            Message::Reply { id, outcome: Err(refusal.desc) }
        }
        Line { id: Some(Value::String(id)), answer: Some(answer), .. } => Message::Reply { id, outcome: Ok(answer) },
        Line { .. } => Message::Stray,
    }
}

/// Cuts a byte stream into lines.
pub(super) struct Lines<R> {
    peer: R,
    buffer: Vec<u8>,
    /// Up to here there is no line end in the buffer.
    searched: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(peer: R) -> Self {
        Self { peer, buffer: Vec::new(), searched: 0 }
    }

    /// The next line, without its end. `None` when the peer has hung up, failed, or sent an endless line; half a line
    /// before that is dropped. A dropped future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                return Some(line);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_LIMIT {
                tracing::warn!(limit = LINE_LIMIT, "QMP peer sent an endless line");
                return None;
            }
            self.buffer.reserve(ROOM);
            match self.peer.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_is_told_apart() {
        assert_eq!(parse(br#"{"QMP": {"version": {}, "capabilities": []}}"#), Message::Greeting);
        assert_eq!(
            parse(br#"{"timestamp": {"seconds": 1}, "event": "STOP", "new": 1}"#),
            Message::Event(Event { name: "STOP".into(), data: Value::Null })
        );
        assert_eq!(
            parse(br#"{"return": null, "id": "a-1"}"#),
            Message::Reply { id: "a-1".into(), outcome: Ok(Value::Null) }
        );
        assert_eq!(
            parse(br#"{"id": "a-1", "error": {"class": "New", "desc": "no"}}"#),
            Message::Reply { id: "a-1".into(), outcome: Err("no".into()) }
        );
    }

    #[test]
    fn garbage_is_passed_over() {
        let deep = format!("{{\"return\":{}", "[".repeat(100_000));
        let lines: [&[u8]; 9] = [
            b"",
            b"\n",
            b"{",
            b"null",
            b"[1]",
            b"\xff\xfe\x00",
            br#"{"id": 7, "return": {}}"#,
            br#"{"event": {"not": "text"}}"#,
            deep.as_bytes(),
        ];
        for line in lines {
            assert_eq!(parse(line), Message::Stray, "{:?}", String::from_utf8_lossy(&line[..line.len().min(40)]));
        }
    }

    #[tokio::test]
    async fn lines_come_out_whole_however_they_come_in() {
        let peer = tokio_test_reader(vec![b"one\ntw".to_vec(), b"o".to_vec(), b"\n\nhalf".to_vec()]);
        let mut lines = Lines::new(peer);
        assert_eq!(lines.next().await.as_deref(), Some(&b"one\n"[..]));
        assert_eq!(lines.next().await.as_deref(), Some(&b"two\n"[..]));
        assert_eq!(lines.next().await.as_deref(), Some(&b"\n"[..]));
        assert_eq!(lines.next().await, None);
    }

    #[tokio::test]
    async fn an_endless_line_ends_the_connection() {
        let mut lines = Lines::new(tokio::io::repeat(b'x'));
        assert_eq!(lines.next().await, None);
        assert!(lines.buffer.len() <= 2 * LINE_LIMIT);
    }

    fn tokio_test_reader(parts: Vec<Vec<u8>>) -> impl AsyncRead + Unpin {
        let (mut ours, theirs) = tokio::io::duplex(4);
        tokio::spawn(async move {
            for part in parts {
                tokio::io::AsyncWriteExt::write_all(&mut ours, &part).await.unwrap();
            }
        });
        theirs
    }
}
