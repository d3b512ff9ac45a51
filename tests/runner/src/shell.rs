//! Running other programs: what is run is shown where it takes long or changes the machine, and a failure
//! says which command it was and what it printed.

use std::process::{Command, Stdio};

use crate::problem::{Outcome, Problem};

/// Runs with the terminal's own output; anything but success is a problem.
pub(crate) fn run(command: &mut Command) -> Outcome {
    if succeeds(command)? { Ok(()) } else { Err(Problem::new(format!("failed: {}", line(command)))) }
}

/// Runs with the terminal's own output and tells whether it succeeded. Standard input is always empty:
/// nothing here may wait for a person.
pub(crate) fn succeeds(command: &mut Command) -> Outcome<bool> {
    println!("  $ {}", line(command));
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

/// Whether a program of this name can be started: a path, or a name found in `PATH` or in the folders of the
/// administrator's programs, which some users' `PATH` lacks.
pub(crate) fn find(program: &str) -> Option<std::path::PathBuf> {
    if program.contains('/') {
        return Some(program.into()).filter(|path: &std::path::PathBuf| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Problem {
    Problem::new(format!("cannot start `{}`: {error}", line(command)))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
