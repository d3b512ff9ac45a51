//! The simulated world behaves as the real one does where it matters to the engine.

mod disks;
mod faults;
mod lab;
mod memory;
mod quiesce;
mod store;
