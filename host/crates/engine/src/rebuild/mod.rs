//! Making the catalogue again from description files and layers, after it was lost.
//!
//! ```text
//! find ─▶ read ─▶ decide by what is seen of files and processes ─▶ take: checkpoints and layers, the VM last ─▶ actor
//! ```
//! A VM whose own description is lost, or cannot be read, is put together from those of its checkpoints.
//!
//! Nothing but the catalogue is written. A VM that the catalogue has is not touched. What speaks against taking a VM as
//! it is described leaves it, with the reason: a VM that is half right would be worse than none.

mod decide;
mod from_checkpoints;

use std::path::PathBuf;

use stillpoint_common::VmId;

pub(crate) use self::{
    decide::{Evidence, Process, Verdict, judge},
    from_checkpoints::{FoundLayer, by_name, put_together},
};

/// What a rebuild did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// VMs that are in the catalogue now.
    pub taken: Vec<TakenVm>,
    /// Descriptions that were left, and why.
    pub left: Vec<LeftFile>,
}

/// A VM that was taken into the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenVm {
    /// Which.
    pub vm: VmId,
    /// By which description.
    pub file: PathBuf,
    /// How many checkpoints it has.
    pub checkpoints: usize,
    /// How many layers.
    pub layers: usize,
    /// Its process was found and is attached to.
    pub running: bool,
    /// What is wrong with its files; each names what cannot be used.
    pub notes: Vec<String>,
}

/// A description that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftFile {
    /// Which.
    pub file: PathBuf,
    /// Why.
    pub why: String,
}
