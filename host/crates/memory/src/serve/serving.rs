//! One connection to a QEMU: what goes out next, and what comes in.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use tokio::time::Instant;

use super::{
    Serve, ServeError, in_words,
    late::{Late, READ_FOR},
    opened,
    order::Order,
    told::Telling,
};
use crate::{
    state::SavedMemory,
    stream::{Devices, Prologue, StreamWriter, postcopy},
};

/// Pages that go at once when nobody waits for one: what comes before the answer to a request.
const BATCH: usize = 64;
/// Requests that are answered at once.
const ANSWERS: usize = 32;
/// While the others are held back: how often it is looked whether they are still to be.
const LOOK: Duration = Duration::from_millis(5);

pub(super) struct Serving<'a> {
    what: &'a Serve,
    state: &'a mut SavedMemory,
    prologue: &'a Prologue,
    writer: StreamWriter<'a>,
    answers: postcopy::AnswerReader<'a>,
    order: Order,
    late: Option<Late>,
    /// What is to go out, and how much of it has.
    out: Vec<u8>,
    gone: usize,
    /// What has come in and is not understood yet.
    heard: Vec<u8>,
    tail_is_out: bool,
}

impl<'a> Serving<'a> {
    pub(super) fn new(what: &'a Serve, state: &'a mut SavedMemory, prologue: &'a Prologue, devices: &Devices) -> Self {
        Self {
            what,
            state,
            prologue,
            writer: StreamWriter::new(prologue),
            answers: postcopy::AnswerReader::new(prologue),
            order: Order::new(&prologue.blocks),
            late: None,
            out: postcopy::head(prologue, devices),
            gone: 0,
            heard: Vec::new(),
            tail_is_out: false,
        }
    }

    /// Serves to the end.
    pub(super) fn run(&mut self, socket: &OwnedFd, telling: &mut Telling<'_>) -> Result<(), ServeError> {
        let pages = self.order.left();
        telling.far(0, pages);
        loop {
            let held = self.what.hold.as_ref().is_some_and(|hold| hold.exists());
            if self.out.is_empty() {
                self.fill(held)?;
            }
            let late = self.late.as_ref().map(|late| late.rest(Instant::now()));
            let within = if held { Some(LOOK) } else { late };
            let ready = wait(socket, !self.order.is_full(), !self.out.is_empty(), within)?;
            if ready.contains(PollFlags::IN) && self.hear(socket)? {
                return Ok(());
            }
            if ready.contains(PollFlags::OUT) {
                self.send(socket)?;
            } else if ready.intersects(PollFlags::HUP | PollFlags::ERR) && !ready.contains(PollFlags::IN) {
                return Err(ServeError::HungUp);
            }
            telling.far(pages - self.order.left(), pages);
        }
    }

    /// What goes next: what is late, or waited for, or some of the others, or the tail.
    fn fill(&mut self, held: bool) -> Result<(), ServeError> {
        if self.late.as_ref().is_some_and(|late| late.rest(Instant::now()) > Duration::ZERO) {
            return Ok(());
        }
        self.pages(ANSWERS, Order::next_wanted)?;
        if self.out.is_empty() && self.late.is_none() && !held {
            self.pages(BATCH, Order::next_other)?;
        }
        if self.out.is_empty() && self.late.is_none() && self.order.left() == 0 && !self.tail_is_out {
            self.out = postcopy::tail(self.prologue);
            self.tail_is_out = true;
        }
        Ok(())
    }

    /// A part of up to so many pages; nothing if there is none, or none can be read for now.
    fn pages(&mut self, most: usize, next: fn(&mut Order) -> Option<(usize, u64)>) -> Result<(), ServeError> {
        for _ in 0..most {
            let late = self.late.as_ref().map(|late| late.page);
            let Some(page) = late.or_else(|| next(&mut self.order)) else { break };
            if let Err(error) = self.page(page) {
                self.is_late(page, error)?;
                break;
            }
        }
        if !self.out.is_empty() {
            self.writer.end_part(&mut self.out);
        }
        Ok(())
    }

    /// Reads a page, and adds it to what goes next.
    fn page(&mut self, (block, page): (usize, u64)) -> Result<(), ServeError> {
        if self.late.as_ref().is_some_and(|late| late.is_stale) {
            *self.state = opened(self.what)?;
        }
        let content = self.state.page(block, page)?;
        if self.out.is_empty() {
            self.writer.begin_part(&mut self.out);
        }
        self.writer.page(&mut self.out, block, page, content);
        if self.late.take().is_some() {
            tracing::info!("the memory can be read again");
        }
        Ok(())
    }

    /// A page could not be read. It is tried again, or that was the last try.
    fn is_late(&mut self, page: (usize, u64), error: ServeError) -> Result<(), ServeError> {
        let why = in_words(&error);
        let ServeError::State(error) = error else { return Err(error) };
        let late = Late::after(self.late.as_ref(), page, error, Instant::now())?;
        if self.late.replace(late).is_none() {
            tracing::warn!(why, "a page of the memory cannot be read: it is tried again for up to {READ_FOR:?}");
        }
        Ok(())
    }

    fn send(&mut self, socket: &OwnedFd) -> Result<(), ServeError> {
        match send(socket, &self.out[self.gone..], SendFlags::NOSIGNAL) {
            Ok(sent) => self.gone += sent,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if self.gone == self.out.len() {
            self.out.clear();
            self.gone = 0;
        }
        Ok(())
    }

    /// Takes in what QEMU says. True if it has all.
    fn hear(&mut self, socket: &OwnedFd) -> Result<bool, ServeError> {
        let mut piece = [0; 4096];
        match recv(socket, &mut piece, RecvFlags::empty()) {
            Ok((0, _)) => return Err(ServeError::HungUp),
            Ok((heard, _)) => self.heard.extend(&piece[..heard]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut understood = 0;
        while let Some((length, answer)) = self.answers.read(&self.heard[understood..])? {
            understood += length;
            match answer {
                postcopy::Answer::Wanted { block, first, pages } => self.order.want(block, first, pages),
                postcopy::Answer::End(0) if self.tail_is_out => return Ok(true),
                postcopy::Answer::End(status) => return Err(ServeError::Refused(status)),
                postcopy::Answer::Nothing => {}
            }
        }
        self.heard.drain(..understood);
        Ok(false)
    }
}

/// Waits until QEMU can be heard or sent to; nothing if the time is over, if there is one.
fn wait(socket: &OwnedFd, hear: bool, speak: bool, within: Option<Duration>) -> Result<PollFlags, ServeError> {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, hear);
    flags.set(PollFlags::OUT, speak);
    let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), flags)];
    let within = within.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    match poll(&mut polled, within.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(polled[0].revents()),
        Err(error) => Err(error.into()),
    }
}
