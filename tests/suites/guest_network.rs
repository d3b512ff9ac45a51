//! Network cards of a real guest.

use std::{fs, path::PathBuf};

use stillpoint_cli::view::{Nic, TapNetwork};
use stillpoint_common::CheckpointPolicy;
use stillpoint_tests::{
    guest_image::GuestSet,
    service::{Service, guest_spec},
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

const MAC: &str = "52:54:00:5a:11:01";

/// The tap interfaces that a process holds, as the kernel says.
fn taps_of(pid: u32) -> Tested<Vec<String>> {
    let mut taps = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        taps.extend(info.lines().filter_map(|line| line.strip_prefix("iff:")).map(|name| name.trim().to_owned()));
    }
    Ok(taps)
}

/// A tap serves one process at a time: an apply with memory hands it over.
#[tokio::test(flavor = "multi_thread")]
async fn a_card_on_a_tap_reaches_the_guest_and_stays_with_it_over_an_apply() -> Tested {
    let tap = format!("sptest{}", std::process::id() % 100_000);
    let on_host = PathBuf::from("/sys/class/net").join(&tap);
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let client = service.client().await?;
    let mut spec = guest_spec(&set, 512);
    let network = TapNetwork { interface: tap.clone() };
    spec.nics.push(Nic { user: None, tap: Some(network), mac: MAC.to_owned() });
    let (vm, lab) = service.boot_as("web", spec).await?;
    let card = "load virtio_net; cat /sys/class/net/*/address";
    assert!(lab.sh(card).await?.lines().any(|address| address == MAC), "the guest has the card");
    assert_eq!(taps_of(service.qemu_pids()[0])?, [tap.as_str()]);

    let made = client.create_checkpoint(&vm, "with network", Some(CheckpointPolicy::Standard)).await?;
    let made = client.wait(&made.id).await?;
    let id = made.checkpoint_response().ok_or("no checkpoint")?.id;
    client.wait(&client.apply_checkpoint(&vm, id).await?.id).await?;
    let lab = service.lab().await?;
    assert!(lab.sh(card).await?.lines().any(|address| address == MAC), "the guest has its card again");
    let pids = service.qemu_pids();
    assert_eq!(pids.len(), 1);
    assert_eq!(taps_of(pids[0])?, [tap.as_str()]);

    client.wait(&client.stop_vm(&vm, true).await?.id).await?;
    assert!(!on_host.exists(), "a tap that the VM made goes with it");
    Ok(())
}
