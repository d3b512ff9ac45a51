//! `stillpoint memory …`

use std::path::PathBuf;

use clap::Subcommand;

/// What can be done with the file of a memory state, `<checkpoint>.memory` in the VM's checkpoint location. It is read
/// where this program runs; the service is not asked.
#[derive(Debug, Subcommand)]
pub enum MemoryCommand {
    /// Show whose memory it is, which machine's, and where its pages lie.
    Inspect {
        /// The file.
        file: PathBuf,
    },
    /// Read everything and compare it with the hashes; fails at the first damage.
    Verify {
        /// The file.
        file: PathBuf,
    },
    /// Write it as a migration stream that QEMU loads with `-incoming`.
    ToStream {
        /// The file.
        file: PathBuf,
        /// The new file for the stream.
        target: PathBuf,
    },
}
