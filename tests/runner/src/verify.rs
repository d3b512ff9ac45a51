//! `cargo verify [SUITE…]`: the checks and tests, all of them or those that were named.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::problem::Outcome;
use crate::report::{End, Report};
use crate::suites::{self, Plan, Tests};
use crate::workspace::Workspace;
use crate::{prepare, programs, python, shell};

/// The version of buf that is fetched: a lint that changes by itself would fail builds by itself.
const BUF: &str = "@bufbuild/buf@1.75.0";

/// What the tests ask of the programs beside what users get: an agent that makes trouble on request, and a service that
/// ends itself at a named call.
const FEATURES: &str = "stillpoint-agent/fault-injection,stillpoint-host/fail-points";

/// How many guests run at once where nextest, which knows better, is not there.
const THREADS: &str = "2";

pub(crate) fn verify(workspace: &Workspace, names: &[String]) -> Outcome {
    let plan = Plan::new(names, &suites::known(&workspace.root))?;
    let mut report = Report::default();
    for check in plan.checks {
        report.step(check, || match check {
            "lint" => lint(workspace),
            "proto" => proto(workspace),
            "deny" => deny(workspace),
            _ => shell::run(workspace.cargo().args(["test", "--quiet", "--doc", "--workspace"])).map(|()| End::Passed),
        });
    }
    // without it the one test of it fails, and says why
    if plan.python {
        report.step("python", || python::ensure(workspace).map(|()| End::Passed));
    }
    let ready = !plan.guest || report.step("set-up", || prepare(workspace).map(|()| End::Passed));
    // without a guest the tests on guests fail, and say why; the others are worth running
    if plan.tests != Tests::None && (ready || plan.tests == Tests::All) {
        let built = report.step("build", || build(workspace, plan.guest).map(|()| End::Passed));
        if built {
            report.step("tests", || tests(workspace, &plan.tests).map(|()| End::Passed));
        }
    }
    report.close(!names.is_empty())
}

fn lint(workspace: &Workspace) -> Outcome<End> {
    let formatted = shell::run(workspace.cargo().args(["fmt", "--all", "--check"]));
    let words = ["clippy", "--quiet", "--workspace", "--all-targets", "--features", FEATURES, "--", "-D", "warnings"];
    shell::run(workspace.cargo().args(words))?;
    formatted.map(|()| End::Passed)
}

fn proto(workspace: &Workspace) -> Outcome<End> {
    if shell::find("npm").is_none() {
        return Ok(End::NotRun("buf comes by npm, which is not on this machine"));
    }
    let folder = workspace.target.join("buf");
    let buf = folder.join("node_modules/.bin/buf");
    if !buf.exists() {
        shell::run(Command::new("npm").args(["install", "--silent", "--no-save", "--prefix"]).arg(&folder).arg(BUF))?;
    }
    shell::run(Command::new(buf).arg("lint").current_dir(workspace.root.join("proto")))?;
    Ok(End::Passed)
}

fn deny(workspace: &Workspace) -> Outcome<End> {
    if !has_subcommand("deny") {
        return Ok(End::NotRun("cargo-deny is not on this machine"));
    }
    shell::run(workspace.cargo().args(["deny", "--offline", "check", "licenses", "bans", "sources"]))?;
    Ok(End::Passed)
}

/// Guests are served by the programs as users start them, so these are built too, together with the tests: built
/// apart they would be compiled with other features, and twice.
fn build(workspace: &Workspace, with_programs: bool) -> Outcome {
    let mut cargo = workspace.cargo();
    cargo.args([
        "build",
        "--quiet",
        "--workspace",
        "--features",
        FEATURES,
        if with_programs { "--all-targets" } else { "--tests" },
    ]);
    shell::run(&mut cargo)
}

fn tests(workspace: &Workspace, tests: &Tests) -> Outcome {
    let nextest = has_subcommand("nextest");
    let commands = if nextest { vec![nextest_words(tests)] } else { cargo_test_words(tests) };
    for words in commands {
        let mut cargo = workspace.cargo();
        cargo.args(words).env("RUST_TEST_THREADS", THREADS);
        programs::environment(&mut cargo, workspace, "debug");
        shell::run(&mut cargo)?;
    }
    Ok(())
}

fn nextest_words(tests: &Tests) -> Vec<String> {
    let mut words = words(&["nextest", "run", "--workspace", "--features", FEATURES, "--no-fail-fast"]);
    if let Some(filter) = filter(tests) {
        words.extend(["-E".to_owned(), filter]);
    }
    words
}

fn filter(tests: &Tests) -> Option<String> {
    let Tests::Some { unit, binaries } = tests else { return None };
    let unit = unit.then(|| "not (package(stillpoint-tests) & kind(test))".to_owned());
    let binaries = binaries.iter().map(|name| format!("(kind(test) & binary(={name}))"));
    Some(unit.into_iter().chain(binaries).collect::<Vec<_>>().join(" + "))
}

fn cargo_test_words(tests: &Tests) -> Vec<Vec<String>> {
    match tests {
        Tests::None => Vec::new(),
        Tests::All => vec![words(&["test", "--workspace", "--features", FEATURES, "--all-targets", "--no-fail-fast"])],
        Tests::Some { unit, binaries } => {
            let own = ["test", "--workspace", "--features", FEATURES, "--exclude", "stillpoint-tests", "--all-targets"];
            let own = words(&own);
            let mut commands =
                if *unit { vec![own, words(&["test", "-p", "stillpoint-tests", "--lib"])] } else { Vec::new() };
            if !binaries.is_empty() {
                commands.push(named(binaries));
            }
            commands
        }
    }
}

fn named(binaries: &BTreeSet<String>) -> Vec<String> {
    let names = binaries.iter().flat_map(|name| ["--test".to_owned(), name.clone()]);
    words(&["test", "--workspace", "--features", FEATURES]).into_iter().chain(names).collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Cargo's own folder of programs need not be in `PATH`.
fn has_subcommand(name: &str) -> bool {
    let program = format!("cargo-{name}");
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")));
    shell::find(&program).is_some() || home.is_ok_and(|home| Path::new(&home).join("bin").join(program).is_file())
}
