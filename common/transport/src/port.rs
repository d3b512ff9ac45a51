//! Ports: the byte pipes under the record layer, as the agent sees them.

use std::{future::Future, io, path::PathBuf};

mod socket;
mod virtio;

pub use socket::SocketPort;
pub use virtio::VirtioPort;

/// A byte pipe whose other end comes and goes without our being told reliably.
pub trait Port: Send + Sync + 'static {
    /// Reads what is there, waiting for the first byte. `Ok(0)`: the host is away, perhaps only for a moment.
    ///
    /// A dropped future has read nothing. Only one reader at a time.
    fn read(&self, into: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;

    /// Writes some of `bytes`, waiting for the host to take them.
    ///
    /// A dropped future has written nothing. Only one writer at a time.
    fn write(&self, bytes: &[u8]) -> impl Future<Output = io::Result<usize>> + Send;

    /// Waits until something has changed since the last read: a host may be there, or bytes.
    fn host_changed(&self) -> impl Future<Output = ()> + Send;
}

/// Finds the device of the virtio-serial port of this name, without the help of udev.
///
/// # Errors
/// `NotFound` if the guest has no such port, or what the kernel said.
pub fn find_virtio_port(name: &str) -> io::Result<PathBuf> {
    for entry in std::fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let named = std::fs::read_to_string(entry.path().join("name"));
        if named.is_ok_and(|found| found.trim_end() == name) {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no virtio port {name}")))
}
