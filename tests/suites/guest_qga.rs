//! A real guest through a second virtio-serial port, by a host that speaks as to qemu-ga.

use std::time::Duration;

use stillpoint_tests::{
    bare::{BareOptions, BareQemu},
    guest_image::GuestSet,
    lab::LabChannel,
    qga::{self, Qga},
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

const STILL: Duration = Duration::from_millis(700);

async fn count(lab: &LabChannel) -> Tested<u64> {
    Ok(lab.ask("c", "count").await?.parse()?)
}

async fn goes_on(lab: &LabChannel) -> Tested {
    let before = count(lab).await?;
    for _ in 0..300 {
        if count(lab).await? > before + 1 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("the guest's writes do not go on".into())
}

async fn stands(lab: &LabChannel) -> Tested {
    // What was under way when it was frozen has been counted by the first question.
    let before = count(lab).await?;
    tokio::time::sleep(STILL).await;
    let after = count(lab).await?;
    if before == after { Ok(()) } else { Err(format!("writes go on: {before}, {after}").into()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_frozen_by_qemu_gas_protocol_and_no_longer_than_its_lease() -> Tested {
    let set = GuestSet::stacked()?;
    let socket = set.path().join("qga");
    let guest = BareQemu::boot(&set, BareOptions { arguments: qga::port(&socket), ..Default::default() }).await?;
    let lab = guest.lab().await?;
    lab.start("counter c /inner/count 2").await?;
    lab.sh("mkdir -p /etc/stillpoint && echo qemu-ga.lease = 3 > /etc/stillpoint/writers.conf").await?;
    lab.sh("agent crash").await?;

    let mut host = Qga::connect(&socket).await?;
    assert_eq!(host.ask("guest-fsfreeze-status").await?, "thawed");
    goes_on(&lab).await?;
    assert_eq!(host.ask("guest-fsfreeze-freeze").await?, 2);
    assert_eq!(host.ask("guest-fsfreeze-status").await?, "frozen");
    stands(&lab).await?;
    assert_eq!(host.ask("guest-fsfreeze-thaw").await?, 2);
    assert_eq!(host.ask("guest-fsfreeze-status").await?, "thawed");
    goes_on(&lab).await?;

    // A host that is gone, and one that comes when all is over.
    assert_eq!(host.ask("guest-fsfreeze-freeze").await?, 2);
    drop(host);
    goes_on(&lab).await?;
    let mut host = Qga::connect(&socket).await?;
    assert_eq!(host.ask("guest-fsfreeze-status").await?, "thawed");
    assert_eq!(host.ask("guest-fsfreeze-thaw").await?, 0, "too late");

    // An agent that is gone.
    assert_eq!(host.ask("guest-fsfreeze-freeze").await?, 2);
    stands(&lab).await?;
    lab.sh("agent crash").await?;
    goes_on(&lab).await?;
    // QEMU's socket serves one host at a time.
    drop(host);
    let mut host = Qga::connect(&socket).await?;
    assert_eq!(host.ask("guest-fsfreeze-status").await?, "thawed");
    assert_eq!(host.ask("guest-get-osinfo").await?["machine"], "x86_64");
    Ok(())
}
