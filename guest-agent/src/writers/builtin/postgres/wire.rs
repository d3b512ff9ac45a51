//! As much of PostgreSQL's protocol (version 3.0) as the writer needs: simple queries over a unix socket, for a user whom
//! the server knows by peer credentials. Written here because it is a page of code and the agent is linked statically.

use std::{io, path::Path};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

use crate::writers::builtin::servers;

const PROTOCOL: i32 = 3 << 16;
/// A longer message is not one of those that our questions are answered with.
const MAX_MESSAGE: usize = 1 << 20;
/// More rows than this are not kept.
const MAX_ROWS: usize = 1000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection could not be made, or ended.
    #[error("PostgreSQL cannot be reached: {0}")]
    Lost(#[from] io::Error),
    /// The server wants more than peer credentials.
    #[error("PostgreSQL wants a password of `{0}`: let `peer` admit it in pg_hba.conf (local all {0} peer)")]
    Password(String),
    /// The server says no.
    #[error("PostgreSQL says: {message} ({code})")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// For a person.
        message: String,
    },
    /// It is not PostgreSQL, or one that we do not understand.
    #[error("what listens there does not speak as PostgreSQL does: {0}")]
    Strange(&'static str),
}

impl WireError {
    /// It may work next time: the server is down, starting, out of connections, or was asked to stop.
    pub(super) fn is_temporary(&self) -> bool {
        const CLASSES: [&str; 5] = ["08", "40", "53", "55", "57"];
        match self {
            Self::Lost(_) => true,
            Self::Refused { code, .. } => CLASSES.iter().any(|class| code.starts_with(class)),
            Self::Password(_) | Self::Strange(_) => false,
        }
    }
}

/// Values of one row, as text.
pub(super) type Row = Vec<Option<String>>;

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Connection<S = UnixStream> {
    stream: BufReader<S>,
}

impl Connection {
    /// Connects as this user. Dropping the future leaves nothing behind.
    pub(super) async fn open(socket: &Path, user: &str) -> Result<Self, WireError> {
        Self::begin(servers::connect(socket).await?, user).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn begin(stream: S, user: &str) -> Result<Self, WireError> {
        let mut connection = Self { stream: BufReader::new(stream) };
        // No limit of the user's own ends what we ask: each question has one of ours.
        let said = ["user", user, "database", "postgres", "application_name", "stillpoint", "statement_timeout", "0"];
        let mut body = PROTOCOL.to_be_bytes().to_vec();
        for word in said {
            put_text(&mut body, word);
        }
        body.push(0);
        connection.send(None, &body).await?;
        loop {
            match connection.receive().await? {
                Message::Authentication(0) | Message::Other => {}
                Message::Authentication(_) => return Err(WireError::Password(user.to_owned())),
                Message::Ready => return Ok(connection),
                Message::Error { code, message } => return Err(WireError::Refused { code, message }),
                Message::Row(_) => return Err(WireError::Strange("a row before the first question")),
            }
        }
    }

    /// Asks, and answers all rows. After a failure that is not `Refused`, and when the future was dropped, the connection
    /// is of no more use.
    pub(super) async fn query(&mut self, question: &str) -> Result<Vec<Row>, WireError> {
        let mut body = Vec::new();
        put_text(&mut body, question);
        self.send(Some(b'Q'), &body).await?;
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            match self.receive().await? {
                Message::Row(row) if rows.len() < MAX_ROWS => rows.push(row),
                Message::Row(_) | Message::Other => {}
                Message::Error { code, message } => refused = Some(WireError::Refused { code, message }),
                Message::Ready => return refused.map_or(Ok(rows), Err),
                Message::Authentication(_) => return Err(WireError::Strange("a question about who we are")),
            }
        }
    }

    /// The first row, which has to be there.
    pub(super) async fn row(&mut self, question: &str) -> Result<Row, WireError> {
        self.query(question).await?.into_iter().next().ok_or(WireError::Strange("no row where there is always one"))
    }

    async fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<(), WireError> {
        let length = i32::try_from(body.len() + 4).map_err(io::Error::other)?;
        let mut message: Vec<u8> = kind.into_iter().chain(length.to_be_bytes()).collect();
        message.extend_from_slice(body);
        self.stream.write_all(&message).await.map_err(WireError::Lost)
    }

    async fn receive(&mut self) -> Result<Message, WireError> {
        let kind = self.stream.read_u8().await?;
        let length = usize::try_from(self.stream.read_i32().await?).ok().and_then(|length| length.checked_sub(4));
        let length = length.filter(|length| *length <= MAX_MESSAGE).ok_or(WireError::Strange("a message too long"))?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        understood(kind, &body).ok_or(WireError::Strange("a message cut short"))
    }
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    Authentication(i32),
    Row(Row),
    Error {
        code: String,
        message: String,
    },
    Ready,
    /// Settings, notices, ends of statements: nothing that we wait for.
    Other,
}

fn understood(kind: u8, mut body: &[u8]) -> Option<Message> {
    let body = &mut body;
    Some(match kind {
        b'R' => Message::Authentication(i32::from_be_bytes(take(body)?)),
        b'D' => {
            let columns = u16::from_be_bytes(take(body)?);
            Message::Row((0..columns).map(|_| value(body)).collect::<Option<_>>()?)
        }
        b'E' => {
            let (mut code, mut message) = (String::new(), String::new());
            for field in body.split(|byte| *byte == 0) {
                match field.split_first() {
                    Some((b'C', text)) => code = String::from_utf8_lossy(text).into_owned(),
                    Some((b'M', text)) => message = String::from_utf8_lossy(text).into_owned(),
                    Some(_) | None => {}
                }
            }
            Message::Error { code, message }
        }
        b'Z' => Message::Ready,
        _ => Message::Other,
    })
}

fn take<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = body.split_first_chunk::<N>()?;
    *body = rest;
    Some(*first)
}

fn value(body: &mut &[u8]) -> Option<Option<String>> {
    match i32::from_be_bytes(take(body)?) {
        -1 => Some(None),
        length => {
            let (text, rest) = body.split_at_checked(usize::try_from(length).ok()?)?;
            *body = rest;
            Some(Some(String::from_utf8_lossy(text).into_owned()))
        }
    }
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    body.extend(text.bytes().filter(|byte| *byte != 0));
    body.push(0);
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((body.len() as i32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// A server that says this, whatever it is asked.
    async fn server(says: &[Vec<u8>]) -> DuplexStream {
        let (ours, mut theirs) = duplex(1 << 16);
        theirs.write_all(&says.concat()).await.unwrap();
        tokio::spawn(async move { while theirs.read_u8().await.is_ok() {} });
        ours
    }

    fn welcome() -> Vec<u8> {
        [message(b'R', &[0; 4]), message(b'S', b"a\0b\0"), message(b'Z', b"I")].concat()
    }

    #[tokio::test]
    async fn rows_are_read_and_a_refusal_leaves_the_connection_as_it_was() {
        let row = [&[0, 2][..], &3_i32.to_be_bytes(), b"0/1", &(-1_i32).to_be_bytes()].concat();
        let error = message(b'E', b"SERROR\0C42501\0Mmust be superuser\0\0");
        let ready = message(b'Z', b"I");
        let says = [welcome(), error, ready.clone(), message(b'T', &[]), message(b'D', &row), ready];
        let mut connection = Connection::begin(server(&says).await, "postgres").await.unwrap();
        let refused = connection.query("CHECKPOINT").await.unwrap_err();
        assert_eq!(refused.to_string(), "PostgreSQL says: must be superuser (42501)");
        assert!(!refused.is_temporary());
        assert_eq!(connection.row("SELECT").await.unwrap(), [Some("0/1".to_owned()), None]);
    }

    #[tokio::test]
    async fn a_server_that_wants_a_password_is_told_how_to_want_none() {
        let error = Connection::begin(server(&[message(b'R', &10_i32.to_be_bytes())]).await, "pg").await.unwrap_err();
        assert!(error.to_string().contains("local all pg peer"), "{error}");
        let starting = message(b'E', b"C57P03\0Mthe database system is starting up\0\0");
        assert!(Connection::begin(server(&[starting]).await, "pg").await.unwrap_err().is_temporary());
    }

    #[tokio::test]
    async fn what_is_not_postgresql_is_not_believed() {
        for says in [b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), message(b'R', &[0])] {
            let error = Connection::begin(server(&[says]).await, "pg").await.unwrap_err();
            assert!(matches!(error, WireError::Strange(_)), "{error}");
        }
        let short = [&[0, 9][..], &3_i32.to_be_bytes(), b"0/1"].concat();
        assert_eq!(understood(b'D', &short), None);
    }
}
