//! `stillpoint export …` and `stillpoint vm import`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use stillpoint_common::VmId;

use super::{Waiting, parse};

/// What can be done with exports.
#[derive(Debug, Subcommand)]
pub enum ExportCommand {
    /// Read every byte of an export and compare it with the hashes in its manifest.
    ///
    /// Exit codes: 0 the export is whole; 1 a file of it is missing or damaged, or it is none. `vm import` does the same
    /// before it makes a VM.
    Verify {
        /// The folder that `checkpoint export` has made.
        folder: PathBuf,
    },
}

/// What becomes of the files of an export, and who the VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ImportModeArg {
    /// Copied; another machine towards its guest.
    #[default]
    Copy,
    /// Copied; the same machine towards its guest.
    Restore,
    /// They stay where they are and are the VM's from then on; the same machine. The folder is no export any more.
    Register,
}

/// `stillpoint vm import`
#[derive(Debug, Args)]
pub struct ImportVm {
    /// Its name.
    #[arg(value_parser = parse::vm)]
    pub vm: VmId,
    /// The folder that `checkpoint export` has made.
    pub folder: PathBuf,
    /// The folder to make for its disks; needed unless they stay where they are.
    #[arg(long, value_name = "FOLDER")]
    pub to: Option<PathBuf>,
    /// What becomes of the files of the export, and who the VM is.
    #[arg(long, value_enum, default_value_t)]
    pub mode: ImportModeArg,
    /// What it is made of, as `vm show --json` prints it, instead of what the export says. Disks go by their names.
    #[arg(long, value_name = "FILE")]
    pub spec: Option<PathBuf>,
    /// Leave the memory in the export out: the VM is off, and boots.
    #[arg(long)]
    pub without_memory: bool,
    /// Let the export's own definition take what it names of this host: kernel, media, devices, arguments of QEMU.
    #[arg(long)]
    pub accept_host_paths: bool,
    /// Only say what it would be and what stands against it. Exit code 1 if something does.
    #[arg(long)]
    pub dry_run: bool,
    /// Whether to wait.
    #[command(flatten)]
    pub waiting: Waiting,
}
