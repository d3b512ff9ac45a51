//! The guardian's own side: the process that waits.

use std::{
    fs,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags},
};

use super::message::{Answer, FDS_PER_PACKET, Order, PACKET};
use crate::freezer::kernel;

/// How often a file system is thawed again while the guardian releases.
const AGAIN: Duration = Duration::from_millis(100);

/// Guards until the agent is gone. Standard input is the socket to the agent.
///
/// # Errors
/// If standard input is no such socket, or the kernel has no timers.
pub fn run() -> Result<(), Errno> {
    // A signal to the agent's group is not for us, and memory is not what a thaw should lack. Both are best effort.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"stillpoint-gd");
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let socket = rustix::stdio::stdin();
    let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
    let mut watch = Watch { timer, guarded: Vec::new(), hurry: None, release: None };
    loop {
        match wait(socket, &watch.timer)? {
            Event::LeaseOver => watch.release(),
            Event::Order => match receive(socket, &mut watch.guarded)? {
                Some(order) => watch.obey(order, socket)?,
                None => break,
            },
        }
    }
    watch.agent_gone();
    Ok(())
}

enum Event {
    LeaseOver,
    Order,
}

fn wait(socket: BorrowedFd<'_>, timer: &OwnedFd) -> Result<Event, Errno> {
    let mut fds = [PollFd::new(timer, PollFlags::IN), PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    loop {
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(Event::LeaseOver),
            Ok(_) if !fds[1].revents().is_empty() => return Ok(Event::Order),
            Ok(_) => {}
        }
    }
}

/// The next order; descriptors beside it are added to `guarded`. None: the agent is gone.
fn receive(socket: BorrowedFd<'_>, guarded: &mut Vec<Arc<OwnedFd>>) -> Result<Option<Order>, Errno> {
    let mut packet = [0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_PACKET))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let count = loop {
        let slices = &mut [IoSliceMut::new(&mut packet)];
        match rustix::net::recvmsg(socket, slices, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error),
            Ok(message) => break message.bytes,
        }
    };
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            guarded.extend(fds.map(Arc::new));
        }
    }
    if count == 0 {
        return Ok(None);
    }
    Order::decode(&packet[..count]).map(Some).ok_or(Errno::PROTO)
}

struct Watch {
    timer: OwnedFd,
    guarded: Vec<Arc<OwnedFd>>,
    hurry: Option<bool>,
    release: Option<Release>,
}

impl Watch {
    fn obey(&mut self, order: Order, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        match order {
            Order::Guard => Ok(()),
            Order::Arm { seq, lease, hurry } => {
                self.hurry = hurry;
                self.set_timer(lease)?;
                answer(socket, Answer { seq, released: false })
            }
            Order::Disarm { seq } => {
                self.set_timer(Duration::ZERO)?;
                let released = self.release.take().is_some_and(Release::stop);
                self.guarded.clear();
                answer(socket, Answer { seq, released })
            }
        }
    }

    /// Zero stops it.
    fn set_timer(&self, after: Duration) -> Result<(), Errno> {
        let after = Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(after.subsec_nanos()),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: after };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).map(drop)
    }

    fn release(&mut self) {
        // The timer would stay readable.
        let _ = self.set_timer(Duration::ZERO);
        if self.release.is_none() {
            self.release = Some(Release::begin(&self.guarded));
            if let Some(before) = self.hurry {
                kernel::set_hurry(before);
            }
        }
    }

    /// A process whose socket is closed has no thread left in the kernel, so no freeze of it is under way any more:
    /// one last thaw of each is enough. More would disturb the next agent.
    fn agent_gone(&mut self) {
        if !self.guarded.is_empty() {
            self.release.take().map(Release::stop);
            self.release();
            self.release.take().map(Release::stop);
        }
    }
}

fn answer(socket: BorrowedFd<'_>, answer: Answer) -> Result<(), Errno> {
    match rustix::net::send(socket, &answer.encode(), SendFlags::NOSIGNAL) {
        // The agent has gone meanwhile: the next receive says so.
        Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Thawing, over and over.
struct Release {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Release {
    /// Begins with what was frozen last. Without threads to be had, one round is made right here.
    fn begin(guarded: &[Arc<OwnedFd>]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::with_capacity(guarded.len());
        for fd in guarded.iter().rev() {
            let (fd_of_thread, stop) = (Arc::clone(fd), Arc::clone(&stop));
            let thread = std::thread::Builder::new().stack_size(64 * 1024);
            match thread.spawn(move || thaw_until(&fd_of_thread, &stop)) {
                Ok(thread) => threads.push(thread),
                Err(_) => let_go(fd),
            }
        }
        Self { stop, threads }
    }

    /// Ends it, after one thaw of each at least; true, as something was released. Waits for thaws that are under way: a late one would thaw the next
    /// hold.
    fn stop(self) -> bool {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.thread().unpark();
            let _ = thread.join();
        }
        true
    }
}

/// Whatever the descriptor is of: a file system, or the switch of a cgroup.
fn let_go(fd: &OwnedFd) {
    const CGROUPS: u32 = 0x6367_7270;
    let kind = rustix::fs::fstatfs(fd).map(|facts| u32::try_from(facts.f_type).unwrap_or_default());
    // What cannot be let go now is tried again; there is nobody who could be told.
    let _ = match kind {
        Ok(CGROUPS) => rustix::io::pwrite(fd, b"0", 0).map(drop),
        Ok(_) | Err(_) => kernel::thaw(fd).map(drop),
    };
}

fn thaw_until(fd: &OwnedFd, stop: &AtomicBool) {
    loop {
        let_go(fd);
        if stop.load(Ordering::Acquire) {
            return;
        }
        std::thread::park_timeout(AGAIN);
    }
}
