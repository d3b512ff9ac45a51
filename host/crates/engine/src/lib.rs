//! The checkpoint engine: everything that decides, and nothing that knows a hypervisor, a file format or a wire.

pub mod layout;
pub mod ports;
mod request;

pub use request::{CheckpointView, ExportedFile, NewVm, Request, StopMode, VmChange, VmView};
