//! As much of the protocol of Redis and Valkey (RESP 2) as the writer needs: one question, one answer. Written here because
//! it is a page of code and the agent is linked statically.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::writers::builtin::{
    config::Listeners,
    servers::{self, LOCAL, Place},
};

/// A longer answer is not one to our questions.
const MAX_ANSWER: usize = 1 << 20;
/// As many items has no answer to our questions.
const MAX_ITEMS: usize = 64;
/// The longest line: errors are quoted in one.
const MAX_LINE: u64 = 4096;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection could not be made, or ended.
    #[error("Redis cannot be reached: {0}")]
    Lost(#[from] io::Error),
    /// The server says no.
    #[error("Redis says: {0}")]
    Refused(String),
    /// It is not Redis.
    #[error("what listens there does not speak as Redis does")]
    Strange,
    /// The password cannot be had.
    #[error("redis.password-file: {0}")]
    Password(String),
}

impl WireError {
    /// It may work next time: the server is down, loads its data, or is busy.
    pub(super) fn is_temporary(&self) -> bool {
        const WORDS: [&str; 4] = ["LOADING", "BUSY", "ERR Background", "ERR max number"];
        match self {
            Self::Lost(_) => true,
            Self::Refused(message) => WORDS.iter().any(|word| message.starts_with(word)),
            Self::Strange | Self::Password(_) => false,
        }
    }

    /// There is no server.
    pub(super) fn is_nobody(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::Lost(error) if matches!(error.kind(), ConnectionRefused | NotFound))
    }
}

/// What bytes go over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to a server.
pub(super) struct Connection {
    stream: BufReader<Box<dyn Stream>>,
}

impl Connection {
    /// Connects, as the user that is set. Dropping the future leaves nothing behind.
    pub(super) async fn open(place: &Place, settings: &Listeners) -> Result<Self, WireError> {
        let stream: Box<dyn Stream> = match place {
            Place::Socket(path) => Box::new(servers::connect(path).await?),
            Place::Port(port) => Box::new(TcpStream::connect((LOCAL, *port)).await?),
        };
        let mut connection = Self { stream: BufReader::new(stream) };
        if let Some(file) = &settings.password_file {
            let password = password(file).map_err(WireError::Password)?;
            let words: Vec<&str> = ["AUTH"].into_iter().chain(settings.user.as_deref()).chain([&*password]).collect();
            connection.ask(&words).await?;
        }
        Ok(connection)
    }

    /// Asks, and answers the strings of the answer, one after the other. After a failure that is not `Refused`, and when
    /// the future was dropped, the connection is of no more use.
    pub(super) async fn ask(&mut self, words: &[&str]) -> Result<Vec<String>, WireError> {
        let mut question = format!("*{}\r\n", words.len());
        for word in words {
            question.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.write_all(question.as_bytes()).await?;
        let (kind, rest) = self.line().await?;
        if kind != b'*' {
            return Ok(vec![self.text(kind, rest).await?]);
        }
        let items: usize = rest.parse().ok().filter(|items| *items <= MAX_ITEMS).ok_or(WireError::Strange)?;
        let mut found = Vec::with_capacity(items);
        for _ in 0..items {
            let (kind, rest) = self.line().await?;
            found.push(self.text(kind, rest).await?);
        }
        Ok(found)
    }

    async fn text(&mut self, kind: u8, rest: String) -> Result<String, WireError> {
        match kind {
            b'+' | b':' => Ok(rest),
            b'-' => Err(WireError::Refused(rest)),
            b'$' if rest == "-1" => Ok(String::new()),
            b'$' => {
                let length = rest.parse().ok().filter(|length| *length <= MAX_ANSWER);
                let length: usize = length.ok_or(WireError::Strange)?;
                let mut text = vec![0; length + 2];
                self.stream.read_exact(&mut text).await?;
                text.truncate(length);
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
            _ => Err(WireError::Strange),
        }
    }

    /// A line, in its first byte and the rest.
    async fn line(&mut self) -> Result<(u8, String), WireError> {
        let mut line = Vec::new();
        (&mut self.stream).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(WireError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        let line = line.strip_suffix(b"\r\n").ok_or(WireError::Strange)?;
        let (kind, rest) = line.split_first().ok_or(WireError::Strange)?;
        Ok((*kind, String::from_utf8_lossy(rest).into_owned()))
    }
}

/// The first line of the file, which nobody but its owner and group may read.
fn password(file: &Path) -> Result<String, String> {
    const OTHERS: u32 = 0o007;
    let problem = |error: io::Error| format!("{}: {error}", file.display());
    if std::fs::metadata(file).map_err(problem)?.mode() & OTHERS != 0 {
        return Err(format!("{} is open to everybody: chmod o= {0}", file.display()));
    }
    let text = std::fs::read_to_string(file).map_err(problem)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    async fn answered(says: &[u8]) -> Result<Vec<String>, WireError> {
        let (ours, mut theirs) = duplex(1 << 16);
        theirs.write_all(says).await.unwrap();
        let mut connection = Connection { stream: BufReader::new(Box::new(ours)) };
        let answer = connection.ask(&["CONFIG", "GET", "dir"]).await;
        let mut asked = vec![0; 34];
        theirs.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked, b"*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$3\r\ndir\r\n");
        answer
    }

    #[tokio::test]
    async fn answers_of_every_form_are_read() {
        assert_eq!(answered(b"+OK\r\n").await.unwrap(), ["OK"]);
        assert_eq!(answered(b":12\r\n").await.unwrap(), ["12"]);
        assert_eq!(answered(b"*2\r\n$3\r\ndir\r\n$4\r\n/a\nb\r\n").await.unwrap(), ["dir", "/a\nb"]);
        assert_eq!(answered(b"$-1\r\n").await.unwrap(), [""]);
        assert!(answered(b"*0\r\n").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_refusal_is_quoted_and_what_is_not_redis_is_not_believed() {
        let refused = answered(b"-NOAUTH Authentication required.\r\n").await.unwrap_err();
        assert_eq!(refused.to_string(), "Redis says: NOAUTH Authentication required.");
        assert!(!refused.is_temporary());
        assert!(answered(b"-LOADING dataset\r\n").await.unwrap_err().is_temporary());
        for says in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"$99999999\r\n", b"*-1\r\n", b"*65\r\n", b"$5\n", b"\r\n"] {
            assert!(matches!(answered(says).await, Err(WireError::Strange)), "{says:?}");
        }
    }

    #[test]
    fn a_password_is_the_first_line_of_a_file_that_is_not_for_everybody() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\nmore\n").unwrap();
        let mode = |mode| std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o640);
        assert_eq!(password(file.path()).unwrap(), "secret");
        mode(0o644);
        assert!(password(file.path()).unwrap_err().contains("open to everybody"));
        assert!(password("/no/such/file".as_ref()).unwrap_err().contains("/no/such/file"));
    }
}
