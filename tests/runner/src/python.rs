//! What the example of a writer in Python needs: gRPC from PyPI, in an environment of its own below the target folder.
//! Installed once; nothing of this machine's Python is touched.

use std::process::Command;

use crate::problem::{Outcome, Problem};
use crate::shell;
use crate::workspace::Workspace;

/// Fixed: what is fetched by itself must not change by itself.
const PACKAGES: [&str; 2] = ["grpcio==1.76.0", "grpcio-tools==1.76.0"];

/// Makes the environment, if it is not there.
pub(crate) fn ensure(workspace: &Workspace) -> Outcome {
    if std::env::var_os("STILLPOINT_PYTHON").is_some() {
        return Ok(());
    }
    let done = workspace.target.join("python");
    if done.join("installed").is_file() {
        return Ok(());
    }
    if shell::find("python3").is_none() {
        return Err(Problem::new("tests of writers need python3 (Debian: python3 python3-venv)"));
    }
    eprintln!("  installing from PyPI below the target folder, for the example in Python: {}", PACKAGES.join(" "));
    if done.is_dir() {
        std::fs::remove_dir_all(&done).map_err(Problem::file(&done))?;
    }
    shell::run(Command::new("python3").args(["-m", "venv"]).arg(&done))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"];
    shell::run(Command::new(done.join("bin/python")).args(pip).args(PACKAGES))?;
    let mark = done.join("installed");
    std::fs::write(&mark, PACKAGES.join("\n")).map_err(Problem::file(&mark))
}
