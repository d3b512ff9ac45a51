//! The host's end of the channel to the agents in its guests.
//!
//! [`GuestLink`] speaks to one instance; [`GuestLinks`] keeps one for each and is the engine's port to them.
//!
//! A guest is not trusted. Every call has a deadline, every message a size limit, every text is stripped of control
//! characters and cut, and what makes no sense is an error of the guest's, never a panic of ours. What an agent claims
//! about consistency is believed only in one direction: a lapse is a lapse.

mod clock;
mod convert;
mod failure;
mod limits;
mod link;
mod links;
mod session;

pub use limits::Limits;
pub use link::{GuestEvent, GuestLink, GuestWatch};
pub use links::GuestLinks;
pub use session::QuiesceSession;

/// The newest protocol that this host speaks, and the only one so far.
pub const PROTOCOL_VERSION: u32 = 1;
