//! A virtio-serial port of the guest.
//!
//! The runtime's own readiness of the port must not be used: once it has seen a hang-up it keeps both directions closed
//! for ever, and after the host's return a read spins between "ready" and "would block". So the port is put into an
//! epoll of its own, edge-triggered, and the runtime watches that: an epoll never hangs up.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fs::{Mode, OFlags},
    io::Errno,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
    task::JoinSet,
};

use super::Port;

/// A virtio-serial port. It stays open until this is dropped.
#[derive(Debug)]
pub struct VirtioPort {
    fd: OwnedFd,
    edges: Arc<Edges>,
    _watcher: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Edges {
    reader: Notify,
    writer: Notify,
}

impl VirtioPort {
    /// Opens a port. It has one opener at a time. Must be called inside a runtime.
    ///
    /// # Errors
    /// What the kernel said; `ResourceBusy` if another process has it open.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &fd, EventData::new_u64(0), EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
        let epoll = register(epoll)?;
        let edges = Arc::new(Edges::default());
        let mut watcher = JoinSet::new();
        watcher.spawn(watch(epoll, Arc::clone(&edges)));
        Ok(Self { fd, edges, _watcher: watcher })
    }
}

#[expect(unsafe_code, reason = "the runtime asks for a promise about the descriptor")]
fn register(epoll: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and stays the same descriptor for as long as the `AsyncFd` owns it; nothing takes it
    // out again.
    unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }.map_err(|error| error.into_parts().1)
}

/// Turns edges of the port into wake-ups of whoever reads and writes. A wake-up that nobody waits for is kept.
async fn watch(epoll: AsyncFd<OwnedFd>, edges: Arc<Edges>) {
    while let Ok(mut ready) = epoll.readable().await {
        let mut events = Vec::with_capacity(1);
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let found = epoll::wait(epoll.get_ref().as_fd(), rustix::buffer::spare_capacity(&mut events), Some(&none));
        match found {
            Ok(0) | Err(_) => ready.clear_ready(),
            Ok(_) => {
                edges.reader.notify_one();
                edges.writer.notify_one();
            }
        }
    }
}

impl Port for VirtioPort {
    async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.fd, &mut *into) {
                Err(Errno::AGAIN) => self.edges.reader.notified().await,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(count) => return Ok(count),
            }
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.fd, bytes) {
                Err(Errno::AGAIN) => self.edges.writer.notified().await,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(count) => return Ok(count),
            }
        }
    }

    async fn host_changed(&self) {
        self.edges.reader.notified().await;
    }
}
