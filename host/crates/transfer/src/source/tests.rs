use std::{io::Seek as _, os::unix::fs::symlink, sync::Mutex};

use super::*;

fn listed(path: &str, content: &[u8]) -> ExportedFile {
    ExportedFile {
        path: path.to_owned(),
        bytes: content.len() as u64,
        blake3: blake3::hash(content).to_hex().to_string(),
    }
}

fn untold() -> ProgressSink {
    Arc::new(|_| ())
}

async fn damage(folder: &Path, files: &[ExportedFile], depth: Depth) -> Vec<(String, String)> {
    let damaged = FolderExports.compare(folder, files, depth, &untold()).await.unwrap();
    damaged.into_iter().map(|damage| (damage.path, damage.problem)).collect()
}

#[tokio::test]
async fn each_file_that_is_not_what_was_exported_is_named_with_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["same", "changed", "short", "gone", "link"].map(|name| listed(name, b"content"));
    for (name, content) in [("same", "content"), ("changed", "CONTENT"), ("short", "con")] {
        fs::write(dir.path().join(name), content).unwrap();
    }
    symlink("same", dir.path().join("link")).unwrap();
    let wrong = |found: Vec<(String, String)>| found.into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(wrong(damage(dir.path(), &files, Depth::Sizes).await), ["short", "gone", "link"]);
    let found = damage(dir.path(), &files, Depth::Content).await;
    assert_eq!(found[0], ("changed".to_owned(), "has other bytes than when it was exported".to_owned()));
    assert_eq!(wrong(found), ["changed", "short", "gone", "link"]);
}

#[tokio::test]
async fn progress_counts_the_bytes_of_all_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = [listed("one", &[1; 300]), listed("two", &[2; 700])];
    for (file, byte) in files.iter().zip([1, 2]) {
        fs::write(dir.path().join(&file.path), vec![byte; usize::try_from(file.bytes).unwrap()]).unwrap();
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let progress: ProgressSink = Arc::new(move |progress| told.lock().unwrap().push(progress));
    assert!(FolderExports.compare(dir.path(), &files, Depth::Content, &progress).await.unwrap().is_empty());
    assert_eq!(*seen.lock().unwrap(), [300, 1000].map(|done| Progress { done, total: 1000 }));
}

#[tokio::test]
async fn a_folder_that_is_no_export_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let says = async |folder: &Path| FolderExports.manifest(folder).await.unwrap_err().to_string();
    assert!(says(&dir.path().join("none")).await.contains("there is no such folder"));
    assert!(says(dir.path()).await.contains("which is written last, does not exist"));
    fs::write(dir.path().join(MANIFEST), "{").unwrap();
    assert!(says(dir.path()).await.contains("is no JSON"));
    fs::write(dir.path().join(MANIFEST), "{}").unwrap();
    assert_eq!(FolderExports.manifest(dir.path()).await.unwrap(), serde_json::json!({}));
    FolderExports.retire(dir.path()).await.unwrap();
    FolderExports.retire(dir.path()).await.unwrap();
    assert!(says(dir.path()).await.contains("those of a VM"));
}

#[tokio::test]
async fn a_folder_is_claimed_once_and_only_its_operation_can_give_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (target, mine, other) = (dir.path().join("vm"), OperationId::generate(), OperationId::generate());
    FolderExports.claim(&target, mine).await.unwrap();
    FolderExports.claim(&target, mine).await.unwrap();
    let refused = FolderExports.claim(&target, other).await.unwrap_err();
    assert!(matches!(refused, ExportError::TargetExists { .. }), "{refused}");
    fs::write(target.join("disk"), "data").unwrap();
    FolderExports.give_back(&target, other).await.unwrap();
    assert!(target.join("disk").exists(), "it is not the other's");
    FolderExports.give_back(&target, mine).await.unwrap();
    FolderExports.give_back(&target, mine).await.unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_kept_or_was_there_before_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (target, mine) = (dir.path().join("vm"), OperationId::generate());
    FolderExports.claim(&target, mine).await.unwrap();
    FolderExports.keep(&target, mine).await.unwrap();
    FolderExports.keep(&target, mine).await.unwrap();
    FolderExports.give_back(&target, mine).await.unwrap();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "the folder is there, without a mark");
    let users = dir.path().join("users");
    fs::create_dir(&users).unwrap();
    let refused = FolderExports.claim(&users, mine).await.unwrap_err();
    assert!(matches!(refused, ExportError::TargetExists { .. }), "{refused}");
    FolderExports.give_back(&users, mine).await.unwrap();
    assert!(users.exists());
}

#[tokio::test]
async fn a_file_is_sent_whole_and_a_link_is_not() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("memory"), vec![7; 3 << 20]).unwrap();
    let mut to = tempfile::tempfile().unwrap();
    FolderExports.send(dir.path(), "memory", to.try_clone().unwrap().into(), &untold()).await.unwrap();
    let mut sent = Vec::new();
    to.rewind().unwrap();
    to.read_to_end(&mut sent).unwrap();
    assert!(sent.len() == 3 << 20 && sent.iter().all(|byte| *byte == 7));
    symlink("memory", dir.path().join("link")).unwrap();
    assert!(FolderExports.send(dir.path(), "link", to.into(), &untold()).await.is_err());
    let large = FolderExports.read(dir.path(), "memory", 10).await.unwrap_err();
    assert!(matches!(large, ExportError::ExportDamaged { .. }), "{large}");
}
