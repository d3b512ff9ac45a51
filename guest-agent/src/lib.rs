//! Stillpoint's agent: makes its guest quiet for the instant in which the host cuts its disks.
//!
//! The agent serves `stillpoint.guest.v1.GuestAgent` on a virtio-serial port. Three rules carry everything:
//!
//! 1. A guest is never held longer than its lease. The agent lets go at its end; if the agent cannot, the
//!    [`guardian`], a process of its own, does.
//! 2. Nobody holds a guest for a host that is gone: the end of the session, in any way, is a thaw.
//! 3. A hold counts as held throughout only if the kernel says, for every file system, that it was still frozen when
//!    the thaw came.
//!
//! While file systems are frozen, whoever writes to one sleeps in the kernel and cannot be woken. So the agent writes
//! to none: no log files, no temporary files, and log lines that cannot be written are dropped.

pub mod clock;
pub mod coordinator;
#[cfg(feature = "fault-injection")]
pub mod fault;
pub mod freezer;
pub mod grpc;
pub mod guardian;
pub mod logging;
pub mod power;
pub mod qga;
pub mod roles;
pub mod session;
pub mod system;
pub mod values;
mod work;
pub mod writers;

/// Name of the virtio-serial port that the host gives its guests.
pub const PORT_NAME: &str = "org.stillpoint.agent.0";
/// Name of the virtio-serial port on which hosts look for qemu-ga.
pub const QGA_PORT_NAME: &str = "org.qemu.guest_agent.0";
/// The protocol of this agent.
pub const PROTOCOL_VERSION: u32 = 1;
/// The oldest protocol that this agent still speaks.
pub const OLDEST_PROTOCOL_VERSION: u32 = 1;
