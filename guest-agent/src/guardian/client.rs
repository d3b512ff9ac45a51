//! The agent's end of the socket to the guardian.

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::{
    SUBCOMMAND,
    message::{Answer, FDS_PER_PACKET, Order, PACKET},
};

/// How long the guardian may take for an answer. It has nothing else to do; one that is still releasing takes longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a freeze must not begin.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    /// The process could not be started.
    #[error("the guardian cannot be started")]
    Start(#[source] std::io::Error),
    /// It does not answer.
    #[error("the guardian does not answer")]
    Silent(#[source] Errno),
    /// It is still busy with an earlier hold: a late thaw of that one would thaw the new one.
    #[error("the guardian is still releasing an earlier hold")]
    Releasing,
}

/// The guardian, as the agent knows it. Dropping it lets go of everything that is guarded, and ends the process.
#[derive(Debug)]
pub struct Guardian {
    program: PathBuf,
    process: Option<(Child, OwnedFd)>,
    seq: u32,
    /// An answer to a Disarm is still to come.
    owed: bool,
}

impl Guardian {
    /// Starts the guardian. Call it before there are threads.
    ///
    /// # Errors
    /// If there is no process to be had.
    pub fn start(program: &Path) -> Result<Self, GuardianError> {
        let mut guardian = Self { program: program.to_owned(), process: None, seq: 0, owed: false };
        guardian.respawn()?;
        Ok(guardian)
    }

    /// Guards these mounts from now on, until [`Self::disarm`] or the end of the lease.
    ///
    /// `hurry` is what the kernel's hurry is given back to if the guardian has to release.
    ///
    /// # Errors
    /// If the guardian does not confirm: then nothing must be frozen. A dead guardian has been replaced before.
    pub fn arm(
        &mut self,
        mounts: &[BorrowedFd<'_>],
        lease: Duration,
        hurry: Option<bool>,
    ) -> Result<(), GuardianError> {
        if self.owed
            && let Err(GuardianError::Releasing) = self.settle()
        {
            return Err(GuardianError::Releasing);
        }
        match self.try_arm(mounts, lease, hurry) {
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                self.respawn()?;
                self.try_arm(mounts, lease, hurry).map_err(GuardianError::Silent)
            }
            Err(error) => {
                // Whatever it has understood, it must not act on it later.
                self.process = None;
                Err(GuardianError::Silent(error))
            }
            Ok(()) => Ok(()),
        }
    }

    /// Ends the guard. True: the guardian had to release.
    ///
    /// # Errors
    /// If it does not answer; the next [`Self::arm`] waits for that answer.
    pub fn disarm(&mut self) -> Result<bool, GuardianError> {
        self.seq = self.seq.wrapping_add(1);
        self.owed = true;
        self.send(Order::Disarm { seq: self.seq }, &[]).map_err(GuardianError::Silent)?;
        self.settle()
    }

    fn settle(&mut self) -> Result<bool, GuardianError> {
        match self.answer() {
            Ok(answer) => {
                self.owed = false;
                Ok(answer.released)
            }
            Err(Errno::AGAIN) => Err(GuardianError::Releasing),
            Err(error) => {
                self.owed = false;
                self.process = None;
                Err(GuardianError::Silent(error))
            }
        }
    }

    fn try_arm(&mut self, mounts: &[BorrowedFd<'_>], lease: Duration, hurry: Option<bool>) -> Result<(), Errno> {
        for some in mounts.chunks(FDS_PER_PACKET) {
            self.send(Order::Guard, some)?;
        }
        self.seq = self.seq.wrapping_add(1);
        self.send(Order::Arm { seq: self.seq, lease, hurry }, &[])?;
        self.answer().map(drop)
    }

    fn send(&self, order: Order, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let (_, socket) = self.process.as_ref().ok_or(Errno::PIPE)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_PACKET))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::TOOBIG);
        }
        rustix::net::sendmsg(socket, &[IoSlice::new(&order.encode())], &mut beside, SendFlags::NOSIGNAL).map(drop)
    }

    /// The answer to the last order; answers to earlier ones are passed over.
    fn answer(&self) -> Result<Answer, Errno> {
        let (_, socket) = self.process.as_ref().ok_or(Errno::PIPE)?;
        loop {
            let mut packet = [0; PACKET];
            match rustix::net::recv(socket, &mut packet, RecvFlags::empty()) {
                Ok((0, _)) => return Err(Errno::PIPE),
                Ok((count, _)) => match Answer::decode(&packet[..count]) {
                    Some(answer) if answer.seq == self.seq => return Ok(answer),
                    Some(_) | None => {}
                },
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn respawn(&mut self) -> Result<(), GuardianError> {
        if let Some((mut child, socket)) = self.process.take() {
            drop(socket);
            let _ = child.try_wait();
        }
        self.process = Some(spawn(&self.program).map_err(GuardianError::Start)?);
        Ok(())
    }
}

fn spawn(program: &Path) -> Result<(Child, OwnedFd), std::io::Error> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(ours.as_fd(), Timeout::Recv, Some(PATIENCE))?;
    set_socket_timeout(ours.as_fd(), Timeout::Send, Some(PATIENCE))?;
    let child = Command::new(program)
        .arg0("stillpoint-guardian")
        .arg(SUBCOMMAND)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    Ok((child, ours))
}
