//! Reads the stream from the pipe, and finds the pages in it.

use std::{io, os::fd::OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use stillpoint_engine::ports::FirstPage;

use super::{CaptureError, batch::Batch};
use crate::stream::{Devices, Event, MAX_DEVICES, MAX_PROLOGUE, Prologue, StreamError, StreamReader};

/// More than a prologue, and more than a pipe gives at once.
const BUFFER: usize = 2 * MAX_PROLOGUE;

/// The end of the pipe that we read from.
pub(super) struct Source {
    pipe: OwnedFd,
    stop: OwnedFd,
    first_page: FirstPage,
}

impl Source {
    pub(super) const fn new(pipe: OwnedFd, stop: OwnedFd, first_page: FirstPage) -> Self {
        Self { pipe, stop, first_page }
    }

    /// Waits for more of the stream. Nothing is the end of it.
    fn read(&self, into: &mut [u8]) -> Result<usize, CaptureError> {
        loop {
            let mut waiting = [PollFd::new(&self.pipe, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            let ready = poll(&mut waiting, None).map(|_| ());
            let stopped = !waiting[1].revents().is_empty();
            match ready.and_then(|()| if stopped { Ok(0) } else { rustix::io::read(&self.pipe, &mut *into) }) {
                Ok(_) if stopped => return Err(CaptureError::Stopped),
                Ok(length) => return Ok(length),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(CaptureError::Source(error.into())),
            }
        }
    }

    /// Reads on to the end, or until it is told to stop, and keeps nothing.
    pub(super) fn drain(&mut self) {
        let mut buffer = vec![0; 1 << 16];
        while self.read(&mut buffer).is_ok_and(|length| length > 0) {}
    }

    /// Reads the whole stream. `begun` is told the prologue, and `each` is given the pages.
    pub(super) fn ingest(
        &self,
        begun: impl FnOnce(&Prologue),
        mut each: impl FnMut(Batch) -> Result<(), CaptureError>,
    ) -> Result<(Prologue, Devices), CaptureError> {
        let (mut reader, mut begun, mut devices) = (StreamReader::new(), Some(begun), Vec::new());
        let mut first_page = Some(&self.first_page);
        let (mut buffer, mut filled, mut batch) = (vec![0; BUFFER], 0, Batch::new(0));
        loop {
            let length = self.read(&mut buffer[filled..])?;
            if length == 0 {
                break;
            }
            filled += length;
            let mut seen = 0;
            loop {
                let parsed = reader.read(&buffer[seen..filled])?;
                seen += parsed.consumed;
                match parsed.event {
                    None if parsed.consumed == 0 => break,
                    None => {}
                    Some(Event::Prologue) => {
                        if let (Some(begun), Some(prologue)) = (begun.take(), reader.prologue()) {
                            begun(prologue);
                        }
                    }
                    Some(Event::Page { block, page, content }) => {
                        if let Some(first_page) = first_page.take() {
                            first_page.tell();
                        }
                        batch.push(block, page, content);
                    }
                    Some(Event::Devices(piece)) => keep(&mut devices, piece)?,
                }
                if batch.is_full() {
                    let next = Batch::new(batch.number + 1);
                    each(std::mem::replace(&mut batch, next))?;
                }
            }
            buffer.copy_within(seen..filled, 0);
            filled -= seen;
        }
        if !batch.is_empty() {
            each(batch)?;
        }
        let prologue = reader.prologue().cloned().ok_or(StreamError::Cut)?;
        Ok((prologue, Devices::new(devices)?))
    }
}

/// The reader has the same limit; this is about memory.
fn keep(devices: &mut Vec<u8>, piece: &[u8]) -> Result<(), CaptureError> {
    if devices.len() + piece.len() > MAX_DEVICES {
        return Err(CaptureError::Source(io::Error::other("too many devices")));
    }
    devices.extend_from_slice(piece);
    Ok(())
}
