//! The product's own programs, as a user would start them.

use std::path::PathBuf;
use std::{env, io};

/// The environment variable that names their folder; without it, they are looked for beside the running program.
pub const FOLDER_VARIABLE: &str = "STILLPOINT_BIN_DIR";

/// The file of a program of the product: `stillpointd` or `stillpoint`.
///
/// # Errors
/// If it was not built; the message names the command that builds it.
pub fn program(name: &str) -> io::Result<PathBuf> {
    let here = env::current_exe()?;
    let given = env::var_os(FOLDER_VARIABLE).map(PathBuf::from);
    let folders = given.into_iter().chain(here.ancestors().skip(1).take(2).map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let text = format!("the program {name} was not built: run `cargo build --workspace --bins` first");
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}
