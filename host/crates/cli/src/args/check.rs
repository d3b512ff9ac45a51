//! `stillpoint check`: a plugin for Nagios and its kin.

use std::time::Duration;

use clap::Args;

use super::{VmChoice, parse};

/// `stillpoint check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Which VMs.
    #[command(flatten)]
    pub which: VmChoice,
    /// The age of a VM's oldest checkpoint that is a warning: 12h, 7d. Automatic ones do not count.
    #[arg(long, value_name = "AGE", value_parser = parse::span, default_value = "3d")]
    pub warn_age: Duration,
    /// The age that is critical.
    #[arg(long, value_name = "AGE", value_parser = parse::span, default_value = "14d")]
    pub crit_age: Duration,
    /// How many checkpoints of a VM are a warning.
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub warn_count: usize,
    /// How many are critical; a VM can have 50.
    #[arg(long, value_name = "N", default_value_t = 45)]
    pub crit_count: usize,
    /// A VM whose disks would fill their file system in less than this, if they grow on as they did, is a warning.
    #[arg(long, value_name = "SPAN", value_parser = parse::span, default_value = "24h")]
    pub warn_full: Duration,
    /// In less than this it is critical.
    #[arg(long, value_name = "SPAN", value_parser = parse::span, default_value = "4h")]
    pub crit_full: Duration,
    /// Do not compare files with the catalogue, which takes a while on a host with many.
    #[arg(long)]
    pub no_files: bool,
}
