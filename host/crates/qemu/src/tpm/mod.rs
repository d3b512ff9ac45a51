//! TPMs, emulated by swtpm: one process beside each QEMU that has one, and a folder for what it keeps.
//!
//! ```text
//! <state folder>/tpm2-00.permall ◀─ swtpm ◀─ <runtime folder>/tpm/socket ◀─ QEMU
//! ```
//! swtpm ends when QEMU closes the socket, however QEMU ends: nobody has to look after it. It writes a new file beside the
//! old one and renames it, so that who reads the file reads the state before or after a write.

mod emulator;
mod states;

pub(crate) use emulator::{end, start};
pub use states::QemuTpmStates;

use std::path::Path;

/// Whether a program can be started: a path, or a name that is searched in `PATH`.
fn is_there(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_its_path_or_its_name() {
        assert!(is_there(Path::new("sh")) && is_there(Path::new("/bin/sh")));
        assert!(!is_there(Path::new("no-such-program")) && !is_there(Path::new("/bin/no-such-program")));
    }
}
