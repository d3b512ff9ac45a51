//! A simulated world for the engine: files, instances, guests and a store that behave as the real ones do where it
//! matters, and that can fail, hang and lose the service at any call.
//!
//! ```text
//!  test ── guest_write, kill_instance, set_faults, … ──▶ World ◀── Ports (one process of the service)
//!                                                          │          crash: no call of it ever returns again
//!                                                          └── restart(): fresh Ports over the same world
//! ```
//!
//! Every call of a port is a numbered [point](Call) at which a [`FaultPlan`] can strike. Whatever happens, the world
//! watches rules of its own (a guest's disk never changes under it, no file is unlinked that something still reads
//! through, no two instances of a VM run at once); what breaks one is kept in [`World::violations`].
//!
//! All time is tokio's: under a paused clock a lease of ten seconds costs a test nothing.

mod captures;
pub mod conformance;
mod exports;
mod fault;
mod files;
mod guest;
mod images;
mod inspect;
mod instance;
mod intake;
mod machines;
mod memory;
mod merging;
mod ports;
mod process;
mod sessions;
mod state;
mod store;
mod streaming;
mod tpm;
mod volumes;
mod world;

pub use fault::{Call, Fault, FaultPlan};
pub use files::Content;
pub use guest::{AgentScript, FreezeScript, GuestScript, PowerScript, ScriptedWriter, ThawScript, WriterScript};
pub use instance::NotWritten;
pub use intake::IntakeScript;
pub use store::MemoryStore;
pub use world::{World, definition};
