//! The suites: what each name stands for.
//!
//! A suite is a file in `tests/suites` (or in the `tests` folder of a crate), known by the file's name; `guest_NAME.rs`
//! is the part of suite NAME that needs real guests, and suite `guest` is all of those. Beside these there are:
//!
//! | name | what |
//! |---|---|
//! | `lint` | formatting and clippy, warnings are errors |
//! | `proto` | buf's lint of the .proto files |
//! | `deny` | licences, sources and duplicates of dependencies |
//! | `doc` | the examples in the documentation |
//! | `unit` | every test that stands beside the code it tests, or in the `tests` folder of its crate |

use std::collections::BTreeSet;
use std::path::Path;

use crate::problem::{Outcome, Problem};

/// The suites that are no test binaries, in the order in which they run.
pub(crate) const CHECKS: [&str; 4] = ["lint", "proto", "deny", "doc"];

/// What was asked for, sorted out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Those of [`CHECKS`] to run.
    pub(crate) checks: Vec<&'static str>,
    /// The tests to run.
    pub(crate) tests: Tests,
    /// Whether real guests are among them.
    pub(crate) guest: bool,
    /// Whether the example in Python is.
    pub(crate) python: bool,
}

/// A choice of tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Tests {
    /// No test binary.
    #[default]
    None,
    /// Every one in the workspace.
    All,
    /// Some.
    Some {
        /// Those beside the code.
        unit: bool,
        /// Test binaries by name.
        binaries: BTreeSet<String>,
    },
}

impl Plan {
    /// Everything if nothing is named.
    ///
    /// A name nobody knows is a problem that lists the known ones.
    pub(crate) fn new(names: &[String], known: &BTreeSet<String>) -> Outcome<Self> {
        if names.is_empty() {
            return Ok(Self { checks: CHECKS.to_vec(), tests: Tests::All, guest: true, python: true });
        }
        let mut plan = Self::default();
        let (mut unit, mut binaries) = (false, BTreeSet::new());
        for name in names {
            if let Some(check) = CHECKS.iter().find(|check| *check == name) {
                plan.checks.push(check);
            } else if name == "unit" {
                unit = true;
            } else {
                binaries.extend(binaries_of(name, known)?);
            }
        }
        plan.guest = binaries.iter().any(|binary| needs_guest(binary));
        plan.python = unit || ["python", "sqlite"].iter().any(|name| binaries.contains(*name));
        if unit || !binaries.is_empty() {
            plan.tests = Tests::Some { unit, binaries };
        }
        Ok(plan)
    }
}

fn needs_guest(binary: &str) -> bool {
    binary.starts_with("guest")
}

fn binaries_of(suite: &str, known: &BTreeSet<String>) -> Outcome<Vec<String>> {
    let on_guests = format!("guest_{suite}");
    let belongs =
        |binary: &&String| **binary == suite || **binary == on_guests || (suite == "guest" && needs_guest(binary));
    let found: Vec<String> = known.iter().filter(belongs).cloned().collect();
    if found.is_empty() {
        let names: Vec<&str> = known.iter().map(|name| name.trim_start_matches("guest_")).collect();
        let checks = CHECKS.join(" ");
        let text = format!("no suite is called `{suite}`; there are: {checks} unit guest {}", names.join(" "));
        return Err(Problem::new(text));
    }
    Ok(found)
}

/// The test binaries there are, by the files they are made from.
pub(crate) fn known(root: &Path) -> BTreeSet<String> {
    let crates = std::fs::read_dir(root.join("host/crates")).into_iter().flatten().flatten().map(|entry| entry.path());
    let others = ["common", "common/transport", "proto", "host", "guest-agent"].map(|name| root.join(name));
    let folders = crates.chain(others).map(|path| path.join("tests")).chain([root.join("tests/suites")]);
    folders.flat_map(|folder| rust_files(&folder)).collect()
}

fn rust_files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(names: &[&str]) -> Outcome<Plan> {
        let known = ["model", "memory", "guest_memory", "guest_image"].map(str::to_owned).into();
        Plan::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &known)
    }

    fn some(unit: bool, binaries: &[&str]) -> Tests {
        Tests::Some { unit, binaries: binaries.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn without_names_everything_runs() {
        assert_eq!(plan(&[]).unwrap(), Plan { checks: CHECKS.to_vec(), tests: Tests::All, guest: true, python: true });
    }

    #[test]
    fn a_name_stands_for_its_binary_and_the_one_on_guests() {
        assert_eq!(
            plan(&["memory"]).unwrap(),
            Plan { guest: true, tests: some(false, &["memory", "guest_memory"]), ..Plan::default() }
        );
        let with_unit = Plan { tests: some(true, &["model"]), python: true, ..Plan::default() };
        assert_eq!(plan(&["model", "unit"]).unwrap(), with_unit);
        assert_eq!(plan(&["guest"]).unwrap().tests, some(false, &["guest_image", "guest_memory"]));
        assert_eq!(plan(&["lint"]).unwrap(), Plan { checks: vec!["lint"], ..Plan::default() });
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let text = plan(&["modle"]).unwrap_err().to_string();
        assert!(text.contains("`modle`") && text.contains("model") && text.contains("lint"), "{text}");
    }
}
