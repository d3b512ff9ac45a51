//! The real program against a service with canned answers: what it prints, asks and answers.

#![allow(missing_docs, clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

mod fake;

use std::{
    io::Read as _,
    process::{Child, Command, Output, Stdio},
};

use fake::{CLEAN, Fake, HANGING, POINT, SESSION, TWIN_A, TWIN_B, UPGRADE};
use serde_json::Value;

fn command(fake: &Fake, arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("stillpoint"));
    command.args(arguments).env("STILLPOINT_SOCKET", fake.socket()).stdin(Stdio::null());
    command
}

fn run(fake: &Fake, arguments: &[&str]) -> Output {
    command(fake, arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Standard output of a command that succeeds.
fn says(fake: &Fake, arguments: &[&str]) -> String {
    let output = run(fake, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    stdout(&output).to_owned()
}

fn json(fake: &Fake, arguments: &[&str]) -> Value {
    serde_json::from_str(&says(fake, &[arguments, &["--json"]].concat())).unwrap()
}

/// Exit code and standard error of a command that does not succeed and prints no answer.
fn refused(fake: &Fake, arguments: &[&str]) -> (i32, String) {
    let output = run(fake, arguments);
    assert_eq!(stdout(&output), "");
    (output.status.code().unwrap(), stderr(&output).to_owned())
}

#[test]
fn the_tree_shows_where_now_is_and_what_each_checkpoint_is() {
    let drawn = says(&Fake::start(), &["checkpoint", "tree", "web"]);
    let expected = "\
web
└─ clean install          019a0000-0  PRODUCTION  FILE_SYSTEM  3 days ago
   ├─ before the upgrade  019b1111-0  STANDARD    MEMORY       2 h ago     412 MiB memory  instead of PRODUCTION: AGENT_UNREACHABLE
   │  └─ Now (Running)
   ├─ twin                019c2222-0  PRODUCTION  FILE_SYSTEM  1 h ago                     hazards
   └─ twin                019c2222-3  PRODUCTION  FILE_SYSTEM  1 h ago                     hazards
";
    assert_eq!(drawn, expected, "{drawn}");
}

#[test]
fn a_vm_without_checkpoints_is_a_tree_of_now() {
    let fake = Fake::start();
    assert_eq!(says(&fake, &["checkpoint", "tree", "db"]), "db\n└─ Now (Off)\n");
    assert_eq!(says(&fake, &["checkpoint", "list", "db"]), "VM db has no checkpoints.\n");
}

#[test]
fn lists_go_over_all_pages() {
    let list = says(&Fake::start(), &["vm", "list"]);
    let expected = "\
VM   STATE    CPUS  MEMORY   CHECKPOINTS  RUNS ON
db   Off      2     512 MiB  PRODUCTION
web  Running  2     512 MiB  PRODUCTION   TCG
";
    assert_eq!(list, expected, "{list}");
}

#[test]
fn every_answer_is_also_a_json_document() {
    let fake = Fake::start();
    assert_eq!(json(&fake, &["vm", "list"])[1]["id"], "web");
    let vm = json(&fake, &["vm", "show", "web"]);
    assert_eq!((&vm["state"], &vm["parent_checkpoint"]), (&"RUNNING".into(), &UPGRADE.into()));
    assert_eq!(vm["spec"]["disks"][0]["format"], "QCOW2");
    let tree = json(&fake, &["checkpoint", "tree", "web"]);
    assert_eq!(tree["checkpoints"][1]["fallback_reason"], "AGENT_UNREACHABLE");
    assert_eq!(tree["checkpoints"][1]["memory_bytes"], 412 << 20);
    assert_eq!(tree["checkpoints"][0]["fallback_reason"], Value::Null);
    let made = json(&fake, &["checkpoint", "create", "web"]);
    assert_eq!((&made["done"], &made["error"]), (&true.into(), &Value::Null));
    assert_eq!(made["response"]["checkpoint"]["id"], UPGRADE);
    assert_eq!((&made["phases"][0]["name"], &made["phases"][0]["took_ms"]), (&"pause".into(), &14.0.into()));
    let guest = json(&fake, &["guest", "show", "web"]);
    assert_eq!(guest["writers"][0]["result"], "FAILED");
    assert_eq!(guest["writers"][0]["metadata"]["lsn"], "0/16B3748");
    assert_eq!(json(&fake, &["host", "show"])["qemu_version"], "10.0.2");
    assert_eq!(json(&fake, &["operation", "list", "--at-work"]).as_array().unwrap().len(), 1);
}

#[test]
fn the_whole_configuration_of_a_vm_and_a_checkpoint_can_be_read_and_compared() {
    let fake = Fake::start();
    let expected = "\
cpus:         2
memory:       512 MiB
accelerator:  AUTO
firmware:     BIOS
tpm:          none
boots:        from its disks
serial log:   none

Disks
  DISK    IMAGE          FORMAT
  system  /vm/web.qcow2  QCOW2
";
    assert_eq!(says(&fake, &["vm", "show", "web", "--config"]), expected);
    assert_eq!(says(&fake, &["checkpoint", "show", "web", "clean install", "--config"]), expected);
    let file = fake.folder.path().join("config.json");
    std::fs::write(&file, says(&fake, &["checkpoint", "show", "web", CLEAN, "--config", "--json"])).unwrap();
    says(&fake, &["vm", "create", "copy", "--from", file.to_str().unwrap()]);
    assert!(fake.asked()[0].starts_with("create copy Production VmDefinition { cpus: 2"), "{:?}", fake.asked());

    let same = says(&fake, &["checkpoint", "diff", "web", "clean install"]);
    assert_eq!(same, "\"clean install\" and Now are made of the same.\n");
    let expected = "\
From \"clean install\" to \"before the upgrade\":

WHAT        FROM  TO
cpus        2     4
serial_log  none  /log/web
";
    assert_eq!(says(&fake, &["checkpoint", "diff", "web", "clean install", "019b"]), expected);
    let document = json(&fake, &["checkpoint", "diff", "web", "019b", "clean install"]);
    assert_eq!((&document["from"], &document["to"]), (&UPGRADE.into(), &CLEAN.into()));
    assert_eq!(document["spec_changes"][0], serde_json::json!({"field": "cpus", "from": "4", "to": "2"}));
    assert_eq!(json(&fake, &["checkpoint", "diff", "web", CLEAN])["to"], Value::Null);
}

#[test]
fn a_rebuild_says_what_it_took_and_what_it_left_and_why() {
    let fake = Fake::start();
    let expected = "\
taken web: 2 checkpoints, 3 layers, running
  /vm/old.qcow2 does not exist
left /mnt/db.vm.json
  VM db is in the catalogue already and was not touched
";
    assert_eq!(says(&fake, &["host", "rebuild", "/mnt"]), expected);
    assert_eq!(json(&fake, &["host", "rebuild", "/mnt"])["left"][0]["file"], "/mnt/db.vm.json");
}

#[test]
fn a_check_that_finds_something_wrong_says_what_to_do_and_ends_with_4() {
    let fake = Fake::start();
    let output = run(&fake, &["host", "check"]);
    assert_eq!(output.status.code(), Some(4));
    let text = stdout(&output);
    assert!(text.starts_with("LAYER_MISSING web: /vm/web-1.qcow2 (disk system) does not exist\n"), "{text}");
    assert!(text.contains(&format!("keeps from using: {UPGRADE}, Now")) && text.contains("what to do: Put"), "{text}");
    let output = run(&fake, &["host", "check", "web", "--json"]);
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &findings[0]["kind"]), (Some(4), &"LAYER_MISSING".into()));
    assert_eq!(says(&fake, &["host", "check", "db"]), "Everything is as the catalogue says.\n");
    assert_eq!(json(&fake, &["host", "check", "db"]), Value::Array(vec![]));
}

#[test]
fn layers_are_listed_with_what_they_lie_on_and_reconnected_by_disk_or_by_id() {
    let fake = Fake::start();
    let (base, head) = ("a".repeat(24), "b".repeat(24));
    let expected = format!(
        "\
DISK    LAYER                     TYPE          FORMAT  SIZE   ON DISK  READ BY            STATE
system  {base}  BASE          qcow2   1 GiB  512 MiB  1 checkpoint, Now  OK
system  {head}  DIFFERENCING  qcow2   1 GiB  -        Now                MISSING

{base}: /vm/web.qcow2
{head}: /vm/web-b.qcow2 on /vm/web.qcow2
"
    );
    let listed = says(&fake, &["vm", "layers", "web"]);
    assert_eq!(listed, expected, "{listed}");
    assert_eq!(json(&fake, &["vm", "layers", "web"])[1]["backing_path"], "/vm/web.qcow2");
    says(&fake, &["vm", "reconnect", "web", "system", "/new"]);
    says(&fake, &["vm", "reconnect", "web", &head, "/vm/other.qcow2", "--accept-changed"]);
    let asked = fake.asked();
    assert!(asked.iter().any(|asked| asked.contains("reconnect web Disk") && asked.ends_with("/new")), "{asked:?}");
    assert!(asked.iter().any(|asked| asked.contains("reconnect web Layer")), "{asked:?}");
}

#[test]
fn a_refusal_says_what_to_do_and_ends_with_1() {
    let fake = Fake::start();
    let (code, error) = refused(&fake, &["vm", "show", "mail"]);
    assert_eq!(code, 1);
    let expected =
        "error: there is no VM mail\nreason: VM_NOT_FOUND\nwhat to do: List the VMs with `stillpoint vm list`.\n";
    assert_eq!(error, expected);
    let output = run(&fake, &["vm", "pause", "web", "--json"]);
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &error["error"]["reason"]), (Some(1), &"VM_BUSY".into()));
    assert!(error["error"]["message"].as_str().unwrap().contains("busy with operation"));
    let (_, error) = refused(&fake, &["checkpoint", "create", "web", "--name", &"x".repeat(101)]);
    assert!(error.contains("display_name: is 101 characters long"), "{error}");
}

#[test]
fn a_service_that_cannot_be_reached_is_named_and_ends_with_3() {
    let fake = Fake::start();
    let nowhere = fake.folder.path().join("nowhere.sock");
    let (code, error) = refused(&fake, &["vm", "list", "--socket", nowhere.to_str().unwrap()]);
    assert_eq!(code, 3);
    assert!(error.contains("nowhere.sock: No such file"), "{error}");
    assert!(error.contains("systemctl start stillpointd") && error.contains("STILLPOINT_SOCKET"), "{error}");
}

#[test]
fn what_is_typed_wrongly_ends_with_2() {
    let fake = Fake::start();
    for wrong in [
        &["vm", "create", "web", "--memory", "lots"][..],
        &["vm", "create", "web", "--memory", "1G", "--disk", "name=a,path=/a"],
        &["vm", "create", "web"],
        &["vm", "show", "Web"],
        &["vm", "update", "web"],
        &["checkpoint", "create", "web", "--policy", "perhaps"],
        &["nonsense"],
    ] {
        assert_eq!(refused(&fake, wrong).0, 2, "{wrong:?}");
    }
    assert_eq!(fake.asked(), [""; 0]);
}

#[test]
fn a_fallback_is_a_warning_and_phases_are_told() {
    let fake = Fake::start();
    let output = run(&fake, &["checkpoint", "create", "web", "--name", "before the upgrade"]);
    assert_eq!(stdout(&output), format!("\"before the upgrade\" is made: STANDARD, MEMORY\n{UPGRADE}\n"));
    let expected = "  paused 14 ms\n  captured 1.2 s\nwarning: a PRODUCTION checkpoint was asked for and a STANDARD one \
                    was made: no guest agent answers: the channel is closed (AGENT_UNREACHABLE)\n";
    assert_eq!(stderr(&output), expected);
    assert_eq!(fake.asked(), ["checkpoint web Some(CheckpointName(\"before the upgrade\")) None"]);
}

#[test]
fn an_operation_that_fails_fails_the_command() {
    let (code, error) = refused(&Fake::start(), &["checkpoint", "create", "web", "--policy", "production-only"]);
    assert_eq!(code, 1);
    assert!(error.contains("error: file system /data cannot be frozen: EIO\nreason: QUIESCE_FAILED\n"), "{error}");
}

#[test]
fn async_answers_with_the_operation_at_once() {
    let fake = Fake::start();
    let output = run(&fake, &["vm", "resume", "web", "--async"]);
    assert_eq!(stdout(&output), format!("{HANGING}\n"));
    assert_eq!(stderr(&output), format!("watch it with: stillpoint operation watch {HANGING}\n"));
    assert_eq!(json(&fake, &["vm", "resume", "web", "--async"])["done"], false);
}

#[test]
fn what_would_be_lost_must_be_agreed_to() {
    let fake = Fake::start();
    let (code, error) = refused(&fake, &["checkpoint", "revert", "web", "--yes"]);
    assert_eq!((code, error.contains("Add --discard-now to agree")), (2, true), "{error}");
    for wrong in [
        &["checkpoint", "apply", "web", "clean install", "--discard-now"][..],
        &["checkpoint", "revert", "web", "--discard-now"],
        &["checkpoint", "delete", "web", "clean install"],
        &["vm", "delete", "db"],
        &["vm", "discard-saved", "db"],
    ] {
        let (code, error) = refused(&fake, wrong);
        assert_eq!((code, error.contains("Add --yes")), (2, true), "{wrong:?}: {error}");
    }
    assert_eq!(fake.asked(), [""; 0]);
    let back = says(&fake, &["checkpoint", "apply", "web", "clean install", "--discard-now", "--yes"]);
    assert_eq!(
        back,
        "brought back web: Running\nits configuration went back too:\n  cpus: 4 -> 2\n  nics[0]: user -> none\n"
    );
    assert_eq!(says(&fake, &["checkpoint", "delete", "web", &TWIN_A[..12], "--yes"]), "\"twin\" is deleted\n");
    assert_eq!(fake.asked(), [format!("apply web {CLEAN}"), format!("delete web {TWIN_A}")]);
}

#[test]
fn many_checkpoints_and_a_whole_subtree_are_deleted_in_one_operation_and_only_if_agreed_to() {
    let fake = Fake::start();
    let (code, error) = refused(&fake, &["checkpoint", "delete", "web", "--yes"]);
    assert_eq!((code, error.contains("it is not said which checkpoints")), (2, true), "{error}");
    let (code, _) = refused(&fake, &["checkpoint", "delete", "web", "twin", "--older-than", "7d", "--yes"]);
    assert_eq!(code, 2, "either one or many");
    let (code, error) = refused(&fake, &["checkpoint", "delete", "web", "clean install", "--subtree"]);
    assert_eq!((code, error.contains("Add --yes")), (2, true), "{error}");
    assert_eq!(fake.asked(), [""; 0]);
    let deleted = says(&fake, &["checkpoint", "delete", "web", "clean install", "--subtree", "--yes"]);
    assert_eq!(deleted, "4 checkpoints are deleted\n");
    assert_eq!(fake.asked(), [format!("delete web {CLEAN} {UPGRADE} {TWIN_A} {TWIN_B}")]);
    says(&fake, &["checkpoint", "delete", "web", "--older-than", "7d", "--kind", "production", "--yes"]);
    let list = "list vms/web where kind = PRODUCTION AND age > 7d".to_owned();
    assert_eq!(fake.asked()[1..], [list, format!("delete web {CLEAN} {UPGRADE} {TWIN_A} {TWIN_B}")]);
}

#[test]
fn a_preview_says_what_a_deletion_moves_and_deletes_nothing() {
    let fake = Fake::start();
    let says_so = "\
DISK    MOVES    FROM             INTO
system  512 MiB  /vm/web-b.qcow2  /vm/web.qcow2
removed: /vm/web-c.qcow2
checkpoints that go: 1
to move: 512 MiB
space needed, at most: 100 MiB
free again, at least: 412 MiB
memory that goes: 0 B
time, about: 3.0 s
";
    let preview = says(&fake, &["checkpoint", "delete", "web", "clean install", "--preview"]);
    assert_eq!(preview, says_so, "{preview}");
    let document = json(&fake, &["checkpoint", "delete", "web", "clean install", "--subtree", "--preview"]);
    assert_eq!(document["checkpoints"].as_array().map(Vec::len), Some(4));
    assert_eq!((&document["merges"][0]["direction"], &document["estimated_time_ms"]), (&"DOWN".into(), &3000.0.into()));
    assert_eq!(fake.asked(), [""; 0]);
}

#[test]
fn the_memory_of_a_checkpoint_is_deleted_only_if_agreed_to() {
    let fake = Fake::start();
    let (code, _) = refused(&fake, &["checkpoint", "delete-memory", "web", "clean install"]);
    assert_eq!(code, 2);
    let deleted = says(&fake, &["checkpoint", "delete-memory", "web", "clean install", "--yes"]);
    assert_eq!(deleted, "the memory of \"clean install\" is deleted; its disks stay\n");
    assert_eq!(fake.asked(), [format!("delete memory web {CLEAN}")]);
}

#[test]
fn a_vm_is_saved_given_up_and_brought_back_as_saved_or_without_its_memory() {
    let fake = Fake::start();
    says(&fake, &["vm", "save", "web"]);
    says(&fake, &["vm", "discard-saved", "web", "--yes"]);
    let apply = ["checkpoint", "apply", "web", "clean install", "--discard-now", "--yes"];
    says(&fake, &[&apply[..], &["--to-saved"]].concat());
    says(&fake, &[&apply[..], &["--without-memory"]].concat());
    let first = ["checkpoint", "apply", "web", "clean install", "--checkpoint-first", "--yes"];
    says(&fake, &first);
    assert_eq!(refused(&fake, &[&apply[..], &["--to-saved", "--without-memory"]].concat()).0, 2);
    assert_eq!(refused(&fake, &[&apply[..], &["--checkpoint-first"]].concat()).0, 2);
    let apply = format!("apply web {CLEAN}");
    let as_asked = [" to saved", " without memory", " checkpoint first"].map(|how| format!("{apply}{how}"));
    let asked = [&["save vms/web".to_owned(), "discard saved vms/web".to_owned()][..], &as_asked].concat();
    assert_eq!(fake.asked(), asked);
}

#[test]
fn a_checkpoint_is_found_by_id_prefix_or_name_and_never_guessed() {
    let fake = Fake::start();
    for called in [CLEAN, "019a", "clean install", &format!("vms/web/checkpoints/{CLEAN}")] {
        assert_eq!(json(&fake, &["checkpoint", "show", "web", called])["id"], CLEAN);
    }
    for called in ["twin", "019c2222"] {
        let (code, error) = refused(&fake, &["checkpoint", "show", "web", called]);
        assert_eq!((code, error.contains("reason: CHECKPOINT_AMBIGUOUS")), (1, true));
        assert!(error.contains(&format!("\n  {TWIN_A}  \"twin\"  ")), "{error}");
    }
    for called in ["019", "nothing", "019a0000-0000-7000-8000-00000000ffff"] {
        assert!(refused(&fake, &["checkpoint", "show", "web", called]).1.contains("reason: CHECKPOINT_NOT_FOUND"));
    }
}

#[test]
fn a_vm_is_made_from_flags_or_from_what_another_one_shows() {
    let fake = Fake::start();
    let disk = "name=system,path=relative.qcow2,format=qcow2";
    let flags = ["--memory", "1G", "--cpus", "4", "--disk", disk, "--nic", "user", "--policy", "standard"];
    let made = says(&fake, &[&["vm", "create", "mail"][..], &flags, &["--extra-argument", "-nodefaults"]].concat());
    assert_eq!(made, "mail is defined, and off\n");
    let asked = fake.asked().remove(0);
    assert!(asked.starts_with("create mail Standard VmDefinition { cpus: 4, memory_mib: 1024"), "{asked}");
    let here = std::env::current_dir().unwrap().join("relative.qcow2");
    assert!(asked.contains(here.to_str().unwrap()) && asked.contains("[\"-nodefaults\"]"), "{asked}");

    let file = fake.folder.path().join("web.json");
    std::fs::write(&file, says(&fake, &["vm", "show", "web", "--json"])).unwrap();
    says(&fake, &["vm", "create", "--from", file.to_str().unwrap()]);
    says(&fake, &["vm", "create", "copy", "--from", file.to_str().unwrap()]);
    assert!(fake.asked()[1].starts_with("create web Production VmDefinition { cpus: 2, memory_mib: 512"));
    assert!(fake.asked()[2].starts_with("create copy "));
    std::fs::write(&file, "{\"name\": \"x\",\n \"spec\": {\"cpus\": 1, \"memory\": 512}}").unwrap();
    let (code, error) = refused(&fake, &["vm", "create", "--from", file.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(error.contains("unknown field `memory`") && error.contains("line 2"), "{error}");
}

#[test]
fn an_update_keeps_what_is_not_named() {
    let fake = Fake::start();
    says(&fake, &["vm", "update", "web", "--cpus", "8"]);
    says(&fake, &["vm", "update", "web", "--policy", "production-only"]);
    let asked = ["update web policy None cpus Some(8)", "update web policy Some(ProductionOnly) cpus None"];
    assert_eq!(fake.asked(), asked);
}

#[test]
fn what_is_done_without_space_can_be_chosen_and_a_vm_that_has_none_says_so() {
    let fake = Fake::start();
    says(&fake, &["vm", "update", "web", "--critical-action", "wait"]);
    says(&fake, &["vm", "update", "web", "--critical-timeout", "5m"]);
    says(&fake, &["vm", "update", "web", "--critical-timeout", "0"]);
    let asked = ["update web Wait None", "update web ResumeWhenSpace Some(300s)", "update web ResumeWhenSpace None"];
    assert_eq!(fake.asked(), asked);
    let shown = says(&fake, &["vm", "show", "full"]);
    assert!(shown.contains("Paused: no space for disk system on /vm"), "{shown}");
    assert!(shown.contains("disk system (/vm/web.now.qcow2) had no space, since "), "{shown}");
    assert!(shown.contains("/vm has 4 KiB free") && shown.contains("goes on when there is space"), "{shown}");
    let vm = json(&fake, &["vm", "show", "full"]);
    assert_eq!(
        (&vm["state"], &vm["critical_settings"]["action"]),
        (&"PAUSED_CRITICAL".into(), &"RESUME_WHEN_SPACE".into())
    );
    assert_eq!((&vm["critical"]["disk"], &vm["critical"]["free_bytes"]), (&"system".into(), &4096.into()));
    assert_eq!(json(&fake, &["vm", "show", "web"])["critical"], Value::Null);
}

#[test]
fn other_commands_answer_in_a_line() {
    let fake = Fake::start();
    assert_eq!(says(&fake, &["vm", "start", "web"]), "web: Running\n");
    assert_eq!(says(&fake, &["vm", "stop", "web", "--turn-off"]), "web: Running\n");
    assert_eq!(says(&fake, &["vm", "delete", "db", "-y"]), "db is forgotten; its image files are where they were\n");
    let exported = says(&fake, &["checkpoint", "export", "web", "019a", "/exports/one", "--format", "raw"]);
    assert_eq!(exported, "/exports/one: 2 files, 1 GiB\n");
    let renamed = says(&fake, &["checkpoint", "rename", "web", "clean install", "fresh"]);
    assert_eq!(renamed, "\"clean install\" is now called \"fresh\"\n");
    let renaming = format!("set {CLEAN} Some(CheckpointName(\"fresh\")) None None");
    assert_eq!(fake.asked(), ["stop web TurnOff", "export /exports/one Raw", &renaming]);
    let writers = says(&fake, &["writer", "list", "web"]);
    assert!(writers.starts_with("Writer name: 'postgresql'\n   Writer Id: {5ea1ed00-"), "{writers}");
    assert!(writers.contains("State: [9] Failed at freeze\n   Last error: Retryable error"), "{writers}");
    assert!(says(&fake, &["checkpoint", "show", "web", "019a"]).contains("phases:"));
    assert!(says(&fake, &["completions", "bash"]).contains("_stillpoint"));
}

#[test]
fn merges_are_suspended_and_resumed() {
    let fake = Fake::start();
    let suspended = says(&fake, &["vm", "merges", "suspend", "web"]);
    assert_eq!(suspended, "no layer of web is merged until merges are resumed\n");
    let json = says(&fake, &["vm", "merges", "suspend", "web", "--json"]);
    assert!(json.contains("\"merges_suspended\": true"), "{json}");
    says(&fake, &["vm", "merges", "resume", "web"]);
    assert_eq!(fake.asked(), ["suspend merges vms/web", "suspend merges vms/web", "resume merges vms/web"]);
}

#[test]
fn operations_are_listed_shown_and_given_up() {
    let fake = Fake::start();
    let list = says(&fake, &["operation", "list"]);
    assert!(list.contains("RESUME_VM") && list.contains("at work: capture 42%"), "{list}");
    assert!(list.contains("failed: QUIESCE_FAILED"), "{list}");
    let shown = says(&fake, &["operation", "show", "019d0000-0000-7000-8000-00000000000e"]);
    assert!(shown.contains("failed: QUIESCE_FAILED") && shown.contains("what to do:"), "{shown}");
    assert!(says(&fake, &["operation", "cancel", HANGING]).contains("is asked to stop"));
    assert_eq!(fake.asked(), [format!("cancel operations/{HANGING}")]);
    let ended = "CREATE_CHECKPOINT has ended well\n";
    assert_eq!(says(&fake, &["operation", "watch", "019d0000-0000-7000-8000-000000000003"]), ended);
    assert!(refused(&fake, &["operation", "show", "019d"]).1.contains("several operations"));
}

#[test]
fn to_stop_waiting_is_not_to_stop_the_work() {
    let fake = Fake::start();
    let (code, error) = refused(&fake, &["operation", "wait", HANGING, "--timeout", "1s"]);
    assert_eq!((code, error.contains("is still at work")), (1, true), "{error}");

    let child = waiting(&fake);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let watch = format!("stillpoint operation watch {HANGING}");
    assert!(stderr(&output).contains("goes on") && stderr(&output).contains(&watch), "{}", stderr(&output));
}

#[test]
fn waiting_goes_on_when_the_service_was_restarted() {
    let fake = Fake::start();
    let child = waiting(&fake);
    let _fake = fake.restart();
    let output = child.wait_with_output().unwrap();
    assert_eq!(stdout(&output), "web: Running\n", "{}", stderr(&output));
    assert_eq!(stderr(&output), "  captured 1.2 s\n");
}

/// A command that waits for the operation that never ends. The first phase is printed when it does.
fn waiting(fake: &Fake) -> Child {
    let mut child = command(fake, &["vm", "resume", "web"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = [0; "  paused 14 ms\n".len()];
    child.stderr.as_mut().unwrap().read_exact(&mut line).unwrap();
    child
}

#[test]
fn checkpoints_are_filtered_by_the_service_and_by_kinship() {
    let fake = Fake::start();
    let flags = ["--kind", "standard", "--name", "before *", "--older-than", "7d", "--expired"];
    run(&fake, &[&["checkpoint", "list", "web"][..], &flags].concat());
    let filter = "kind = STANDARD AND name = \"before *\" AND age > 7d AND expired = true";
    assert_eq!(fake.asked(), [format!("list vms/web where {filter}")]);
    run(&fake, &["checkpoint", "list", "web", "--children-of", "clean install"]);
    assert_eq!(fake.asked()[1], format!("list vms/web where parent = vms/web/checkpoints/{CLEAN}"));
    let parents = json(&fake, &["checkpoint", "list", "web", "--parent-of", UPGRADE]);
    assert_eq!((parents.as_array().unwrap().len(), &parents[0]["id"]), (1, &CLEAN.into()));
    assert_eq!(run(&fake, &["checkpoint", "list", "web", "--older-than", "7"]).status.code(), Some(2));
}

#[test]
fn notes_and_the_time_to_keep_can_be_changed_later() {
    let fake = Fake::start();
    let set = |flags: &[&str]| run(&fake, &[&["checkpoint", "set", "web", UPGRADE][..], flags].concat()).status.code();
    assert_eq!(set(&["--notes", "ask Ann", "--keep", "2030-01-01T00:00:00Z"]), Some(0));
    assert_eq!(set(&["--keep-for-ever"]), Some(0));
    assert_eq!(set(&[]), Some(2));
    let expected = [
        format!("set {UPGRADE} None Some(Notes(\"ask Ann\")) Some(Some(2030-01-01T00:00:00Z))"),
        format!("set {UPGRADE} None None Some(None)"),
    ];
    assert_eq!(fake.asked(), expected);
    let shown = run(&fake, &["checkpoint", "show", "web", UPGRADE]);
    assert!(stdout(&shown).contains("uid:1000"), "{}", stdout(&shown));
}

#[test]
fn many_vms_are_set_at_once_and_each_says_what_became_of_it() {
    let fake = Fake::start();
    let flags = ["--automatic-checkpoints", "off", "--checkpoint-location", "/cp/{vm}", "--add-label", "site=south"];
    let set = |which: &[&str]| run(&fake, &[&["vm", "set"][..], which, &flags].concat());
    let output = set(&["w?b", "d*"]);
    assert_eq!(output.status.code(), Some(1), "one of them failed");
    assert!(stdout(&output).contains("db   failed: VM db has checkpoints"), "{}", stdout(&output));
    assert!(stdout(&output).contains("labels: [site=north] -> [site=north site=south]"), "{}", stdout(&output));
    let asked = fake.asked();
    assert!(asked[0].starts_with("set db None Some(\"/cp/db\")"), "{asked:?}");
    assert!(asked[1].starts_with("set web None Some(\"/cp/web\")"), "{asked:?}");
    assert_eq!(set(&["--with-label", "site=north", "web"]).status.code(), Some(0));
    assert_eq!(set(&["--with-label", "site=east"]).status.code(), Some(2), "there is none");
    assert_eq!(set(&[]).status.code(), Some(2), "all of them must be said");
    assert_eq!(run(&fake, &["vm", "set", "*"]).status.code(), Some(2), "nothing to set");
    assert_eq!(fake.asked().len(), 3);
}

#[test]
fn undo_checkpoints_are_switched_for_many_vms_at_once_and_shown() {
    let fake = Fake::start();
    let switched = says(&fake, &["vm", "set", "w*", "--undo-checkpoint", "on", "--service-off", "quiesce"]);
    assert!(switched.contains("undo checkpoint: no -> yes; services off: [] -> [QUIESCE]"), "{switched}");
    let asked = fake.asked()[0].clone();
    assert!(asked.contains("services_off: Some({Quiesce})") && asked.ends_with("undo Some(true)"), "{asked}");
    says(&fake, &["vm", "set", "w*", "--undo-checkpoint", "off"]);
    assert!(fake.asked()[1].ends_with("undo Some(false)"), "{:?}", fake.asked());
    assert!(says(&fake, &["vm", "settings", "web"]).contains("undo checkpoint:"), "the page has it");
    assert_eq!(json(&fake, &["vm", "settings", "web"])["undo_checkpoint"], false);
}

#[test]
fn what_is_done_about_a_vm_that_fails_is_set_for_many_and_shown_with_the_last_failure() {
    let fake = Fake::start();
    let set = says(&fake, &["vm", "set", "web", "--on-failure", "revert"]);
    assert!(set.contains("on failure: NOTHING -> REVERT"), "{set}");
    assert!(fake.asked()[0].contains("on_failure: Some(Revert)"), "{:?}", fake.asked());
    let shown = says(&fake, &["vm", "show", "web"]);
    let failed = "2026-01-01T12:00:00Z, GUEST_PANICKED: it was brought back (1 of 3 times within the last hour)";
    assert!(shown.contains(failed) && shown.contains("nothing is done"), "{shown}");
    assert!(!says(&fake, &["vm", "show", "db"]).contains("failed:"));
    let vm = json(&fake, &["vm", "show", "web"]);
    assert_eq!((&vm["failure"]["reason"], &vm["failure"]["recoveries"]), (&"GUEST_PANICKED".into(), &1.into()));
    assert_eq!(json(&fake, &["vm", "settings", "web"])["settings"]["on_failure"], "NOTHING");
}

#[test]
fn a_merge_of_images_says_what_it_will_do_and_is_done_only_if_agreed_to() {
    let fake = Fake::start();
    let merge = ["image", "merge", "--into", "/i/base.qcow2", "/i/top.qcow2"];
    let planned = says(&fake, &[&merge[..], &["--dry-run"]].concat());
    let expected = "\
Into /i/base.qcow2 are merged, the first one first:
  /i/top.qcow2
  /i/between.qcow2
At most 3 MiB are moved, and 1 MiB more are taken on disk meanwhile.
";
    assert_eq!(planned, expected);
    assert_eq!(refused(&fake, &merge).0, 2, "nobody is there to ask");
    assert_eq!(fake.asked(), [""; 0]);
    let merged = run(&fake, &[&merge[..], &["--yes"]].concat());
    assert!(stdout(&merged).contains("not needed any more: /i/top.qcow2"), "{}", stdout(&merged));
    assert!(stderr(&merged).contains("/i/top.qcow2: 50%"), "{}", stderr(&merged));
    let removed = json(&fake, &[&merge[..], &["--remove-merged", "--yes"]].concat());
    assert_eq!(removed["removed"][1], "/i/between.qcow2");
    assert_eq!(fake.asked(), ["merge /i/top.qcow2 remove false", "merge /i/top.qcow2 remove true"]);
    let (code, error) = refused(&fake, &["image", "merge", "--into", "/vm/web.qcow2", "/i/top.qcow2", "--yes"]);
    assert_eq!(code, 1);
    assert!(error.contains("VM web") && error.contains("checkpoint delete"), "{error}");
}

#[test]
fn what_has_changed_between_two_checkpoints_is_listed_with_its_sum() {
    let fake = Fake::start();
    let changed = ["backup", "changed", "web", "--disk", "data", "--to", "before the upgrade"];
    assert_eq!(says(&fake, &changed), "OFFSET  LENGTH\n524288  524288\n512 KiB of 16 MiB\n");
    let since = json(&fake, &[&changed[..], &["--from", "clean install"]].concat());
    let expected = serde_json::json!({
        "from_bytes": 8 << 20, "to_bytes": 16 << 20, "changed_bytes": (8 << 20) + 524_288,
        "ranges": [{"offset": 524_288, "length": 524_288}, {"offset": 8 << 20, "length": 8 << 20}],
    });
    assert_eq!(since, expected);
    let other =
        ["backup", "changed", "web", "--disk", "other", "--to", "before the upgrade", "--from", "clean install"];
    let (code, error) = refused(&fake, &other);
    assert_eq!(code, 1);
    assert!(error.contains("CHANGES_UNKNOWN") && error.contains("without --from"), "{error}");
    let short =
        ["backup", "changed", "web", "--disk", "short", "--to", "before the upgrade", "--from", "clean install"];
    let (code, error) = refused(&fake, &short);
    assert!(code == 1 && error.contains("ended before byte 16777216"), "{error}");
    let (code, error) = refused(&fake, &["backup", "changed", "web", "--disk", "data", "--to", "never made"]);
    assert!(code == 1 && error.contains("CHECKPOINT_NOT_FOUND"), "{error}");
}

#[test]
fn reference_points_are_made_listed_asked_about_and_given_up() {
    let fake = Fake::start();
    assert_eq!(says(&fake, &["backup", "keep-point", "web", "clean install"]), format!("{POINT}\n"));
    let listed = says(&fake, &["backup", "points", "web"]);
    for word in [POINT, "clean install", "FILE_SYSTEM", "FULL", "data, scratch (what has changed is not known"] {
        assert!(listed.contains(word), "{word}: {listed}");
    }
    assert_eq!(says(&fake, &["backup", "points", "db"]), "There are no reference points.\n");
    let points = json(&fake, &["backup", "points", "web"]);
    assert_eq!((&points[0]["id"], &points[0]["disks"][1]["lost"]), (&POINT.into(), &"a layer was exchanged".into()));
    let changed = ["backup", "changed", "web", "--disk", "data", "--to", "before the upgrade"];
    let since = json(&fake, &[&changed[..], &["--from-point", &POINT[..30]]].concat());
    assert_eq!(since["from_bytes"], 8 << 20);
    let (code, error) = refused(&fake, &[&changed[..], &["--from-point", "0000"]].concat());
    assert!(code == 1 && error.contains("REFERENCE_POINT_NOT_FOUND"), "{error}");
    says(&fake, &["backup", "forget-point", "web", POINT]);
    assert_eq!(fake.asked(), [format!("point of {CLEAN}"), format!("forget web {POINT}")]);
}

#[test]
fn a_backup_session_is_begun_shown_renewed_and_ended() {
    let fake = Fake::start();
    let begin = ["backup", "start", "web", "--least", "crash", "--backup-type", "full", "--lease", "5m"];
    assert_eq!(says(&fake, &begin), format!("{SESSION}\n"), "when its checkpoint can be read");
    let shown = says(&fake, &["backup", "sessions", "web"]);
    assert!(shown.contains(SESSION) && shown.contains("OPEN") && shown.contains("FULL"), "{shown}");
    assert_eq!(says(&fake, &["backup", "sessions", "db"]), "There are no backup sessions.\n");
    assert_eq!(json(&fake, &["backup", "show", "web", &SESSION[..30]])["state"], "OPEN");
    let (file, disk) = (fake.folder.path().join("data.raw").display().to_string(), ["--disk", "data"]);
    let read = [&["backup", "read-disk", "web", SESSION][..], &disk, &["--to", &file]].concat();
    assert_eq!(says(&fake, &read), "1 MiB of 2 MiB were read\n");
    assert_eq!(std::fs::read(&file).unwrap(), [vec![0; 1 << 20], vec![7; 1 << 20]].concat());
    assert!(refused(&fake, &read).1.contains("data.raw"), "it is there already");
    let short = fake.folder.path().join("short.raw").display().to_string();
    let short = ["backup", "read-disk", "web", SESSION, "--disk", "short", "--to", &short];
    assert!(refused(&fake, &short).1.contains("ended before byte 2097152"), "{short:?}");
    let open = [&["backup", "open-disk", "web", SESSION][..], &disk].concat();
    assert_eq!(says(&fake, &open), "nbd+unix:///data\n");
    says(&fake, &["backup", "renew", "web", SESSION]);
    let completed = run(&fake, &["backup", "complete", "web", SESSION, "--replace"]);
    assert!(stdout(&completed).contains(POINT), "{}", stdout(&completed));
    assert!(stderr(&completed).contains("keep their logs: the agent was restarted"), "{}", stderr(&completed));
    says(&fake, &["backup", "abort", "web", SESSION]);
    let (code, error) = refused(&fake, &["backup", "abort", "web", "0000"]);
    assert!(code == 1 && error.contains("BACKUP_NOT_FOUND"), "{error}");
    let asked = [
        "backup of web: Full, APPLICATION, at least CRASH, 300 s".to_owned(),
        format!("renew web {SESSION}"),
        format!("complete web {SESSION}, replace true"),
        format!("abort web {SESSION}"),
    ];
    assert_eq!(fake.asked(), asked);
}

#[test]
fn an_export_is_checked_and_a_damaged_one_is_another_exit_code() {
    let fake = Fake::start();
    let whole = run(&fake, &["export", "verify", "/exports/one"]);
    assert_eq!((whole.status.code(), stdout(&whole)), (Some(0), "/exports/one is whole: 2 files, 3 MiB\n"));
    assert!(stderr(&whole).contains("read 50%"), "{}", stderr(&whole));
    let torn = run(&fake, &["export", "verify", "/exports/torn"]);
    assert_eq!(torn.status.code(), Some(1));
    assert!(
        stdout(&torn).ends_with("is damaged (2 files, 3 MiB):\n  data.qcow2 does not exist\n"),
        "{}",
        stdout(&torn)
    );
    let (code, error) = refused(&fake, &["export", "verify", "/nowhere"]);
    assert_eq!(code, 1);
    assert!(error.contains("is no export") && error.contains("manifest.json"), "{error}");
}

#[test]
fn an_import_says_what_stands_against_it_and_asks_the_service_for_what_was_typed() {
    let fake = Fake::start();
    let import = ["vm", "import", "new", "/exports/one", "--to", "/vm/new"];
    let dry = run(&fake, &[&import[..], &["--dry-run"]].concat());
    assert_eq!(dry.status.code(), Some(1), "something stands against it");
    let text = stdout(&dry);
    assert!(
        text.starts_with("/exports/one: \"before the upgrade\" of VM old, 3 MiB, memory of QEMU 10.0.2\n"),
        "{text}"
    );
    assert!(
        text.contains("note: disk scratch is not in the export") && text.contains("  HOST_PATHS the export's"),
        "{text}"
    );
    let fine = says(&fake, &[&import[..], &["--dry-run", "--accept-host-paths"]].concat());
    assert!(fine.ends_with("new can be imported so\n"), "{fine}");
    let document = json(&fake, &[&import[..], &["--dry-run", "--accept-host-paths"]].concat());
    assert_eq!((&document["export"]["vm"], &document["spec"]["cpus"]), (&"old".into(), &2.into()));
    assert_eq!(fake.asked(), [""; 0], "nothing was done");
    says(&fake, &[&import[..], &["--mode", "restore", "--without-memory"]].concat());
    says(&fake, &["vm", "import", "new", "/exports/one", "--mode", "REGISTER", "--accept-host-paths"]);
    let asked = [
        "import new Restore to Some(\"/vm/new\") memory false paths false",
        "import new Register to None memory true paths true",
    ];
    assert_eq!(fake.asked(), asked);
    let (code, error) = refused(&fake, &["vm", "import", "new", "/exports/one"]);
    assert!(code == 2 && error.contains("--to FOLDER"), "{error}");
    let (code, error) = refused(&fake, &[&import[..], &["--mode", "register"]].concat());
    assert!(code == 2 && error.contains("Leave --to out"), "{error}");
}

#[test]
fn what_the_agent_does_for_the_host_is_listed_and_can_be_switched_off() {
    let fake = Fake::start();
    let off = json(&fake, &["guest", "services", "db"]);
    assert_eq!((&off["services"][0]["state"], &off["last_heard_time"]), (&"NOT_RUNNING".into(), &Value::Null));
    let listed = says(&fake, &["guest", "services", "web"]);
    assert!(listed.contains("QUIESCE     OK") && listed.contains("KEY_VALUES  OK"), "{listed}");
    assert!(listed.contains("HEARTBEAT   DEGRADED  guest agent 0.0.9 does not know it"), "{listed}");
    assert!(listed.contains("last heard ") && listed.contains("(just now)"), "{listed}");
    assert_eq!(run(&fake, &["vm", "set", "web", "--service-off", "heartbeat"]).status.code(), Some(0));
    assert!(fake.asked()[0].contains("services_off: Some({Heartbeat})"), "{:?}", fake.asked());
    let flags = ["--service-off", "quiesce", "--service-off", "time-sync", "--service-on", "time-sync"];
    assert_eq!(run(&fake, &[&["vm", "set", "web"][..], &flags].concat()).status.code(), Some(0));
    assert!(fake.asked()[1].contains("services_off: Some({Quiesce})"), "{:?}", fake.asked());
}

#[test]
fn what_host_and_guest_tell_each_other_is_listed_set_and_forgotten() {
    let fake = Fake::start();
    let expected = "\
FROM       KEY     VALUE
HOST       role    front
GUEST      state   ready
INTRINSIC  OSName  Debian GNU/Linux
";
    assert_eq!(says(&fake, &["guest", "list", "web"]), expected);
    assert_eq!(says(&fake, &["guest", "get", "web", "OSName"]), "Debian GNU/Linux\n");
    assert_eq!(json(&fake, &["guest", "get", "web", "state"])["from"], "GUEST");
    assert_eq!(says(&fake, &["guest", "get", "db", "role"]), "front\n");
    let (code, error) = refused(&fake, &["guest", "get", "db", "state"]);
    assert!(code == 2 && error.contains("VM db is off"), "{error}");
    assert!(stderr(&run(&fake, &["guest", "list", "db"])).contains("VM db is off"));
    assert!(says(&fake, &["guest", "set", "web", "a=b=c", "empty="]).contains("the guest of web has it"));
    assert!(says(&fake, &["guest", "unset", "db", "a"]).contains("when its agent answers"));
    let asked = ["values web [(\"a\", Some(\"b=c\")), (\"empty\", Some(\"\"))]", "values db [(\"a\", None)]"];
    assert_eq!(fake.asked(), asked);
    assert_eq!(refused(&fake, &["guest", "set", "web", "novalue"]).0, 2);
    let long = format!("{}=x", "k".repeat(513));
    let (code, error) = refused(&fake, &["guest", "set", "web", &long]);
    assert!(code == 1 && error.contains("more than 512"), "{error}");
}

#[test]
fn the_settings_of_a_vm_are_one_page() {
    let fake = Fake::start();
    let page = says(&fake, &["vm", "settings", "web"]);
    for line in ["checkpoints:", "a standard one, with the reason", "(can be changed when the VM has no checkpoints)"] {
        assert!(page.contains(line), "{page}");
    }
    let document = json(&fake, &["vm", "settings", "web"]);
    assert_eq!(document["settings"]["labels"][0], "site=north");
    assert_eq!(document["checkpoint_policy"], "PRODUCTION");
}

#[test]
fn hazards_are_told_before_an_apply_and_yes_alone_does_not_agree_to_them() {
    let fake = Fake::start();
    let apply = |more: &[&str]| {
        let output =
            run(&fake, &[&["checkpoint", "apply", "web", TWIN_A, "--discard-now", "--yes"][..], more].concat());
        (output.status.code(), stderr(&output).to_owned())
    };
    let (code, said) = apply(&[]);
    assert_eq!(code, Some(2));
    assert!(said.contains("etcd ran in the guest") && said.contains("--accept-hazards"), "{said}");
    assert_eq!(fake.asked(), [""; 0]);
    assert_eq!(apply(&["--accept-hazards"]).0, Some(0));
    assert_eq!(fake.asked(), [format!("apply web {TWIN_A}")]);
    let advice = says(&fake, &["checkpoint", "advise", "web"]);
    assert!(advice.starts_with("STANDARD\n  database postgresql has no writer"), "{advice}");
    assert_eq!(json(&fake, &["checkpoint", "advise", "web"])["hazards"][0]["role"], "CLUSTER_MEMBER");
}

#[test]
fn growth_and_depth_are_shown_where_one_looks_for_them() {
    let fake = Fake::start();
    let list = says(&fake, &["checkpoint", "list", "web"]);
    assert!(list.lines().next().unwrap().contains("CHANGES  DEPTH"), "{list}");
    let shown = says(&fake, &["checkpoint", "show", "web", CLEAN]);
    assert!(shown.contains("1 layer, 0 B of its own"), "{shown}");
    assert_eq!(json(&fake, &["checkpoint", "list", "web"])[0]["usage"]["depth"], 1);
    let vm = says(&fake, &["vm", "show", "web"]);
    assert!(vm.contains("4.1 MiB since the last checkpoint, 1 MiB an hour: full in 2 days"), "{vm}");
    assert_eq!(json(&fake, &["vm", "show", "db"])["growth"], Value::Null);
}

#[test]
fn a_check_speaks_as_a_plugin_does() {
    let fake = Fake::start();
    let check = |more: &[&str]| {
        let output = run(&fake, &[&["check"][..], more].concat());
        (output.status.code().unwrap(), stdout(&output).to_owned())
    };
    let (code, said) = check(&["db"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.starts_with("STILLPOINT OK - 0 checkpoints on 1 VM | 'db_age'=0s;259200;1209600;0 'db_count'=0;30;45;0")
    );
    let (code, said) = check(&["web", "--no-files"]);
    assert_eq!(code, 1, "75 hours are more than three days: {said}");
    assert!(
        said.starts_with("STILLPOINT WARNING - web: its oldest checkpoint is of 3 days ago | 'web_age'="),
        "{said}"
    );
    assert_eq!(check(&["web", "--no-files", "--warn-age", "1w"]).0, 0);
    assert_eq!(check(&["web", "--no-files", "--crit-age", "2d"]).0, 2);
    assert_eq!(check(&["web", "--no-files", "--warn-age", "1w", "--crit-count", "4"]).0, 2);
    let (code, said) = check(&["web", "--warn-age", "1w"]);
    assert_eq!(code, 2);
    assert!(said.contains("CRITICAL - /vm/web-1.qcow2") && said.contains("'damage'=1;;1;0"), "{said}");
    assert_eq!(json(&fake, &["check", "db"])["state"], "OK");
    for figure in ["'web_growth_per_hour'=10", "'web_full_in'=17", "s;86400:;14400:;0"] {
        assert!(said.contains(figure), "{said}");
    }
    let (code, said) = check(&["web", "--no-files", "--warn-age", "1w", "--warn-full", "50h"]);
    assert_eq!(code, 1, "4 MiB in 4 hours, and 49 MiB are free: {said}");
    assert!(said.contains("WARNING - web: if its disks grow on so, there is no space left in 2 days"), "{said}");
    assert_eq!(check(&["web", "--no-files", "--warn-age", "1w", "--crit-full", "50h"]).0, 2);
    let output = Command::new(assert_cmd::cargo::cargo_bin!("stillpoint"))
        .args(["check", "--socket", "/nowhere/api.sock"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).starts_with("STILLPOINT UNKNOWN - "), "{}", stdout(&output));
}
