//! Serves the pages of a state to a QEMU whose VM runs before they are all there.
//!
//! ```text
//! head ─▶ (QEMU loads the devices; its VM can run) ─▶ pages: those asked for first, then all others ─▶ tail ─▶ «all in»
//! ```
//! Every page is checked before it goes. One that is not what was written never does: the connection is closed, and QEMU
//! waits for it for ever; whoever looks after QEMU ends it.
//!
//! State and packs stay open from before the first page to after the last; whatever must keep its pages from becoming
//! holes is not here.

mod order;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio},
    net::{RecvFlags, SendFlags, recv, send},
};
use stillpoint_engine::served::{Served, ServedEnd};
use tokio::time::Instant;

use self::order::Order;
use crate::{
    state::{SavedMemory, StateError},
    stream::{Prologue, StreamError, StreamWriter, postcopy},
};

/// Pages that go at once when nobody waits for one: what comes before the answer to a request.
const BATCH: usize = 64;
/// Requests that are answered at once.
const ANSWERS: usize = 32;
/// How often it is told how far it is.
const TELL: Duration = Duration::from_millis(100);
/// How long QEMU may neither read nor ask for anything. One that stands still is one that nobody waits for.
const PATIENCE: Duration = Duration::from_secs(600);
/// While the others are held back: how often it is looked whether they are still to be.
const LOOK: Duration = Duration::from_millis(5);

/// What is served, and where it is told how far it is.
#[derive(Debug, Clone)]
pub struct Serve {
    /// The state's manifest.
    pub memory: PathBuf,
    /// The hash of that file, hexadecimal.
    pub blake3: String,
    /// The folder in which it is told.
    pub folder: PathBuf,
    /// While this file is there, only pages that are asked for go. For tests.
    pub hold: Option<PathBuf>,
}

/// Why pages are not served to the end.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{0} is not the memory state that was meant")]
    Another(PathBuf),
    #[error("what QEMU asks for is not understood: {0}")]
    Asked(#[from] StreamError),
    #[error("QEMU has not taken it in: it says {0}")]
    Refused(u32),
    #[error("QEMU has neither read nor asked for anything for {PATIENCE:?}")]
    Still,
    #[error("QEMU has hung up")]
    HungUp,
    #[error("the connection to QEMU has failed: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for ServeError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::PIPE | Errno::CONNRESET => Self::HungUp,
            other => Self::Io(other.into()),
        }
    }
}

/// Serves to the end, and tells in the folder how that went. Blocks for as long as it takes.
///
/// # Errors
/// If it cannot be told.
pub fn serve(what: &Serve, socket: &OwnedFd) -> io::Result<ServedEnd> {
    let mut told = Served::default();
    let end = match served(what, socket, &mut told) {
        Ok(()) => ServedEnd::Whole,
        Err(ServeError::HungUp) => ServedEnd::HungUp,
        Err(error) => ServedEnd::Failed(error.to_string()),
    };
    told.end = Some(end.clone());
    told.tell(&what.folder)?;
    Ok(end)
}

fn served(what: &Serve, socket: &OwnedFd, told: &mut Served) -> Result<(), ServeError> {
    let mut state = opened(&what.memory, &what.blake3)?;
    let (prologue, devices) = (state.prologue().clone(), state.devices()?);
    let order = Order::new(&prologue.blocks);
    (told.sent, told.pages) = (0, order.left());
    // A full file system is no reason to let a guest wait: how far it is, is told again.
    let _ = told.tell(&what.folder);
    ioctl_fionbio(socket, true)?;
    let out = postcopy::head(&prologue, &devices);
    let mut serving = Serving {
        state: &mut state,
        prologue: &prologue,
        writer: StreamWriter::new(&prologue),
        answers: postcopy::AnswerReader::new(&prologue),
        order,
        out,
        gone: 0,
        heard: Vec::new(),
        tail_is_out: false,
    };
    serving.run(what, socket, told)
}

/// The state that is meant, with all of its packs open.
fn opened(path: &Path, blake3: &str) -> Result<SavedMemory, ServeError> {
    let another = || ServeError::Another(path.to_owned());
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    if hasher.finalize().to_hex().as_str() != blake3 {
        return Err(another());
    }
    let mut state = SavedMemory::open(path)?.ok_or_else(another)?;
    state.open_packs()?;
    Ok(state)
}

struct Serving<'a> {
    state: &'a mut SavedMemory,
    prologue: &'a Prologue,
    writer: StreamWriter<'a>,
    answers: postcopy::AnswerReader<'a>,
    order: Order,
    /// What is to go out, and how much of it has.
    out: Vec<u8>,
    gone: usize,
    /// What has come in and is not understood yet.
    heard: Vec<u8>,
    tail_is_out: bool,
}

impl Serving<'_> {
    fn run(&mut self, what: &Serve, socket: &OwnedFd, told: &mut Served) -> Result<(), ServeError> {
        let (mut moved, mut last) = (Instant::now(), Instant::now());
        loop {
            let held = what.hold.as_ref().is_some_and(|hold| hold.exists());
            if self.out.is_empty() {
                self.fill(held)?;
            }
            let ready = wait(socket, !self.order.is_full(), !self.out.is_empty(), if held { LOOK } else { PATIENCE })?;
            if ready.contains(PollFlags::IN) && self.hear(socket)? {
                return Ok(());
            }
            if ready.contains(PollFlags::OUT) {
                self.send(socket)?;
            } else if ready.intersects(PollFlags::HUP | PollFlags::ERR) && !ready.contains(PollFlags::IN) {
                return Err(ServeError::HungUp);
            }
            match ready.is_empty() {
                false => moved = Instant::now(),
                true if moved.elapsed() >= PATIENCE => return Err(ServeError::Still),
                true => {}
            }
            if last.elapsed() >= TELL {
                last = Instant::now();
                told.sent = told.pages - self.order.left();
                let _ = told.tell(&what.folder);
            }
        }
    }

    /// What goes next: what is waited for, or some of the others, or the tail.
    fn fill(&mut self, held: bool) -> Result<(), ServeError> {
        self.pages(ANSWERS, Order::next_wanted)?;
        if self.out.is_empty() && !held {
            self.pages(BATCH, Order::next_other)?;
        }
        if self.out.is_empty() && self.order.left() == 0 && !self.tail_is_out {
            self.out = postcopy::tail(self.prologue);
            self.tail_is_out = true;
        }
        Ok(())
    }

    /// A part of up to so many pages; nothing if there is none.
    fn pages(&mut self, most: usize, next: fn(&mut Order) -> Option<(usize, u64)>) -> Result<(), ServeError> {
        for number in 0..most {
            let Some((block, page)) = next(&mut self.order) else { break };
            if number == 0 {
                self.writer.begin_part(&mut self.out);
            }
            let content = self.state.page(block, page)?;
            self.writer.page(&mut self.out, block, page, content);
        }
        if !self.out.is_empty() {
            self.writer.end_part(&mut self.out);
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

/// Waits until QEMU can be heard or sent to; nothing if the time is over.
fn wait(socket: &OwnedFd, hear: bool, speak: bool, within: Duration) -> Result<PollFlags, ServeError> {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, hear);
    flags.set(PollFlags::OUT, speak);
    let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), flags)];
    let within = Timespec::try_from(within).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&within)) {
        Ok(_) | Err(Errno::INTR) => Ok(polled[0].revents()),
        Err(error) => Err(error.into()),
    }
}
