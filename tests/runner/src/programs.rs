//! `cargo demo` and `cargo compare`: programs of the tests' crate that need the product's programs beside them.

use std::process::Command;

use crate::problem::Outcome;
use crate::workspace::Workspace;
use crate::{prepare, shell};

/// A program to run after everything it needs was built.
pub(crate) struct Program {
    /// Its name: a binary of the crate `stillpoint-tests`.
    pub(crate) name: &'static str,
    /// Whether it is built for speed. What is measured is; what is only shown need not be, and is there sooner.
    pub(crate) fast: bool,
}

pub(crate) const DEMO: Program = Program { name: "stillpoint-demo", fast: false };
pub(crate) const COMPARE: Program = Program { name: "stillpoint-compare", fast: true };

impl Program {
    /// Prepares the machine and runs the program with `words`; its output is ours, and so is its failure.
    pub(crate) fn run(&self, workspace: &Workspace, words: &[String]) -> Outcome {
        prepare(workspace)?;
        let mut cargo = workspace.cargo();
        cargo.args([
            "build",
            "--quiet",
            "-p",
            "stillpoint-host",
            "-p",
            "stillpoint-cli",
            "-p",
            "stillpoint-tests",
            "--bins",
        ]);
        if self.fast {
            cargo.arg("--profile=measure");
        }
        shell::run(&mut cargo)?;
        let profile = if self.fast { "measure" } else { "debug" };
        let mut program = Command::new(workspace.target.join(profile).join(self.name));
        environment(&mut program, workspace, profile);
        shell::hand_over(program.args(words))
    }
}

/// Where the guest's files and the product's programs are, for who looks for them.
pub(crate) fn environment(command: &mut Command, workspace: &Workspace, profile: &str) {
    command.env("STILLPOINT_GUEST_DIR", workspace.guest());
    command.env("STILLPOINT_BIN_DIR", workspace.target.join(profile));
}
