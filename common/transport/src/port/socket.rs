//! A unix socket that behaves like QEMU's character device and the guest's port together: for tests on one machine.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::Notify,
};

use super::Port;

/// Serves one connection at a time; the stream goes on from one to the next as if it were the same.
#[derive(Debug)]
pub struct SocketPort {
    listener: UnixListener,
    /// The host's present connection.
    host: Mutex<Option<Arc<UnixStream>>>,
    /// A connection has been accepted.
    came: Notify,
}

impl SocketPort {
    /// Listens on a socket of this name, which must not exist. Must be called inside a runtime.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self { listener: UnixListener::bind(path)?, host: Mutex::default(), came: Notify::new() })
    }

    fn host(&self) -> Option<Arc<UnixStream>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_host(&self, host: Option<UnixStream>) {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = host.map(Arc::new);
    }
}

impl Port for SocketPort {
    async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let Some(host) = self.host() else { return Ok(0) };
        loop {
            host.readable().await?;
            match host.try_read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(count) if count > 0 => return Ok(count),
                Ok(_) | Err(_) => {
                    self.set_host(None);
                    return Ok(0);
                }
            }
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if let Some(host) = self.host()
                && host.writable().await.is_ok()
            {
                match host.try_write(bytes) {
                    Ok(count) => return Ok(count),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(_) => {}
                }
            }
            self.came.notified().await;
        }
    }

    async fn host_changed(&self) {
        if let Ok((host, _)) = self.listener.accept().await {
            self.set_host(Some(host));
            self.came.notify_one();
        }
    }
}
