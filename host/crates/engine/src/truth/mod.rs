//! Whether files are what the catalogue says.
//!
//! A layer is known by device and inode, by the layer it lies on, and, once it is frozen, by its length and the time it
//! was last written to. A layer is *frozen* when it ceases to be the head of a disk; it is opened again only by a merge
//! of our own, which the catalogue notes before the merge begins and ends when it has ended.

mod compare;
mod freeze;
mod look;
mod missing;
mod proof;

pub(crate) use self::{
    compare::{Wrong, wrongs},
    freeze::{freeze, open, open_one},
    look::{are_right, see},
    missing::missing_files,
    proof::{Proof, proof},
};
