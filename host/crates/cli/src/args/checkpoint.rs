//! `stillpoint checkpoint …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use stillpoint_common::{DiskFormat, VmId};

use super::{BackupTypeArg, Consent, PolicyArg, Waiting, parse};

/// Which checkpoint of which VM.
#[derive(Debug, Args)]
pub struct CheckpointRef {
    /// Which VM.
    #[arg(value_parser = parse::vm)]
    pub vm: VmId,
    /// Its id, the beginning of its id, or its name if only one has it.
    pub checkpoint: String,
}

/// What is said about a checkpoint.
#[derive(Debug, Clone, Args)]
pub struct RemarkFlags {
    /// Free text.
    #[arg(long, value_name = "TEXT")]
    pub notes: Option<String>,
    /// Delete it after this, by hand: 12h, 7d, 2w from now, or 2026-12-24T18:00:00Z. It is reported then.
    #[arg(long, value_name = "TIME", value_parser = parse::until)]
    pub keep: Option<jiff::Timestamp>,
}

/// Which checkpoints of a VM; what is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct FilterFlags {
    /// Of this kind: production, standard.
    #[arg(long, value_enum)]
    pub kind: Option<KindArg>,
    /// Called so; `*` and `?` stand for any characters.
    #[arg(long, value_name = "PATTERN")]
    pub name: Option<String>,
    /// Older than this: 12h, 7d, 2w.
    #[arg(long, value_name = "AGE", value_parser = parse::age)]
    pub older_than: Option<String>,
    /// Younger than this: 12h, 7d, 2w.
    #[arg(long, value_name = "AGE", value_parser = parse::age)]
    pub younger_than: Option<String>,
    /// Made automatically at a start of the VM.
    #[arg(long)]
    pub automatic: bool,
    /// Kept for as long as they were to be kept.
    #[arg(long)]
    pub expired: bool,
    /// That came right after this one.
    #[arg(long, value_name = "CHECKPOINT")]
    pub children_of: Option<String>,
    /// The one that this one came right after.
    #[arg(long, value_name = "CHECKPOINT")]
    pub parent_of: Option<String>,
}

/// What a checkpoint is, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// Disks of a quiet guest.
    Production,
    /// Disks and memory of one instant.
    Standard,
}

/// What is to be deleted.
#[derive(Debug, Args)]
pub struct DeleteCheckpoints {
    /// Of which VM.
    #[arg(value_parser = parse::vm)]
    pub vm: VmId,
    /// The checkpoint: its id, the beginning of its id, or its name if only one has it.
    pub checkpoint: Option<String>,
    /// Or all that are so.
    #[command(flatten)]
    pub filter: FilterFlags,
    /// With all checkpoints that came after.
    #[arg(long)]
    pub subtree: bool,
    /// Only say what would be merged: bytes to move, space that is needed, time.
    #[arg(long)]
    pub preview: bool,
    /// Whether to ask.
    #[command(flatten)]
    pub consent: Consent,
    /// Whether to wait.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// How to bring a VM back.
#[derive(Debug, Clone, Copy, Args)]
pub struct ApplyFlags {
    /// Agree that what happened in the VM since its last checkpoint is lost. This or --checkpoint-first must be given.
    #[arg(long)]
    pub discard_now: bool,
    /// Keep what happened in the VM as a checkpoint that is made first. If it cannot be made, nothing is applied.
    #[arg(long, conflicts_with = "discard_now")]
    pub checkpoint_first: bool,
    /// Leave the VM saved: `vm start` goes on at the instant of the checkpoint.
    #[arg(long, conflicts_with = "without_memory")]
    pub to_saved: bool,
    /// Leave the VM off: do not use the memory of the checkpoint.
    #[arg(long)]
    pub without_memory: bool,
    /// Agree to the hazards that the checkpoint has. Needed beside --yes.
    #[arg(long)]
    pub accept_hazards: bool,
    /// Whether to ask.
    #[command(flatten)]
    pub consent: Consent,
    /// Whether to wait.
    #[command(flatten)]
    pub waiting: Waiting,
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
        #[arg(long, short, value_parser = parse::given)]
        name: Option<String>,
        /// Overrides the VM's policy for this one.
        #[arg(long)]
        policy: Option<PolicyArg>,
        /// A production checkpoint keeps the memory of the quiet guest too, of the same instant.
        #[arg(long)]
        with_memory: bool,
        /// What the guest's writers are told that it means for their history; a production checkpoint only.
        #[arg(long, value_name = "TYPE", default_value = "copy")]
        backup_type: BackupTypeArg,
        /// What is said about it.
        #[command(flatten)]
        remarks: RemarkFlags,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Say which kind of checkpoint fits the VM as it is now, and what speaks against one.
    Advise {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
    /// List the checkpoints of a VM, oldest first.
    List {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Which of them.
        #[command(flatten)]
        filter: FilterFlags,
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
        /// Show what the VM was made of then, all of it: CPUs, memory, boot, disks, network cards.
        #[arg(long)]
        config: bool,
    },
    /// Show what has changed in what the VM is made of, from a checkpoint to Now or to another checkpoint.
    Diff {
        /// From which one.
        #[command(flatten)]
        which: CheckpointRef,
        /// To which one: its id, the beginning of its id, or its name [default: Now].
        #[arg(value_name = "CHECKPOINT")]
        with: Option<String>,
    },
    /// Bring the VM back to a checkpoint: its disks, its configuration and, if it has memory, the running machine.
    Apply {
        /// Which one.
        #[command(flatten)]
        which: CheckpointRef,
        /// How.
        #[command(flatten)]
        how: ApplyFlags,
    },
    /// Bring the VM back to the checkpoint that Now came after.
    Revert {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// How.
        #[command(flatten)]
        how: ApplyFlags,
    },
    /// Give a checkpoint another name.
    Rename {
        /// Which one.
        #[command(flatten)]
        which: CheckpointRef,
        /// Its new name.
        new_name: String,
    },
    /// Change the notes of a checkpoint, or how long it shall be kept.
    Set {
        /// Which one.
        #[command(flatten)]
        which: CheckpointRef,
        /// What is said about it.
        #[command(flatten)]
        remarks: RemarkFlags,
        /// Forget how long it was to be kept.
        #[arg(long, conflicts_with = "keep")]
        keep_for_ever: bool,
    },
    /// Delete a checkpoint, or all that are so. Now and every other checkpoint keep their data; layers are merged while
    /// the VM runs.
    Delete(DeleteCheckpoints),
    /// Delete the memory of a checkpoint, which stays with its disks: applied from then on, it leaves the VM off.
    DeleteMemory {
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
