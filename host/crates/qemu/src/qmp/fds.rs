//! Sends bytes and, with the first of them, a file descriptor.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::unix::OwnedWriteHalf,
};

/// Writes all of `bytes`; `fd` travels with the first part of them.
pub(super) async fn send(socket: &mut OwnedWriteHalf, bytes: &[u8], fd: Option<OwnedFd>) -> io::Result<()> {
    let Some(fd) = fd else { return socket.write_all(bytes).await };
    let stream = socket.as_ref();
    let sent = stream.async_io(Interest::WRITABLE, || Ok(send_some(stream, bytes, &fd)?)).await?;
    socket.write_all(&bytes[sent..]).await
}

fn send_some(socket: impl AsFd, bytes: &[u8], fd: &OwnedFd) -> rustix::io::Result<usize> {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}
