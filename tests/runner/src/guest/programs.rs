//! Our own programs as they go into the guest: linked statically, so that they run in any Linux guest.

use std::path::PathBuf;

use crate::problem::{Outcome, Problem};
use crate::shell;
use crate::workspace::Workspace;

/// `--target` is given although it is this machine's own: without it the static linking would be asked of build
/// scripts and procedural macros too, which cannot do it.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds `packages` with these features of theirs, and says where their programs are, which have the packages' names.
/// The next build puts its programs in the same place.
pub(super) fn build(workspace: &Workspace, packages: &[&str], features: &[&str]) -> Outcome<Vec<PathBuf>> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--quiet", "--profile", "guest", "--target", TARGET]);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    for package in packages {
        cargo.args(["-p", package]);
    }
    for feature in features {
        cargo.args(["--features", feature]);
    }
    shell::run(&mut cargo)?;
    let folder = workspace.target.join(TARGET).join("guest");
    packages.iter().map(|name| present(folder.join(name))).collect()
}

fn present(path: PathBuf) -> Outcome<PathBuf> {
    if path.is_file() { Ok(path) } else { Err(Problem::new(format!("cargo did not build {}", path.display()))) }
}
