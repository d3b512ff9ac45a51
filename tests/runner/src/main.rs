//! The program behind `cargo demo`, `cargo verify` and `cargo compare`.
//!
//! Each of them first brings the machine to where it can run (packages, test guest), then does its work. All of it
//! may be repeated: the second time nothing is fetched and nothing is installed.

mod debian;
mod guest;
mod packages;
mod problem;
mod programs;
mod python;
mod report;
mod shell;
mod suites;
mod verify;
mod workspace;

use std::process::ExitCode;

use problem::{Outcome, Problem};
use workspace::Workspace;

const USE: &str = "use: cargo verify [SUITE…] | cargo demo | cargo compare [--json] [MEASURE…]\n\
                   also: cargo run -p stillpoint-runner -- guest   (only make the test guest)";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("\n{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Outcome {
    let Some((what, rest)) = words.split_first() else { return Err(Problem::new(USE)) };
    let workspace = Workspace::find()?;
    match what.as_str() {
        "verify" => verify::verify(&workspace, rest),
        "demo" => programs::DEMO.run(&workspace, rest),
        "compare" => programs::COMPARE.run(&workspace, rest),
        "guest" => prepare(&workspace),
        _ => Err(Problem::new(USE)),
    }
}

/// Everything a real guest needs.
fn prepare(workspace: &Workspace) -> Outcome {
    eprintln!("Preparing the test guest");
    packages::ensure(&workspace.guest())?;
    guest::ensure(workspace)
}
