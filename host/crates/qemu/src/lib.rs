//! The engine's ports [`Hypervisor`](stillpoint_engine::ports::Hypervisor),
//! [`Images`](stillpoint_engine::ports::Images), [`Endpoints`](stillpoint_engine::ports::Endpoints) and [`TpmStates`](stillpoint_engine::ports::TpmStates) on QEMU: the oldest supported is 7.2.
//!
//! A VM is one QEMU process in a session of its own, which outlives the service. Whatever must be known to find it again
//! is in the folder of its instance, written before QEMU begins; whatever is true of its disks is asked of QEMU, never
//! remembered: node names carry the layer ids.

mod accelerator;
mod attached;
mod capture;
mod config;
mod disks;
mod endpoints;
mod events;
mod graph;
mod host;
mod hypervisor;
mod images;
mod launch;
mod merge;
mod nodes;
mod observe;
mod pages;
mod process;
pub mod qmp;
mod registry;
mod tpm;

pub use config::{Deadlines, MergePace, PageServer, QemuConfig};
pub use endpoints::QemuEndpoints;
pub use hypervisor::QemuHypervisor;
pub use images::QemuImages;
pub use tpm::QemuTpmStates;
