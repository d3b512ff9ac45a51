//! Built-in writers that are programs: our own scripts and the hooks of qemu-ga, against a real agent.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

mod common;

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use common::{Agent, Disks, Host, NO_SERVERS, Session};
use stillpoint_proto::guest::v1::{self as pb, quiesce_response::Step};
use tokio::time::Instant;

const LEASE: Duration = Duration::from_secs(8);

/// Logs what it is called with. `AS` in its file of tricks names an event at which it does something else.
const SCRIPT: &str = r#"#!/bin/sh
echo "${0##*/} $1" >> LOG
case $1 in
identify) echo level=back-end; echo version=7; echo component=ledger; echo file=/srv/ledger ;;
freeze) echo "position=42"; echo "window=$STILLPOINT_WINDOW_MS" ;;
backup-complete) echo "completed=$STILLPOINT_BACKUP_TYPE" ;;
esac
case $1 in
pre-restore|post-restore) echo "$STILLPOINT_CHECKPOINT $STILLPOINT_WITH_MEMORY $STILLPOINT_WAS_HELD $(cat)" >> LOG ;;
esac
trick=$(cat TRICK 2>/dev/null)
case "$trick" in
"hang at $1") sleep 600 ;;
"refuse at $1") echo "not now" >&2; exit 75 ;;
esac
exit 0
"#;

struct Lab {
    disks: Disks,
    agent: Agent,
    host: Host,
    folder: PathBuf,
    _place: tempfile::TempDir,
}

impl Lab {
    /// An agent whose folders have these scripts and hooks.
    async fn new(scripts: &[&str], hooks: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().to_owned();
        for (name, programs) in [("scripts", scripts), ("hooks", hooks)] {
            fs::create_dir(folder.join(name)).unwrap();
            programs.iter().for_each(|program| install(&folder, &format!("{name}/{program}")));
        }
        let config = format!(
            "scripts.folder = {0}/scripts\nscripts.timeout = 2\nhooks.folder = {0}/hooks\nhooks.timeout = 2\n{NO_SERVERS}",
            folder.display()
        );
        fs::write(folder.join("config"), config).unwrap();
        let disks = Disks::one();
        let agent = Agent::start_configured(&disks, &folder.join("config"));
        let mut host = agent.host().await;
        let wanted = scripts.len() + usize::from(!hooks.is_empty());
        let until = Instant::now() + Duration::from_secs(20);
        while host.hello().await.writers.len() < wanted {
            assert!(Instant::now() < until, "they are never found");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let lab = Self { disks, agent, host, folder, _place: place };
        lab.take_log();
        lab
    }

    fn trick(&self, what: &str) {
        fs::write(self.folder.join("trick"), what).unwrap();
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        text.lines().filter(|line| !line.ends_with("identify")).map(str::to_owned).collect()
    }

    fn take_log(&self) -> Vec<String> {
        let log = self.log();
        let _ = fs::remove_file(self.folder.join("log"));
        log
    }

    async fn happens(&self, what: &str) {
        self.becomes(what, |log| log.iter().any(|line| line == what)).await;
    }

    /// Waits until the whole log is these lines.
    async fn log_is(&self, lines: &[&str]) {
        self.becomes(&lines.join(", "), |log| log == lines).await;
    }

    async fn becomes(&self, what: &str, holds: impl Fn(&[String]) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !holds(&self.log()) {
            assert!(Instant::now() < until, "never: {what}; but {:?}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn freeze(&mut self) -> (Session, Step) {
        let mut session = self.host.prepared(LEASE).await;
        session.freeze().await;
        let answer = session.answer().await.unwrap().unwrap();
        (session, answer)
    }
}

fn install(folder: &std::path::Path, name: &str) {
    let program = folder.join(name);
    let text = SCRIPT.replace("LOG", &folder.join("log").display().to_string());
    fs::write(&program, text.replace("TRICK", &folder.join("trick").display().to_string())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn scripts_and_hooks_are_found_called_in_order_and_their_words_are_kept() {
    let mut lab = Lab::new(&["ledger"], &["10-one", "20-two", "30-old.dpkg-dist"]).await;
    let (mut session, answer) = lab.freeze().await;
    let Step::Frozen(frozen) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = frozen.writers.iter().map(|writer| (writer.name.as_str(), writer.result())).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names.contains(&("ledger", pb::WriterResult::Held))
            && names.contains(&("qemu-ga hooks", pb::WriterResult::Held))
    );
    let ledger = frozen.writers.iter().find(|writer| writer.name == "ledger").unwrap().facts.clone().unwrap();
    assert_eq!((ledger.version.as_str(), ledger.metadata["position"].as_str()), ("7", "42"));
    assert_eq!(ledger.components[0].files, ["/srv/ledger"]);
    let thawed = session.thaw().await;
    assert_eq!(thawed.outcome(), pb::ThawOutcome::HeldThroughout, "{}", thawed.message);
    session.settle().await;
    let completed = session.complete().await;
    let ledger = completed.writers.iter().find(|writer| writer.name == "ledger").unwrap().facts.clone().unwrap();
    assert_eq!(ledger.metadata["completed"], "COPY");
    drop(session);
    lab.happens("ledger backup-shutdown").await;
    let wanted = [
        "ledger prepare-backup",
        "ledger prepare-snapshot",
        "ledger freeze",
        "10-one freeze",
        "20-two freeze",
        "10-one thaw",
        "20-two thaw",
        "ledger thaw",
        "ledger post-snapshot",
        "ledger backup-complete",
        "ledger backup-shutdown",
    ];
    assert_eq!(lab.take_log(), wanted);
}

#[tokio::test]
async fn a_script_that_hangs_is_killed_and_undone_and_one_that_refuses_is_quoted() {
    let mut lab = Lab::new(&["ledger"], &[]).await;
    lab.trick("refuse at freeze");
    let (session, answer) = lab.freeze().await;
    let Step::Refused(refused) = answer else { panic!("{answer:?}") };
    assert!(refused.writers[0].detail.contains("not now"), "{}", refused.writers[0].detail);
    drop(session);
    lab.trick("hang at freeze");
    let (session, answer) = lab.freeze().await;
    let Step::Refused(refused) = answer else { panic!("{answer:?}") };
    assert_eq!(refused.writers[0].result(), pb::WriterResult::TimedOut);
    lab.happens("ledger abort").await;
    drop(session);
    lab.trick("");
    let (mut session, answer) = lab.freeze().await;
    assert!(matches!(answer, Step::Frozen(_)), "{answer:?}");
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
}

#[tokio::test]
async fn a_hook_that_fails_refuses_the_freeze_and_what_was_called_is_called_back() {
    let mut lab = Lab::new(&[], &["10-one", "20-two", "30-three"]).await;
    fs::write(lab.folder.join("hooks/20-two"), "#!/bin/sh\n[ $1 = thaw ] || exit 3\n").unwrap();
    let (_session, answer) = lab.freeze().await;
    let Step::Refused(refused) = answer else { panic!("{answer:?}") };
    assert!(refused.writers[0].detail.contains("hook 20-two: it ended with 3"), "{}", refused.writers[0].detail);
    lab.happens("10-one thaw").await;
    assert!(!lab.log().iter().any(|line| line.starts_with("30-three")), "{:?}", lab.log());
}

#[tokio::test]
async fn an_agent_that_was_killed_while_they_were_held_undoes_it_when_it_starts_again() {
    let mut lab = Lab::new(&["ledger"], &["10-one"]).await;
    let (_session, answer) = lab.freeze().await;
    assert!(matches!(answer, Step::Frozen(_)), "{answer:?}");
    lab.agent.kill();
    lab.agent.start_again(&lab.disks);
    lab.happens("ledger abort").await;
    lab.happens("10-one thaw").await;
}

#[tokio::test]
async fn an_agent_that_is_told_to_end_lets_go_and_closes_its_session_at_once() {
    let mut lab = Lab::new(&["ledger"], &[]).await;
    let (mut session, answer) = lab.freeze().await;
    assert!(matches!(answer, Step::Frozen(_)), "{answer:?}");
    lab.agent.terminate();
    // The connection ends: an agent that had only died would leave the host to its own limits.
    let ended =
        tokio::time::timeout(Duration::from_secs(10), async { while let Ok(Some(_)) = session.answer().await {} });
    ended.await.expect("the session ends");
    lab.happens("ledger abort").await;
    assert!(!lab.disks.thaw(), "no file system is frozen");
}

#[tokio::test]
async fn a_script_is_given_back_what_it_kept_when_the_guest_was_brought_back() {
    let mut lab = Lab::new(&["ledger"], &[]).await;
    let checkpoint = "01a20587-6f24-7373-9962-30e9a370664e";
    let writer = pb::RestoredWriter {
        name: "ledger".into(),
        writer_id: lab.host.hello().await.writers[0].facts.clone().unwrap().writer_id,
        was_held: true,
        metadata: [("position".to_owned(), "42".to_owned())].into(),
    };
    lab.host.restored(checkpoint, false, vec![writer]).await.unwrap();
    let said = format!("{checkpoint} no yes position=42");
    lab.log_is(&["ledger pre-restore", &said, "ledger post-restore", &said]).await;
}
