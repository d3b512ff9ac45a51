//! Description files: enough to make the catalogue again if it is lost.
//!
//! Each VM has `<location>/<vm>.vm.json`: its record, its checkpoints and all its layers. Each checkpoint has
//! `<location>/<checkpoint>.checkpoint.json`: its record, the layers it reads through and whose it is.
//!
//! The catalogue is the truth, the files follow it. A transaction that makes them untrue notes the debt, and which files
//! it is: a VM with many checkpoints is not described anew with each. The VM's actor settles it at the end of the
//! operation, or at its next start. In three places that is not soon enough, since the files would lead to a loss if the
//! catalogue were lost just then:
//! - a new checkpoint is described between its cut and its publication, since the guest writes to new layers already;
//! - a merge into the head, and an apply, are described before the guest goes on;
//! - the file of a layer goes after the descriptions say that nothing needs it.

mod debt;
mod format;
mod write;

pub(crate) use self::{
    debt::Debt,
    format::{CHECKPOINT_ENDING, CheckpointDescription, Described, VM_ENDING, VmDescription, is_newer, read, vm_file},
    write::{expected, names_of, now_only, remove_all, settle, settled, take_back, write_owed},
};
