//! What a user types.

mod backup;
mod check;
mod checkpoint;
mod image;
mod memory;
mod operation;
pub(crate) mod parse;
mod settings;
mod transfer;
mod vm;

pub use backup::{BackupCommand, BackupRef, Changed, LevelArg, RunBackup, StartBackup};
pub use check::CheckArgs;
pub use checkpoint::{
    ApplyFlags, CheckpointCommand, CheckpointRef, DeleteCheckpoints, FilterFlags, KindArg, RemarkFlags,
};
pub use image::{ImageCommand, MergeImage};
pub use memory::MemoryCommand;
pub use operation::OperationCommand;
pub use settings::{HazardArg, OnFailureArg, ServiceArg, SetVms, Switch, UnsupportedArg, VmChoice};
pub use transfer::{ExportCommand, ImportModeArg, ImportVm};
pub use vm::{CreateVm, FirmwareArg, HardwareFlags, MergesArg, Reconnect, UpdateVm, VmCommand};

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use stillpoint_common::{BackupType, CheckpointPolicy, CriticalAction, CriticalSettings, VmId};

use crate::client::DEFAULT_SOCKET;

const EVERYWHERE: &str = "Options of every command";

/// Checkpoints for virtual machines on QEMU/KVM.
///
/// Exit codes: 0 done; 1 refused or failed; 2 typed wrongly; 3 the service cannot be reached; 4 `host check` found
/// something wrong; 130 stopped waiting (the operation goes on).
#[derive(Debug, Parser)]
#[command(name = "stillpoint", version, max_term_width = 100)]
pub struct Cli {
    /// Socket of the service.
    #[arg(long, global = true, env = "STILLPOINT_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH", help_heading = EVERYWHERE)]
    pub socket: PathBuf,
    /// Print one JSON document instead of text. Refusals are printed as {"error": …}.
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads a command line. A word of a choice may be written as JSON and the documents write it: `PRODUCTION_ONLY`.
    ///
    /// # Errors
    /// What was typed wrongly, ready to be shown; help and version, too.
    pub fn read(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::from_arg_matches(&in_any_case(Self::command()).try_get_matches_from(line)?)
    }
}

fn in_any_case(command: clap::Command) -> clap::Command {
    let word_of_any_case = |arg: clap::Arg| {
        let has_word = arg.get_action().takes_values();
        arg.ignore_case(has_word)
    };
    command.mut_args(word_of_any_case).mut_subcommands(in_any_case)
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Define, start, stop and look at VMs.
    #[command(subcommand)]
    Vm(VmCommand),
    /// Make, look at, apply, delete and export checkpoints.
    #[command(subcommand, visible_alias = "cp")]
    Checkpoint(CheckpointCommand),
    /// Look at the writers of a guest: applications that take part in production checkpoints.
    #[command(subcommand)]
    Writer(WriterCommand),
    /// Show what has happened: checkpoints made, applied and deleted, merges, failures, fallbacks, disks without space.
    ///
    /// Each event has a token; `--since TOKEN` goes on after it, also over a restart of the service. With --json a list is
    /// one document, and with --follow each event is one, on a line of its own.
    Events(EventsArgs),
    /// Look at long-running work, wait for it, give it up.
    #[command(subcommand)]
    Operation(OperationCommand),
    /// Look at the system in a VM.
    #[command(subcommand)]
    Guest(GuestCommand),
    /// Check exports of checkpoints. They are made with `checkpoint export`; VMs are made of them with `vm import`.
    #[command(subcommand)]
    Export(ExportCommand),
    /// What backups need: sessions, reference points, and the ranges of a disk that have changed.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Merge image files that belong to no VM.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look at files of memory states, check them, make streams of them.
    #[command(subcommand)]
    Memory(MemoryCommand),
    /// Look at the host.
    #[command(subcommand)]
    Host(HostCommand),
    /// Check the checkpoints of all VMs, as a plugin for Nagios and its kin: one line with performance data, more below.
    ///
    /// Exit codes: 0 ok; 1 warning (too old, too many, past their time, files left over); 2 critical (far too old or
    /// too many, a file missing or damaged, a VM that stands still for want of space); 3 unknown.
    Check(CheckArgs),
    /// Print the completion script of a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// `stillpoint events`
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Wait for what comes, and print it as it comes. Without --since it begins with the next event.
    #[arg(long, short)]
    pub follow: bool,
    /// Begin after the event of this token.
    #[arg(long, value_name = "TOKEN")]
    pub since: Option<String>,
    /// Only events of this VM.
    #[arg(long, value_name = "VM", value_parser = parse::vm)]
    pub vm: Option<VmId>,
}

/// What can be asked about writers.
#[derive(Debug, Subcommand)]
pub enum WriterCommand {
    /// List the writers of a running VM.
    List {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
}

/// What can be asked about a guest.
#[derive(Debug, Subcommand)]
pub enum GuestCommand {
    /// Show what the agent of a running VM says: its version, file systems, writers.
    Show {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
    /// Show what the agent of a VM does for the host, and how it stands with it: see `vm set --service-off`.
    Services {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
    /// List the values that host and guest tell each other, and what the agent says of its guest by itself.
    List {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
    },
    /// Print the value of a key: what the guest tells, or else what the host does.
    Get {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Which key.
        key: String,
    },
    /// Tell the guest values. They are part of the VM's settings; in the guest they are in
    /// /run/stillpoint/host-values.json, and `stillpoint-agent values` prints them.
    Set {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Keys, of at most 512 bytes, with their values, of at most 2048.
        #[arg(value_name = "KEY=VALUE", value_parser = parse::value, required = true)]
        values: Vec<(String, String)>,
    },
    /// Tell the guest these values no more.
    Unset {
        /// Which VM.
        #[arg(value_parser = parse::vm)]
        vm: VmId,
        /// Which keys.
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
}

/// What can be asked about the host.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Show what the service found on its host.
    Show,
    /// Look whether the files and processes of VMs are what the catalogue says. Changes nothing.
    ///
    /// Ends with 4 if something is wrong.
    Check {
        /// Which VM; all, if it is left out.
        #[arg(value_parser = parse::vm)]
        vm: Option<VmId>,
    },
    /// Make the catalogue again after it was lost, from the descriptions in checkpoint locations and from the layers.
    ///
    /// VMs that the catalogue has are not touched, and no file is written. What cannot be taken is left, with the reason.
    Rebuild {
        /// Checkpoint locations to look in, or folders above them. The service's own is always looked in.
        #[arg(value_name = "FOLDER")]
        folders: Vec<PathBuf>,
    },
}

/// How to wait for work that was begun.
#[derive(Debug, Clone, Copy, Args)]
pub struct Waiting {
    /// Print the operation at once and do not wait for its end.
    #[arg(long = "async")]
    pub at_once: bool,
}

/// What is done about a VM that stands still because a disk could not be written.
#[derive(Debug, Clone, Copy, Args)]
pub struct CriticalFlags {
    /// Whether a VM that stands still for want of space goes on by itself [default: resume-when-space].
    #[arg(long, value_name = "WHAT")]
    pub critical_action: Option<CriticalActionArg>,
    /// Switch it off when it has stood still for so long: 90s, 5m, 1h; 0: never [default: never].
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    pub critical_timeout: Option<Duration>,
}

impl CriticalFlags {
    /// These settings, with what was typed instead.
    pub(crate) fn over(self, present: CriticalSettings) -> CriticalSettings {
        CriticalSettings {
            action: self.critical_action.map_or(present.action, Into::into),
            power_off_after: match self.critical_timeout {
                Some(after) => Some(after).filter(|after| !after.is_zero()),
                None => present.power_off_after,
            },
        }
    }

    pub(crate) const fn are_typed(self) -> bool {
        self.critical_action.is_some() || self.critical_timeout.is_some()
    }
}

/// Whether a VM goes on by itself, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CriticalActionArg {
    /// As soon as there is space again.
    ResumeWhenSpace,
    /// It waits for `stillpoint vm resume`.
    Wait,
}

impl From<CriticalActionArg> for CriticalAction {
    fn from(action: CriticalActionArg) -> Self {
        match action {
            CriticalActionArg::ResumeWhenSpace => Self::ResumeWhenSpace,
            CriticalActionArg::Wait => Self::Wait,
        }
    }
}

/// Whether to ask before something is lost.
#[derive(Debug, Clone, Copy, Args)]
pub struct Consent {
    /// Do not ask. Needed where there is no terminal to ask on.
    #[arg(long, short)]
    pub yes: bool,
}

/// What a checkpoint shall be, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyArg {
    /// Checkpoints are refused.
    Disabled,
    /// Memory, devices and disks of one instant; the guest is not asked.
    Standard,
    /// The guest is made quiet for the cut; if that fails, a standard checkpoint is made.
    Production,
    /// The guest is made quiet for the cut, or there is no checkpoint.
    #[value(alias = "production_only")]
    ProductionOnly,
}

impl From<PolicyArg> for CheckpointPolicy {
    fn from(policy: PolicyArg) -> Self {
        match policy {
            PolicyArg::Disabled => Self::Disabled,
            PolicyArg::Standard => Self::Standard,
            PolicyArg::Production => Self::Production,
            PolicyArg::ProductionOnly => Self::ProductionOnly,
        }
    }
}

/// What a checkpoint means for the history of the guest's applications, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackupTypeArg {
    /// Everything; later incremental ones build on it, and logs may be cut.
    Full,
    /// Everything, and nobody's history is touched.
    Copy,
    /// What changed since the last full or incremental one; logs may be cut.
    Incremental,
    /// What changed since the last full one.
    Differential,
    /// Log files only, which are usually cut.
    Log,
}

impl From<BackupTypeArg> for BackupType {
    fn from(backup_type: BackupTypeArg) -> Self {
        match backup_type {
            BackupTypeArg::Full => Self::Full,
            BackupTypeArg::Copy => Self::Copy,
            BackupTypeArg::Incremental => Self::Incremental,
            BackupTypeArg::Differential => Self::Differential,
            BackupTypeArg::Log => Self::Log,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_can_be_typed_as_it_is_shown() {
        for word in ["production-only", "PRODUCTION_ONLY", "Production-Only"] {
            let line = ["stillpoint", "checkpoint", "create", "web", "--policy", word].map(Into::into);
            let Command::Checkpoint(CheckpointCommand::Create { policy, .. }) = Cli::read(line).unwrap().command else {
                panic!("another command");
            };
            assert_eq!(policy, Some(PolicyArg::ProductionOnly), "{word}");
        }
    }
}
