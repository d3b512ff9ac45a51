//! What the engine needs from the world, in its own words.
//!
//! Each port is small and says what holds before, after and on failure. Adapters implement them on QEMU, on files, on
//! the guest's agent, and in the simulator; the engine knows none of these.
//!
//! Two rules hold for every method that changes something. It may be called again after it succeeded, and then changes
//! nothing and succeeds. And a dropped future may leave the change made, half-way, or not made: the engine looks
//! (`observe`, `stat`) before it goes on.

mod clock;
mod descriptions;
mod endpoints;
mod exports;
mod guest;
mod hypervisor;
mod images;
mod memory;
mod sources;
mod stop;
mod store;
mod tpm;

pub use clock::{Clock, SystemClock};
pub use descriptions::{DescriptionError, Descriptions, FoundDescription};
pub use endpoints::Endpoints;
pub use exports::{ExportError, ExportTargets, MemorySource};
pub use guest::{GuestQuiesce, PowerAction, QuiesceError};
pub use hypervisor::{
    Capture, DiskChain, Hypervisor, HypervisorError, HypervisorEvent, HypervisorEventKind, Intake, LaunchSpec,
    Launched, LiveMerge, LiveStream, Loaded, MemoryFrom, Observed, OnPanic, Overlay, ProgressSink, RunState, StartMode,
    Trouble,
};
pub use images::{Extent, FileUser, Flatten, ImageError, ImageFacts, Images, Moved, OfflineMerge, Seen, Space};
pub use memory::{FirstPage, MemoryError, MemoryOutcome, MemorySink, MemoryStates, OpenedMemory, Reach};
pub use sources::{Depth, ExportSources, FileDamage};
pub use stop::Stop;
pub use store::{Guard, Put, Store, StoreError, Stored, Txn};
pub use tpm::{TpmError, TpmStates};
