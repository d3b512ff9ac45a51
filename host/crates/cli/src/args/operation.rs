//! `stillpoint operation …`

use std::time::Duration;

use clap::Subcommand;
use stillpoint_common::VmId;

use super::parse;

/// What can be done with operations. Each takes the id of one, or the beginning of the id.
#[derive(Debug, Subcommand)]
pub enum OperationCommand {
    /// List operations, newest first.
    List {
        /// Only those of this VM.
        #[arg(long, value_parser = parse::vm)]
        vm: Option<VmId>,
        /// Only those at work.
        #[arg(long)]
        at_work: bool,
        /// At most this many.
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
    },
    /// Show one operation.
    Show {
        /// Which operation.
        operation: String,
    },
    /// Follow an operation with its progress until it ends; fails if it fails.
    Watch {
        /// Which operation.
        operation: String,
    },
    /// Ask for an operation to be given up; what it did is undone.
    Cancel {
        /// Which operation.
        operation: String,
    },
    /// Wait in silence until an operation ends; fails if it fails.
    Wait {
        /// Which operation.
        operation: String,
        /// At most this long: 90s, 5m, 1h.
        #[arg(long, value_parser = parse::time, value_name = "TIME")]
        timeout: Option<Duration>,
    },
}
