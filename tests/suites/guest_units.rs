//! Processes of a real guest that stand still by their cgroup while it is held. They write into memory, so that no frozen file
//! system is what stops them.

use std::time::Duration;

use stillpoint_tests::{
    bare::{BareOptions, BareQemu},
    guest_image::GuestSet,
    lab::LabChannel,
    qga::{self, Qga},
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

const SETTINGS: &str = "units.freeze = /shop /closed\nqemu-ga.lease = 20\n";
/// A process that counts in a cgroup, and another one that somebody has frozen.
const BEGIN: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && cd /sys/fs/cgroup && mkdir shop closed && echo 1 > closed/cgroup.freeze
for name in shop closed; do
    sh -c \"echo \\$\\$ > $name/cgroup.procs; exec stillpoint-lab counter $name /run/$name 2\" < /dev/null > /dev/console 2>&1 &
done
until [ -s /run/shop ]; do usleep 20000; done";
/// Its agent's guardians, before they can do anything.
const KILL_GUARDIANS: &str =
    "for p in /proc/[0-9]*; do read -r c < $p/comm && [ \"$c\" = stillpoint-gd ] && kill -9 ${p#/proc/}; done; true";

async fn count(lab: &LabChannel) -> Tested<u64> {
    Ok(lab.sh("head -c 12 /run/shop").await?.parse()?)
}

async fn goes_on(lab: &LabChannel) -> Tested {
    let before = count(lab).await?;
    for _ in 0..300 {
        if count(lab).await? > before + 1 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("it does not go on".into())
}

async fn stands(lab: &LabChannel) -> Tested {
    let before = count(lab).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (after, events) = (count(lab).await?, lab.sh("cat /sys/fs/cgroup/shop/cgroup.events").await?);
    if before == after && events.contains("frozen 1") {
        return Ok(());
    }
    Err(format!("it goes on: {before}, {after}, {events}").into())
}

/// Speaks to an agent that has registered its writer.
async fn registered(lab: &LabChannel, socket: &std::path::Path) -> Tested<Qga> {
    lab.sh("until grep -q 'systemd units' /run/agent.log; do usleep 50000; done; > /run/agent.log").await?;
    Ok(Qga::connect(socket).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cgroup_of_a_guest_stands_still_while_it_is_held_and_goes_on_whoever_is_killed() -> Tested {
    let set = GuestSet::new()?;
    let socket = set.path().join("qga");
    let guest = BareQemu::boot(&set, BareOptions { arguments: qga::port(&socket), ..Default::default() }).await?;
    let lab = guest.lab().await?;
    lab.sh(BEGIN).await?;
    lab.sh(&format!("mkdir -p /etc/stillpoint && printf '{SETTINGS}' > /etc/stillpoint/writers.conf")).await?;
    lab.sh("agent crash").await?;
    let mut host = registered(&lab, &socket).await?;
    for _ in 0..2 {
        goes_on(&lab).await?;
        assert_eq!(host.ask("guest-fsfreeze-freeze").await?, 1);
        stands(&lab).await?;
        assert_eq!(host.ask("guest-fsfreeze-thaw").await?, 1);
        goes_on(&lab).await?;
    }

    assert_eq!(host.ask("guest-fsfreeze-freeze").await?, 1);
    stands(&lab).await?;
    lab.sh("agent crash").await?;
    goes_on(&lab).await?;

    // QEMU's socket serves one host at a time.
    drop(host);
    let mut host = registered(&lab, &socket).await?;
    assert_eq!(host.ask("guest-fsfreeze-freeze").await?, 1);
    lab.sh(&format!("{KILL_GUARDIANS}; agent kill")).await?;
    stands(&lab).await?;
    lab.sh("agent start").await?;
    goes_on(&lab).await?;
    drop(host);
    let mut host = registered(&lab, &socket).await?;
    assert_eq!(host.ask("guest-fsfreeze-status").await?, "thawed");
    assert_eq!(lab.sh("cat /sys/fs/cgroup/closed/cgroup.freeze").await?, "1", "what others have frozen stays theirs");
    Ok(())
}
