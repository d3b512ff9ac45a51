//! Writers in a real guest: held in order, let go in reverse, and named when they cannot be held.

use std::time::Duration;

use stillpoint_cli::{client::Client, view::Checkpoint};
use stillpoint_common::{CheckpointPolicy, Consistency, FallbackReason, Kind, VmId};
use stillpoint_tests::{ext4::Ext4State, guest_image::GuestSet, lab::LabChannel, service::Service};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

const LEASE: Duration = Duration::from_secs(3);
/// The longest that a guest's writes may be held up.
const LONGEST: Duration = Duration::from_secs(4);

/// A writer that notes what it is told where no freeze reaches, and does what `/run/trick` says instead of what it is
/// asked.
const SCRIPT: &str = r#"#!/bin/sh
me=${0##*/}
echo "$me $1" >> /run/told
case "$1" in
identify) case $me in web) echo level=front-end;; db) echo level=back-end;; disk) echo level=system;; esac ;;
freeze) echo "position of $me=42" ;;
pre-restore|post-restore) echo "$me $1 $STILLPOINT_WITH_MEMORY $STILLPOINT_WAS_HELD $(cat)" >> /run/restored ;;
prepare-backup|backup-complete) echo "$1 $STILLPOINT_BACKUP_TYPE" >> /run/types ;;
esac
[ -e /run/trick ] || exit 0
read -r who when what < /run/trick
[ "$who $when" = "$me $1" ] || exit 0
case $what in
hang) sleep 1000 ;;
esac
exit 0
"#;

struct Guest {
    set: GuestSet,
    service: Service,
    client: Client,
    vm: VmId,
    lab: LabChannel,
}

impl Guest {
    async fn new() -> Tested<Self> {
        let set = GuestSet::new()?;
        let lease = ("STILLPOINT_LEASE".to_owned(), LEASE.as_secs().to_string());
        let service = Service::start_with(set.path(), vec![lease]).await?;
        let (vm, lab) = service.boot("web", &set).await?;
        let client = service.client().await?;
        let guest = Self { set, service, client, vm, lab };
        guest.install().await?;
        guest.lab.start("counter c /data/count 2").await?;
        Ok(guest)
    }

    /// Puts the writers in, and waits until they are registered.
    async fn install(&self) -> Tested {
        self.lab
            .sh("mkdir -p /etc/stillpoint/writers.d && echo scripts.timeout = 3 > /etc/stillpoint/writers.conf")
            .await?;
        for name in ["web", "db", "disk"] {
            let path = format!("/etc/stillpoint/writers.d/{name}");
            // Renamed when it is whole: a half-written program is none.
            let write = format!("cat > /tmp/new <<'END'\n{SCRIPT}END\nchmod 755 /tmp/new && mv /tmp/new {path}");
            self.lab.sh(&write).await?;
        }
        self.new_agent().await
    }

    /// Waits until each writer was told of a restore, and answers what.
    async fn restored(&self) -> Tested<Vec<String>> {
        self.lab.sh("until [ $(grep -c post-restore /run/restored) = 3 ]; do usleep 50000; done").await?;
        let told = self.lab.sh("cat /run/restored; rm /run/restored").await?;
        Ok(told.trim().lines().map(str::to_owned).collect())
    }

    /// An agent that has read its settings, with all writers registered.
    async fn new_agent(&self) -> Tested {
        let new = "p=$(agent pid); agent crash; \
                   until n=$(agent pid 2> /dev/null) && [ \"$n\" != \"$p\" ]; do usleep 20000; done";
        self.lab.sh(new).await?;
        self.registered().await
    }

    async fn registered(&self) -> Tested {
        for _ in 0..600 {
            if self.client.writers(&self.vm).await.is_ok_and(|writers| writers.len() == 3) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("the writers are not registered: {:?}", self.client.writers(&self.vm).await).into())
    }

    async fn trick(&self, what: &str) -> Tested {
        let set = if what.is_empty() { "rm -f /run/trick".to_owned() } else { format!("echo {what} > /run/trick") };
        self.lab.sh(&format!("{set}; rm -f /run/told")).await?;
        self.lab.sh("until stillpoint-lab ask c reset; do usleep 20000; done").await?;
        Ok(())
    }

    async fn create(&self, name: &str, policy: Option<CheckpointPolicy>) -> Tested<Checkpoint> {
        let made = self.client.wait(&self.client.create_checkpoint(&self.vm, name, policy).await?.id).await?;
        Ok(made.checkpoint_response().ok_or("no checkpoint")?.clone())
    }

    async fn told(&self) -> Tested<Vec<String>> {
        let told = self.lab.sh("cat /run/told").await?;
        Ok(told.lines().filter(|line| !line.ends_with("identify")).map(str::to_owned).collect())
    }

    /// Waits until the guest writes again, and asserts that it had not been held up for too long.
    async fn goes_on(&self, what: &str) -> Tested {
        let before = self.lab.gap("c").await?.count;
        self.lab.sh(&format!("until [ $(stillpoint-lab ask c count) -gt {before} ]; do usleep 5000; done")).await?;
        let gap = self.lab.gap("c").await?;
        println!("{what}: the guest's longest time without a write was {:?}", gap.longest);
        assert!(gap.longest <= LONGEST, "{what}: the guest was held for {:?}", gap.longest);
        assert_eq!(gap.errors, 0, "{what}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_in_a_guest_are_held_in_order_and_named_when_they_are_not() -> Tested {
    let guest = Guest::new().await?;
    guest.trick("").await?;
    let made = guest.create("all held", Some(CheckpointPolicy::ProductionOnly)).await?;
    assert_eq!((made.kind, made.consistency), (Some(Kind::Production), Some(Consistency::Application)));
    assert!(Ext4State::of_layer(&guest.set.data_disk, "qcow2").await?.at_rest(), "needs no journal replay");
    let db = made.writers.iter().find(|writer| writer.writer == "db").ok_or("db is not named")?;
    assert_eq!((db.result, db.metadata.get("position of db").map(String::as_str)), (Some("HELD"), Some("42")));
    guest.lab.sh("until [ $(grep -c backup-shutdown /run/told) = 3 ]; do usleep 50000; done").await?;
    let told = guest.told().await?;
    let held: Vec<_> = told.iter().filter(|line| line.ends_with(" freeze") || line.ends_with(" thaw")).collect();
    assert_eq!(held, ["web freeze", "db freeze", "disk freeze", "disk thaw", "db thaw", "web thaw"]);
    assert_eq!(told.iter().filter(|line| line.ends_with("backup-complete")).count(), 3);
    assert!(!told.iter().any(|line| line.ends_with("abort")), "{told:?}");
    guest.goes_on("all held").await?;
    let (listed, _, _) = guest.service.stillpoint(&["writer", "list", "web"]).await?;
    assert!(listed.contains("Writer name: 'db'") && listed.contains("State: [1] Stable"), "{listed}");
    assert!(listed.contains("Last error: No error"), "{listed}");
    let (shown, _, _) = guest.service.stillpoint(&["checkpoint", "show", "web", "all held"]).await?;
    assert!(shown.contains("position of db=42"), "{shown}");

    guest.trick("db freeze hang").await?;
    let made = guest.create("without db", None).await?;
    assert_eq!((made.kind, made.fallback_reason), (Some(Kind::Standard), Some(FallbackReason::WriterTimedOut)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_are_given_back_what_they_kept_when_their_guest_is_brought_back() -> Tested {
    let mut guest = Guest::new().await?;
    let said = |memory: &str| {
        let of = |who: &str, when: &str| format!("{who} {when} {memory} yes position of {who}=42");
        let before = ["web", "db", "disk"].map(|who| of(who, "pre-restore"));
        let after = ["disk", "db", "web"].map(|who| of(who, "post-restore"));
        [before, after].concat()
    };
    let create = "checkpoint create web --name quiet --with-memory --policy production-only --backup-type full";
    let (out, error, code) = guest.service.stillpoint(&create.split(' ').collect::<Vec<_>>()).await?;
    assert_eq!(code, 0, "{out}{error}");
    let (shown, _, _) = guest.service.stillpoint(&["checkpoint", "show", "web", "quiet"]).await?;
    assert!(shown.contains("FULL"), "{shown}");
    guest.lab.sh("until [ $(grep -c 'backup-complete FULL' /run/types) = 3 ]; do usleep 50000; done").await?;
    assert_eq!(guest.lab.sh("grep -c 'prepare-backup FULL' /run/types").await?.trim(), "3");
    let quiet = guest.client.list_checkpoints(&guest.vm).await?[0].id;
    guest.client.wait(&guest.client.apply_checkpoint(&guest.vm, quiet).await?.id).await?;
    guest.lab = guest.service.lab().await?;
    assert_eq!(guest.restored().await?, said("yes"));

    let production = guest.create("production", Some(CheckpointPolicy::ProductionOnly)).await?;
    guest.client.wait(&guest.client.apply_checkpoint(&guest.vm, production.id).await?.id).await?;
    guest.client.wait(&guest.client.start_vm(&guest.vm).await?.id).await?;
    guest.lab = guest.service.lab().await?;
    // Nothing in the guest's root outlives its boot: the applications come later than the agent.
    guest.install().await?;
    let mut told = guest.restored().await?;
    let mut wanted = said("no");
    told.sort();
    wanted.sort();
    assert_eq!(told, wanted);
    Ok(())
}
