//! `stillpoint memory …` on files of memory states, without a service.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use stillpoint_common::MemoryId;
use stillpoint_memory::{FileMemoryStates, MemoryStates as _, state::SavedMemory};

/// Real QEMU's stream of a small PC.
const STREAM: &[u8] = include_bytes!("../../memory/tests/golden/qemu-10.0-background.stream.zst");

fn stillpoint(arguments: &[&str]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("stillpoint")).args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn saved(folder: &Path) -> PathBuf {
    let (states, checkpoint) = (FileMemoryStates::default(), MemoryId::generate());
    let sink = states.begin(folder, checkpoint, None).await.unwrap();
    let stream = zstd::decode_all(STREAM).unwrap();
    tokio::task::spawn_blocking(move || File::from(sink.stream).write_all(&stream).unwrap()).await.unwrap();
    states.seal(folder, checkpoint, "10.0.2").await.unwrap().path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_state_is_shown_checked_and_made_a_stream_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = saved(folder.path()).await;
    let shown = stillpoint(&["memory", "inspect", text(&file)]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("pc-q35-7.2, saved by QEMU 10.0.2") && shown.contains("pc.ram 16 MiB"), "{shown}");
    let document = stillpoint(&["memory", "verify", text(&file), "--json"]).stdout;
    let document: Value = serde_json::from_slice(&document).unwrap();
    assert_eq!((&document["whole"], &document["pages"]), (&Value::Bool(true), &Value::from(39)));

    let target = folder.path().join("stream");
    assert!(stillpoint(&["memory", "to-stream", text(&file), text(&target)]).status.success());
    let stream = fs::read(&target).unwrap();
    assert!(stream.starts_with(b"QEVM\0\0\0\x03"));
    // Nothing is ever written over.
    assert_eq!(stillpoint(&["memory", "to-stream", text(&file), text(&target)]).status.code(), Some(1));
    assert_eq!(fs::read(&target).unwrap(), stream);
    SavedMemory::open(&file).unwrap().unwrap().check().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_and_no_half_stream_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let file = saved(folder.path()).await;
    let pack = file.with_extension("pages");
    let mut bytes = fs::read(&pack).unwrap();
    bytes[2000] ^= 1;
    fs::write(&pack, &bytes).unwrap();
    let target = folder.path().join("stream");
    for arguments in [&["memory", "verify", text(&file)][..], &["memory", "to-stream", text(&file), text(&target)]] {
        let refused = stillpoint(arguments);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(text(&pack)) && said.contains("what to do"), "{said}");
    }
    assert!(!target.exists());
    fs::remove_file(&pack).unwrap();
    let said = String::from_utf8(stillpoint(&["memory", "verify", text(&file)]).stderr).unwrap();
    assert!(said.contains("is missing"), "{said}");
}
