//! As much of the protocol of MariaDB (handshake version 10, text results) as the writer needs: statements over a unix
//! socket, for a user whom the server knows by peer credentials. Written here because it is a page of code and the agent
//! is linked statically.

use std::{io, path::Path};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

use crate::writers::builtin::servers;

/// A longer packet is not one of those that our statements are answered with.
const MAX_PACKET: usize = 1 << 20;
/// More rows than this are not kept.
const MAX_ROWS: usize = 1000;
/// Long passwords, long flags, protocol 4.1, transactions, secure connection, named plugins.
const CAPABILITIES: u32 = 0x1 | 0x4 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
const UTF8MB4: u8 = 45;
const STATEMENT: u8 = 3;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection could not be made, or ended.
    #[error("MariaDB cannot be reached: {0}")]
    Lost(#[from] io::Error),
    /// The server does not take us for that user.
    #[error(
        "MariaDB does not admit `{user}` by peer credentials ({message}): ALTER USER {user}@localhost IDENTIFIED VIA \
         unix_socket, or name another user in mariadb.user"
    )]
    NotAdmitted {
        /// As whom.
        user: String,
        /// What it says.
        message: String,
    },
    /// The server says no.
    #[error("MariaDB says: {message} ({code})")]
    Refused {
        /// Its number of the error.
        code: u16,
        /// For a person.
        message: String,
    },
    /// It is not MariaDB, or one that we do not understand.
    #[error("what listens there does not speak as MariaDB does: {0}")]
    Strange(&'static str),
}

impl WireError {
    /// It may work next time: the server is down or stops, has no connection left, or others held what we wanted.
    pub(super) fn is_temporary(&self) -> bool {
        const TOO_MANY: u16 = 1040;
        const STOPS: u16 = 1053;
        const WAITED: u16 = 1205;
        const DEADLOCK: u16 = 1213;
        match self {
            Self::Lost(_) => true,
            Self::Refused { code, .. } => [TOO_MANY, STOPS, WAITED, DEADLOCK].contains(code),
            Self::NotAdmitted { .. } | Self::Strange(_) => false,
        }
    }
}

/// Values of one row, as text.
pub(super) type Row = Vec<Option<String>>;

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Connection<S = UnixStream> {
    stream: BufReader<S>,
    /// As the server says it.
    version: String,
}

impl Connection {
    /// Connects as this user: root as the agent itself, another as the user whom the socket belongs to. Dropping the future
    /// leaves nothing behind.
    pub(super) async fn open(socket: &Path, user: &str) -> Result<Self, WireError> {
        let stream = match user {
            "root" => UnixStream::connect(socket).await?,
            _ => servers::connect(socket).await?,
        };
        Self::begin(stream, user).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn begin(stream: S, user: &str) -> Result<Self, WireError> {
        let mut connection = Self { stream: BufReader::new(stream), version: String::new() };
        let (turn, greeting) = connection.receive().await?;
        if let Some((code, message)) = refusal(&greeting) {
            return Err(WireError::Refused { code, message });
        }
        connection.version = version_of(&greeting).ok_or(WireError::Strange("no greeting"))?;
        let mut body = CAPABILITIES.to_le_bytes().to_vec();
        body.extend(u32::try_from(MAX_PACKET).unwrap_or(u32::MAX).to_le_bytes());
        body.push(UTF8MB4);
        body.extend([0; 23]);
        body.extend(user.bytes().filter(|byte| *byte != 0));
        // No password, and the plugin that would take one.
        body.extend(b"\0\0mysql_native_password\0");
        connection.send(turn.wrapping_add(1), &body).await?;
        let (_, answer) = connection.receive().await?;
        let not_admitted = |message: String| WireError::NotAdmitted { user: user.to_owned(), message };
        match answer.first() {
            Some(0) => Ok(connection),
            Some(0xfe) => Err(not_admitted("it asks for a password".to_owned())),
            Some(0xff) => match refusal(&answer) {
                Some((1045 | 1698, message)) => Err(not_admitted(message)),
                Some((code, message)) => Err(WireError::Refused { code, message }),
                None => Err(WireError::Strange("a refusal cut short")),
            },
            Some(_) | None => Err(WireError::Strange("no word on whether we are admitted")),
        }
    }

    /// What the server calls its version.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Asks, and answers all rows. After a failure that is not `Refused`, and when the future was dropped, the connection
    /// is of no more use.
    pub(super) async fn query(&mut self, statement: &str) -> Result<Vec<Row>, WireError> {
        let body: Vec<u8> = std::iter::once(STATEMENT).chain(statement.bytes()).collect();
        self.send(0, &body).await?;
        let (_, first) = self.receive().await?;
        match first.first() {
            Some(0) => return Ok(Vec::new()),
            Some(0xff) => return Err(refused(&first)),
            Some(0xfb) | None => return Err(WireError::Strange("a wish for a file")),
            Some(_) => {}
        }
        while !is_end(&self.receive().await?.1) {}
        let mut rows = Vec::new();
        loop {
            let (_, packet) = self.receive().await?;
            match packet.first() {
                Some(0xff) => return Err(refused(&packet)),
                _ if is_end(&packet) => return Ok(rows),
                _ if rows.len() < MAX_ROWS => rows.push(row(&packet).ok_or(WireError::Strange("a row cut short"))?),
                _ => {}
            }
        }
    }

    /// The first row, which has to be there.
    pub(super) async fn row(&mut self, statement: &str) -> Result<Row, WireError> {
        self.query(statement).await?.into_iter().next().ok_or(WireError::Strange("no row where there is always one"))
    }

    async fn send(&mut self, turn: u8, body: &[u8]) -> Result<(), WireError> {
        let length = u32::try_from(body.len()).ok().filter(|length| *length < 0xff_ffff);
        let [a, b, c, _] = length.ok_or(WireError::Strange("a statement too long"))?.to_le_bytes();
        let packet = [&[a, b, c, turn], body].concat();
        self.stream.write_all(&packet).await.map_err(WireError::Lost)
    }

    /// A packet, and whose turn it was.
    async fn receive(&mut self) -> Result<(u8, Vec<u8>), WireError> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).await?;
        let [a, b, c, turn] = head;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, 0])).ok().filter(|length| *length <= MAX_PACKET);
        let mut body = vec![0; length.ok_or(WireError::Strange("a packet too long"))?];
        self.stream.read_exact(&mut body).await?;
        Ok((turn, body))
    }
}

/// Of a greeting. Servers put a version before theirs that old replicas understand.
fn version_of(greeting: &[u8]) -> Option<String> {
    let text = greeting.strip_prefix(&[10])?.split(|byte| *byte == 0).next()?;
    let text = String::from_utf8_lossy(text).into_owned();
    Some(text.strip_prefix("5.5.5-").map(str::to_owned).unwrap_or(text))
}

fn refusal(packet: &[u8]) -> Option<(u16, String)> {
    let (code, text) = packet.strip_prefix(&[0xff])?.split_first_chunk()?;
    // SQLSTATE, once the protocol is agreed on.
    let text = text.strip_prefix(b"#").and_then(|text| text.get(5..)).unwrap_or(text);
    Some((u16::from_le_bytes(*code), String::from_utf8_lossy(text).into_owned()))
}

fn refused(packet: &[u8]) -> WireError {
    match refusal(packet) {
        Some((code, message)) => WireError::Refused { code, message },
        None => WireError::Strange("a refusal cut short"),
    }
}

fn is_end(packet: &[u8]) -> bool {
    packet.first() == Some(&0xfe) && packet.len() < 9
}

fn row(mut packet: &[u8]) -> Option<Row> {
    let mut row = Row::new();
    while !packet.is_empty() {
        row.push(value(&mut packet)?);
    }
    Some(row)
}

fn value(packet: &mut &[u8]) -> Option<Option<String>> {
    let (first, rest) = packet.split_first()?;
    *packet = rest;
    let length = match first {
        0xfb => return Some(None),
        0xfc => u64::from(u16::from_le_bytes(take(packet)?)),
        0xfd => {
            let [a, b, c] = take(packet)?;
            u64::from(u32::from_le_bytes([a, b, c, 0]))
        }
        0xfe => u64::from_le_bytes(take(packet)?),
        short => u64::from(*short),
    };
    let (text, rest) = packet.split_at_checked(usize::try_from(length).ok()?)?;
    *packet = rest;
    Some(Some(String::from_utf8_lossy(text).into_owned()))
}

fn take<const N: usize>(packet: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = packet.split_first_chunk::<N>()?;
    *packet = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const GREETING: &[u8] = b"\x0a5.5.5-10.11.6-MariaDB\0\x01\0\0\0salt";
    const FINE: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
    const END: &[u8] = &[0xfe, 0, 0, 2, 0];

    /// A server that says this, whatever it is asked.
    async fn server(says: &[&[u8]]) -> DuplexStream {
        let (ours, mut theirs) = duplex(1 << 16);
        for (turn, body) in says.iter().enumerate() {
            let [a, b, c, _] = (body.len() as u32).to_le_bytes();
            theirs.write_all(&[&[a, b, c, turn as u8], *body].concat()).await.unwrap();
        }
        tokio::spawn(async move { while theirs.read_u8().await.is_ok() {} });
        ours
    }

    #[tokio::test]
    async fn rows_are_read_and_a_refusal_leaves_the_connection_as_it_was() {
        let no = b"\xff\x28\x04#42000near 'x'";
        let says = [GREETING, FINE, no, &[2], b"\x03def", b"\x03def", END, b"\x02ab\xfb", END, FINE];
        let mut connection = Connection::begin(server(&says).await, "root").await.unwrap();
        assert_eq!(connection.version(), "10.11.6-MariaDB");
        let refused = connection.query("x").await.unwrap_err();
        assert_eq!(refused.to_string(), "MariaDB says: near 'x' (1064)");
        assert!(!refused.is_temporary());
        assert_eq!(connection.row("SELECT").await.unwrap(), [Some("ab".to_owned()), None]);
        assert_eq!(connection.query("SET x").await.unwrap(), Vec::<Row>::new());
    }

    #[tokio::test]
    async fn a_server_that_does_not_know_us_is_named_with_what_helps() {
        for says in [&b"\xff\x15\x04#28000Access denied"[..], b"\xfemysql_native_password\0salt"] {
            let error = Connection::begin(server(&[GREETING, says]).await, "backup").await.unwrap_err();
            assert!(error.to_string().contains("ALTER USER backup@localhost IDENTIFIED VIA unix_socket"), "{error}");
            assert!(!error.is_temporary());
        }
        let full = Connection::begin(server(&[b"\xff\x10\x04Too many connections"]).await, "root").await.unwrap_err();
        assert!(full.is_temporary(), "{full}");
    }

    #[tokio::test]
    async fn what_is_not_mariadb_is_not_believed() {
        for says in [&b"HTTP/1.1 400 Bad Request"[..], b""] {
            let error = Connection::begin(server(&[says]).await, "root").await.unwrap_err();
            assert!(matches!(error, WireError::Strange(_)), "{error}");
        }
        let (ours, mut theirs) = duplex(64);
        theirs.write_all(b"+OK hello\r\n").await.unwrap();
        drop(theirs);
        let error = Connection::begin(ours, "root").await.unwrap_err();
        assert!(matches!(error, WireError::Strange(_)), "{error}");
    }

    proptest! {
        #[test]
        fn whatever_a_packet_holds_it_is_read_or_refused(packet in vec(any::<u8>(), 0..64)) {
            let _ = (row(&packet), refusal(&packet), version_of(&packet));
        }
    }
}
