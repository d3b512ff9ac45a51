//! Dependencies between the workspace's crates point one way.
//!
//! ```text
//! common ← proto  ← { host service, cli, guest agent, tests }; the cli reads memory states without their port
//! common ← engine ← { qemu, memory, store, guestlink, transfer, sim } ← host service
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// For each crate, those of this workspace that it may use in what is shipped. A new crate must be added here,
/// which is the moment to think about where it stands.
const MAY_USE: &[(&str, &[&str])] = &[
    ("common", &[]),
    ("transport", &["common"]),
    ("proto", &["common"]),
    ("engine", &["common"]),
    ("qemu", &["common", "engine"]),
    ("memory", &["common", "engine"]),
    ("store", &["common", "engine"]),
    ("guestlink", &["common", "engine", "proto", "transport"]),
    ("transfer", &["common", "engine"]),
    ("sim", &["common", "engine"]),
    ("host", &["common", "engine", "guestlink", "memory", "proto", "qemu", "store", "transfer", "transport"]),
    ("cli", &["common", "memory", "proto", "transport"]),
    ("agent", &["common", "proto", "transport"]),
    (
        "tests",
        &[
            "agent",
            "cli",
            "common",
            "engine",
            "guestlink",
            "host",
            "memory",
            "proto",
            "qemu",
            "sim",
            "store",
            "transfer",
            "transport",
        ],
    ),
    ("runner", &[]),
    ("lab", &[]),
];

/// Crates from outside that would bring in what a crate of ours must not know, with the reason.
const MUST_NOT_USE: &[(&str, &[&str], &str)] = &[
    ("common", &["tokio", "tonic", "prost", "rustix"], "the vocabulary does no I/O and waits for nothing"),
    ("engine", &["tonic", "prost", "prost-types", "hyper", "rustix"], "what decides knows no wire and no system"),
    ("sim", &["tonic", "prost"], "the simulation is of the engine's ports, not of the wire"),
    ("runner", &["serde", "serde_json", "tokio", "clap"], "a fresh machine builds it first, in seconds"),
];

#[test]
fn dependencies_between_our_crates_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    for (name, uses) in crates() {
        let Some(may) = allowed.get(name.as_str()) else {
            panic!("stillpoint-{name} is not in MAY_USE: say there what it may use");
        };
        let ours = uses.shipped.iter().filter_map(|used| used.strip_prefix("stillpoint-"));
        let wrong: Vec<&str> = ours.filter(|used| !may.contains(used)).collect();
        assert!(wrong.is_empty(), "stillpoint-{name} must not use {wrong:?}; it may use {may:?}");
    }
}

#[test]
fn tests_of_a_crate_use_what_stands_below_it_or_a_real_or_simulated_peer() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    for (name, uses) in crates() {
        let may = allowed.get(name.as_str()).copied().unwrap_or_default();
        let ours = uses.in_tests.iter().filter_map(|used| used.strip_prefix("stillpoint-"));
        let wrong: Vec<&str> = ours
            .filter(|used| !may.contains(used) && !["sim", "agent", "memory"].contains(used) && *used != name)
            .collect();
        assert!(wrong.is_empty(), "the tests of stillpoint-{name} must not use {wrong:?}");
    }
}

#[test]
fn what_decides_knows_no_wire_and_the_vocabulary_no_io() {
    let crates = crates();
    for (name, forbidden, reason) in MUST_NOT_USE {
        let uses =
            crates.get(*name).unwrap_or_else(|| panic!("stillpoint-{name} is gone: take it out of MUST_NOT_USE"));
        let wrong: Vec<&&str> = forbidden.iter().filter(|used| uses.shipped.contains(**used)).collect();
        assert!(wrong.is_empty(), "stillpoint-{name} must not use {wrong:?}: {reason}");
    }
}

/// What one crate names in its manifest.
#[derive(Debug, Default)]
struct Uses {
    /// Ordinary and build dependencies.
    shipped: BTreeSet<String>,
    /// Dependencies of its tests alone.
    in_tests: BTreeSet<String>,
}

/// The workspace's crates by name, without the `stillpoint-` that all of them carry.
fn crates() -> BTreeMap<String, Uses> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut ask = Command::new(cargo);
    ask.args(["metadata", "--no-deps", "--format-version=1", "--offline"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let answer = ask.output().expect("cargo can be started");
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let metadata: Value = serde_json::from_slice(&answer.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("it lists packages");
    packages.iter().map(|package| (short(&package["name"]), uses(&package["dependencies"]))).collect()
}

fn short(name: &Value) -> String {
    let name = name.as_str().expect("a package has a name");
    name.strip_prefix("stillpoint-").unwrap_or_else(|| panic!("{name}: our crates are called stillpoint-…")).to_owned()
}

fn uses(dependencies: &Value) -> Uses {
    let mut uses = Uses::default();
    for dependency in dependencies.as_array().expect("a package lists its dependencies") {
        let name = dependency["name"].as_str().expect("a dependency has a name").to_owned();
        let list = if dependency["kind"] == "dev" { &mut uses.in_tests } else { &mut uses.shipped };
        list.insert(name);
    }
    uses
}

/// `host/docs/errors.md` has one row for each reason, with its advice, and no other.
#[test]
fn every_reason_has_its_row_in_the_document_of_errors() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../host/docs/errors.md");
    let document = std::fs::read_to_string(path).expect("the document is there");
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows.len(), stillpoint_common::Reason::ALL.len(), "rows of the document");
    for reason in stillpoint_common::Reason::ALL {
        let (begin, end) = (format!("| `{}` |", reason.code()), format!("| {} |", reason.advice()));
        assert!(rows.iter().any(|row| row.starts_with(&begin) && row.ends_with(&end)), "no row for {}", reason.code());
    }
}

/// A port's method with a body of its own would not be missed by the compiler where the engine limits its waits.
#[test]
fn every_method_of_a_port_is_limited_in_time_by_the_engine() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../host/crates/engine/src");
    let methods = |path: String, begin: &str| -> BTreeSet<String> {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let text = text.split(begin).nth(1).unwrap_or_default();
        let lines = text.lines().take_while(|line| *line != "}");
        let declared = lines.filter_map(|line| line.strip_prefix("    async fn ").or(line.strip_prefix("    fn ")));
        declared.filter_map(|line| line.split('(').next().map(str::to_owned)).collect()
    };
    for entry in std::fs::read_dir(format!("{folder}/ports")).expect("there are ports") {
        let name = entry.expect("it can be read").file_name().into_string().expect("a plain name");
        if ["mod.rs", "clock.rs", "stop.rs"].contains(&name.as_str()) {
            continue; // which wait for nothing
        }
        let declared = methods(format!("{folder}/ports/{name}"), "\npub trait ");
        assert!(!declared.is_empty(), "no trait is found in ports/{name}");
        let limited = methods(format!("{folder}/bounded/{name}"), "\nimpl ");
        let missing: Vec<_> = declared.difference(&limited).collect();
        assert!(missing.is_empty(), "engine/src/bounded/{name} does not pass on {missing:?}");
    }
}

/// `host/docs/operations.md` has one row for each kind of finding, with its advice.
#[test]
fn every_finding_has_its_row_in_the_document_of_operations() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../host/docs/operations.md");
    let document = std::fs::read_to_string(path).expect("the document is there");
    for kind in stillpoint_common::FindingKind::ALL {
        let row = format!("| `{}` | {} |", kind.code(), kind.advice());
        assert!(document.lines().any(|line| line == row), "no row {row}");
    }
}

/// Fail points end the service: no build has them that did not ask for them by name.
#[test]
fn fail_points_are_in_no_build_that_users_get() {
    for name in ["host", "host/crates/engine"] {
        let path = format!("{}/../{name}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
        let manifest = std::fs::read_to_string(path).expect("the manifest is there");
        let asked: Vec<&str> = manifest.lines().filter(|line| line.contains("fail-points")).collect();
        let features = ["fail-points = []", "fail-points = [\"stillpoint-engine/fail-points\"]"];
        assert!(asked.len() == 1 && features.contains(&asked[0]), "{name}: {asked:?}");
        assert!(!manifest.contains("default ="), "{name} has features that nobody asked for");
    }
    let code = concat!(env!("CARGO_MANIFEST_DIR"), "/../host/crates/engine/src/bounded/mod.rs");
    let code = std::fs::read_to_string(code).expect("the code is there");
    let lines: Vec<&str> = code.lines().collect();
    let uses = (0..lines.len()).filter(|at| lines[*at].contains("fail_point")).collect::<Vec<_>>();
    assert_eq!(uses.len(), 3);
    for at in uses {
        assert_eq!(lines[at - 1].trim(), "#[cfg(feature = \"fail-points\")]", "line {at}");
    }
}

/// `host/docs/checklist.md` promises tests: each name in it is the name of one.
#[test]
fn the_checklist_names_only_tests_that_exist() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let document = std::fs::read_to_string(format!("{root}/host/docs/checklist.md")).expect("the document is there");
    let is_test = |word: &&str| {
        word.len() > 18 && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let named: BTreeSet<&str> = document.split('`').skip(1).step_by(2).filter(is_test).collect();
    let folders = ["tests", "host", "proto/src", "proto/tests", "common/src", "guest-agent/src", "guest-agent/tests"];
    let sources: String = folders.iter().map(|folder| rust_below(format!("{root}/{folder}").as_ref())).collect();
    let missing: Vec<_> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    let by_macro: Vec<_> = missing.into_iter().filter(|name| !sources.contains(&format!("    {name} "))).collect();
    assert!(named.len() > 50 && by_macro.is_empty(), "no such tests: {by_macro:?}");
}

/// The text of every Rust file below a folder.
fn rust_below(folder: &std::path::Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            text += &rust_below(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(&path).unwrap_or_default();
        }
    }
    text
}
