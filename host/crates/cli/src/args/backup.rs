//! `stillpoint backup …`

use clap::{Args, Subcommand};
use stillpoint_common::{DiskName, VmId};

use super::{CheckpointRef, parse};

/// What can be done for backups.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// List the ranges of bytes in which a disk differs between two checkpoints of its VM, or which hold data at all.
    ///
    /// What is not listed reads the same at both, or as zeros. Ranges are of blocks of 64 KiB. The two checkpoints may lie on
    /// different branches, and either may be the older one.
    Changed(Changed),
    /// List the reference points of a VM.
    Points {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
    /// Make a reference point of a checkpoint, so that it can be asked what has changed since when the checkpoint is gone.
    ///
    /// It holds no data of its own. While there is one, what the guest writes is kept apart from what was there.
    KeepPoint(CheckpointRef),
    /// Give a reference point up. No data is lost with it.
    ForgetPoint {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Its id, or the beginning of its id.
        point: String,
    },
}

/// `stillpoint backup changed`
#[derive(Debug, Args)]
pub struct Changed {
    /// Which VM.
    #[arg(value_parser = parse::vm)]
    pub vm: VmId,
    /// Which of its disks.
    #[arg(long, value_name = "DISK")]
    pub disk: DiskName,
    /// The checkpoint that there is a copy of: its id, the beginning of its id, or its name [default: none; everything that
    /// holds data is listed].
    #[arg(long, value_name = "CHECKPOINT")]
    pub from: Option<String>,
    /// The reference point that there is a copy of: its id, or the beginning of its id.
    #[arg(long, value_name = "POINT", conflicts_with = "from")]
    pub from_point: Option<String>,
    /// The checkpoint that is to be copied.
    #[arg(long, value_name = "CHECKPOINT")]
    pub to: String,
}
