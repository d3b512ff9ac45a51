//! `stillpoint backup …`

use clap::{Args, Subcommand};
use stillpoint_common::{DiskName, VmId};

use super::parse;

/// What can be done for backups.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// List the ranges of bytes in which a disk differs between two checkpoints of its VM, or which hold data at all.
    ///
    /// What is not listed reads the same at both, or as zeros. Ranges are of blocks of 64 KiB. The two checkpoints may lie on
    /// different branches, and either may be the older one.
    Changed(Changed),
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
    /// The checkpoint that is to be copied.
    #[arg(long, value_name = "CHECKPOINT")]
    pub to: String,
}
