//! The byte streams between host and guest.
//!
//! A virtio-serial port is a pipe without connections: neither end learns reliably that the other one went away or
//! came back, and bytes of a dead peer may still be under way. The record layer in [`record`] makes sessions out of
//! it. The host begins each one ([`dial`]); the agent accepts them ([`AgentLink`]); a session is a stream that HTTP/2
//! can run on.
//!
//! ```text
//!   host                                            agent
//!   dial() ── sled of NOPs, HELLO(nonce) ─────────▶ drops the old session, opens a new one
//!          ◀───────────────────────── ACK(nonce) ── everything before it is thrown away by the host
//!          ◀────────────── DATA ────────────────▶
//!          ◀─────────────────────── RESET(nonce) ── the agent restarted or gave the session up
//! ```

mod accept;
mod dial;
mod port;
pub mod record;

pub use accept::{AgentLink, Session};
pub use dial::{DialError, dial};
pub use port::{Port, SocketPort, VirtioPort, find_virtio_port};

/// A session's byte stream. Dropping it ends the session.
pub type SessionStream = tokio::io::Join<tokio::io::DuplexStream, tokio::io::DuplexStream>;

/// Bytes a session holds in memory in each direction, at most.
const PIPE_BYTES: usize = 128 * 1024;

/// A pair of streams: what one end writes, the other reads, and each sees the end of the other.
fn pipes() -> (SessionStream, (tokio::io::DuplexStream, tokio::io::DuplexStream)) {
    let (to_user, user_reads) = tokio::io::duplex(PIPE_BYTES);
    let (user_writes, from_user) = tokio::io::duplex(PIPE_BYTES);
    (tokio::io::join(user_reads, user_writes), (to_user, from_user))
}
