//! `stillpoint checkpoint …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stillpoint_common::{DiskFormat, VmId};

use super::{Consent, PolicyArg, Waiting, parse};

/// Which checkpoint of which VM.
#[derive(Debug, Args)]
pub struct CheckpointRef {
    /// Which VM.
    #[arg(value_parser = parse::vm)]
    pub vm: VmId,
    /// Its id, the beginning of its id, or its name if only one has it.
    pub checkpoint: String,
}

/// What can be done with checkpoints.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// Make a checkpoint of the VM as it is now. The VM goes on.
    Create {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// What to call it [default: VM and time].
        #[arg(long, short, default_value = "", hide_default_value = true)]
        name: String,
        /// Overrides the VM's policy for this one.
        #[arg(long)]
        policy: Option<PolicyArg>,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// List the checkpoints of a VM, oldest first.
    List {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
    /// Draw the tree of a VM's checkpoints, with Now.
    Tree {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
    /// Show one checkpoint.
    Show {
        /// Which one.
        #[command(flatten)]
        which: CheckpointRef,
    },
    /// Bring the VM back to a checkpoint: its disks, its configuration and, if it has memory, the running machine.
    Apply {
        /// Which one.
        #[command(flatten)]
        which: CheckpointRef,
        /// Agree that what happened in the VM since its last checkpoint is lost. Must be given.
        #[arg(long)]
        discard_now: bool,
        /// Whether to ask.
        #[command(flatten)]
        consent: Consent,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Bring the VM back to the checkpoint that Now came after.
    Revert {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Agree that what happened in the VM since that checkpoint is lost. Must be given.
        #[arg(long)]
        discard_now: bool,
        /// Whether to ask.
        #[command(flatten)]
        consent: Consent,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Give a checkpoint another name.
    Rename {
        /// Which one.
        #[command(flatten)]
        which: CheckpointRef,
        /// Its new name.
        new_name: String,
    },
    /// Delete a checkpoint. Now and every other checkpoint keep their data; layers are merged while the VM runs.
    Delete {
        /// Which one.
        #[command(flatten)]
        which: CheckpointRef,
        /// Whether to ask.
        #[command(flatten)]
        consent: Consent,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Copy a checkpoint into a new folder of the host, as a machine that needs nothing else.
    Export {
        /// Which one.
        #[command(flatten)]
        which: CheckpointRef,
        /// The folder to make.
        folder: PathBuf,
        /// Format of the disk images: raw, qcow2, vhdx, vpc [default: qcow2].
        #[arg(long, value_parser = parse::format, value_name = "FORMAT")]
        format: Option<DiskFormat>,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
}
