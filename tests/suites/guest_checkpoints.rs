//! Checkpoints of a real guest, by the product as a user runs it.

use std::time::Duration;

use stillpoint_common::{CheckpointPolicy, Consistency, FallbackReason, Kind};
use stillpoint_tests::{ext4::Ext4State, guest_image::GuestSet, lab::LabChannel, service::Service};

type Tested = Result<(), Box<dyn std::error::Error>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_production_checkpoint_is_clean_on_disk_and_a_standard_one_gives_memory_back() -> Tested {
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;

    lab.sh("echo saved > /data/file && sync").await?;
    let made = client.wait(&client.create_checkpoint(&vm, "clean", None).await?.id).await?;
    let clean = made.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!((clean.kind, clean.consistency), (Some(Kind::Production), Some(Consistency::FileSystem)));
    assert!(Ext4State::of_layer(&set.data_disk, "qcow2").await?.at_rest(), "needs no journal replay");

    lab.sh("echo unsaved > /tmp/value").await?;
    let asked = client.create_checkpoint(&vm, "with memory", Some(CheckpointPolicy::Standard)).await?;
    let made = client.wait(&asked.id).await?;
    let standard = made.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!((standard.kind, standard.consistency), (Some(Kind::Standard), Some(Consistency::Memory)));

    lab.sh("echo changed > /tmp/value; echo changed > /data/file; sync").await?;
    client.wait(&client.apply_checkpoint(&vm, standard.id).await?.id).await?;
    let lab = service.lab().await?;
    assert_eq!(lab.sh("cat /tmp/value /data/file").await?.trim(), "unsaved\nsaved");
    let off = clock_off(&lab).await?;
    assert!(off < Duration::from_millis(100), "the clock is off by {off:?}");
    Ok(())
}

/// How far the guest's clock is from the host's.
async fn clock_off(lab: &LabChannel) -> Result<Duration, Box<dyn std::error::Error>> {
    let since_1970 = |time: jiff::Timestamp| Duration::from_micros(time.as_microsecond().unsigned_abs());
    let before = since_1970(jiff::Timestamp::now());
    let guest = lab.clock().await?.since_1970;
    let after = since_1970(jiff::Timestamp::now());
    Ok(before.saturating_sub(guest).max(guest.saturating_sub(after)))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_agent_a_guest_gets_a_standard_checkpoint_that_says_why() -> Tested {
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;
    lab.sh("agent stop").await?;
    let made = client.wait(&client.create_checkpoint(&vm, "fallback", None).await?.id).await?;
    let made = made.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!((made.kind, made.fallback_reason), (Some(Kind::Standard), Some(FallbackReason::AgentUnreachable)));
    let only = client.create_checkpoint(&vm, "only", Some(CheckpointPolicy::ProductionOnly)).await?;
    let refused = client.wait(&only.id).await.unwrap_err();
    assert_eq!(refused.reason(), Some("QUIESCE_FAILED"));
    assert_eq!(client.list_checkpoints(&vm).await?.len(), 1);
    Ok(())
}
