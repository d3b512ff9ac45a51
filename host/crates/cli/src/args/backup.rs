//! `stillpoint backup …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use stillpoint_common::{Consistency, DiskName, VmId};

use super::{BackupTypeArg, CheckpointRef, parse};

/// What can be done for backups.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Back a VM up into a folder: all of it the first time, then what has changed since.
    ///
    /// Each backup is a folder of its own in it, and whole as soon as that has its name. One whose changes are not known any more is
    /// a full one, and says why. What an earlier run that was cut off has left is removed first. A folder is of one VM.
    Run(RunBackup),
    /// Compare all files of a folder of backups with their hashes. The service is not needed.
    Verify {
        /// The folder.
        folder: PathBuf,
    },
    /// Make the disks of a VM, as raw images, from a folder of backups. All that they are made of is compared with its hashes first.
    /// The service is not needed.
    Restore {
        /// The folder.
        folder: PathBuf,
        /// Number of the backup [default: the last one].
        #[arg(long, value_name = "NUMBER")]
        at: Option<u32>,
        /// The folder to make.
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
    /// Begin a backup session: a checkpoint of the disks that is there to be read, until the session ends.
    ///
    /// It ends when it is completed or aborted, or when its client is silent for longer than its lease; the checkpoint is gone
    /// then. A guest that is asked to be quiet has its writers told only when the session is completed.
    Start(StartBackup),
    /// Show how a backup session stands.
    Show(BackupRef),
    /// List the backup sessions of a VM: one that is open, and those that have ended last.
    Sessions {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
    /// Renew the lease of a backup session.
    Renew(BackupRef),
    /// Complete a backup session: its data is safe. A reference point is left, and writers of the guest are told.
    Complete {
        #[command(flatten)]
        /// Which session.
        backup: BackupRef,
        /// Give the reference point up that it builds on.
        #[arg(long)]
        replace: bool,
    },
    /// Give a backup session up. Nothing is left of it.
    Abort(BackupRef),
    /// Copy a disk of a backup session to a raw image, which must not be there yet.
    ReadDisk {
        /// Which session.
        #[command(flatten)]
        backup: BackupRef,
        /// Which of its disks.
        #[arg(long, value_name = "DISK")]
        disk: DiskName,
        /// The file to make. What reads as zeros is not written.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Serve a disk of a backup session to programs of this host that speak NBD, as nbdcopy and qemu-img; the URI is printed.
    OpenDisk {
        /// Which session.
        #[command(flatten)]
        backup: BackupRef,
        /// Which of its disks.
        #[arg(long, value_name = "DISK")]
        disk: DiskName,
    },
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

/// Which backup session of which VM.
#[derive(Debug, Args)]
pub struct BackupRef {
    /// Which VM.
    #[arg(value_parser = parse::vm)]
    pub vm: VmId,
    /// Its id, or the beginning of its id.
    pub backup: String,
}

/// `stillpoint backup run`
#[derive(Debug, Args)]
pub struct RunBackup {
    /// Which VM.
    #[arg(value_parser = parse::vm)]
    pub vm: VmId,
    /// The folder, which is made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    pub to: PathBuf,
    /// Copy all of it, also if it could build on the last one.
    #[arg(long)]
    pub full: bool,
    /// The least that is taken of the guest [default: file-system].
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub least: Option<LevelArg>,
    /// What the guest's writers are told that it means for their history [default: full, or incremental if it builds on one].
    #[arg(long, value_enum, value_name = "TYPE")]
    pub backup_type: Option<BackupTypeArg>,
}

/// `stillpoint backup start`
#[derive(Debug, Args)]
pub struct StartBackup {
    /// Which VM.
    #[arg(value_parser = parse::vm)]
    pub vm: VmId,
    /// What the guest is asked for: with `crash` it is not asked.
    #[arg(long, value_enum, default_value = "application", value_name = "LEVEL")]
    pub consistency: LevelArg,
    /// The least that is taken [default: file-system, if the guest is asked].
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub least: Option<LevelArg>,
    /// What the guest's writers are told that it means for their history.
    #[arg(long, value_enum, default_value = "copy", value_name = "TYPE")]
    pub backup_type: BackupTypeArg,
    /// How long the session lasts without a call of its client: 90s, 5m, 12h.
    #[arg(long, value_name = "TIME", value_parser = parse::time, default_value = "10m")]
    pub lease: std::time::Duration,
    /// The reference point that it builds on: its id, or the beginning of its id.
    #[arg(long, value_name = "POINT")]
    pub from_point: Option<String>,
}

/// How quiet a guest is, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LevelArg {
    /// All writers and file systems.
    Application,
    /// All file systems.
    FileSystem,
    /// As after a power cut.
    Crash,
}

impl From<LevelArg> for Consistency {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Application => Self::Application,
            LevelArg::FileSystem => Self::FileSystem,
            LevelArg::Crash => Self::Crash,
        }
    }
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
