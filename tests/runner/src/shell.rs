//! Running other programs: what is run is shown where it takes long or changes the machine, and a failure
//! says which command it was and what it printed.
//!
//! Standard input is always empty: nothing here may wait for a person. All but [`hand_over`] print to standard error,
//! so that the output of `cargo compare --json` is JSON and nothing else.

use std::io::stderr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::problem::{Outcome, Problem};

/// Runs with its output on standard error; anything but success is a problem.
pub(crate) fn run(command: &mut Command) -> Outcome {
    if succeeds(command)? { Ok(()) } else { Err(Problem::new(format!("failed: {}", line(command)))) }
}

/// Runs with its output on standard error and tells whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> Outcome<bool> {
    eprintln!("  $ {}", line(command));
    status(command.stdout(stderr()))
}

/// Runs in our place: its output is ours.
pub(crate) fn hand_over(command: &mut Command) -> Outcome {
    eprintln!("  $ {}", line(command));
    if status(command)? { Ok(()) } else { Err(Problem::new(format!("failed: {}", line(command)))) }
}

fn status(command: &mut Command) -> Outcome<bool> {
    command.stdin(Stdio::null()).status().map(|status| status.success()).map_err(|e| cannot_start(command, &e))
}

/// Runs in silence and returns standard output; on failure the problem carries what was printed.
pub(crate) fn read(command: &mut Command) -> Outcome<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| cannot_start(command, &e))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Problem::new(format!("failed: {}\n{text}{errors}", line(command))))
}

/// The program's file: a path as it is, a name looked up in `PATH` and in the folders of the administrator's
/// programs, which some users' `PATH` lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Problem {
    Problem::new(format!("cannot start `{}`: {error}", line(command)))
}

fn line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or_default().to_owned();
    let words = command.get_args().map(|word| word.to_string_lossy());
    std::iter::once(name.into()).chain(words).collect::<Vec<_>>().join(" ")
}
