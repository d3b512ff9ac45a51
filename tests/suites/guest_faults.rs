//! A guest is never held longer than its lease, whatever happens to the agent and to the service; and the service says
//! what became of the checkpoint.

use std::time::Duration;

use stillpoint_cli::client::Client;
use stillpoint_common::{CheckpointPolicy, FallbackReason, Kind, PowerState, VmId};
use stillpoint_tests::{
    audit::{assert_layers_sound, quiet},
    guest_image::GuestSet,
    lab::LabChannel,
    service::Service,
};
use tokio::time::Instant;

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

const LEASE: Duration = Duration::from_secs(3);
/// The longest that a guest's writes may be held up.
const LONGEST: Duration = Duration::from_secs(4);

/// A guest with an agent that makes trouble on request, and a writer in it that must not be held up.
struct Troubled {
    set: GuestSet,
    service: Service,
    client: Client,
    vm: VmId,
    lab: LabChannel,
}

impl Troubled {
    async fn new() -> Tested<Self> {
        let set = GuestSet::with_faults()?;
        let lease = ("STILLPOINT_LEASE".to_owned(), LEASE.as_secs().to_string());
        let service = Service::start_with(set.path(), vec![lease]).await?;
        let (vm, lab) = service.boot("web", &set).await?;
        let client = service.client().await?;
        lab.start("counter c /data/count 2").await?;
        Ok(Self { set, service, client, vm, lab })
    }

    /// From now on the agent makes this trouble, and holds are measured anew.
    async fn trouble(&self, fault: &str) -> Tested {
        self.lab.sh(&format!("echo {fault} > /run/stillpoint.fault")).await?;
        self.lab.sh("until stillpoint-lab ask c reset; do usleep 20000; done").await?;
        Ok(())
    }

    /// Waits until the guest's writer hangs in a frozen file system.
    async fn is_held(&self) -> Tested {
        let held = "for p in $(pidof stillpoint-lab); do grep -q counter /proc/$p/cmdline && break; done; \
                    until grep -q -e percpu -e sb_start -e freeze /proc/$p/wchan; do usleep 5000; done; \
                    cat /proc/$p/wchan";
        self.lab.sh(held).await?;
        Ok(())
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

    /// A new agent without trouble makes a production checkpoint again.
    async fn is_well_again(&self) -> Tested {
        let new = "rm -f /run/stillpoint.fault; p=$(agent pid); agent crash; \
                   until n=$(agent pid 2> /dev/null) && [ \"$n\" != \"$p\" ]; do usleep 20000; done";
        self.lab.sh(new).await?;
        let asked = self.client.create_checkpoint(&self.vm, "well", Some(CheckpointPolicy::ProductionOnly)).await?;
        self.client.wait(&asked.id).await?;
        Ok(())
    }

    async fn names(&self) -> Tested<Vec<String>> {
        let all = self.client.list_checkpoints(&self.vm).await?;
        Ok(all.into_iter().map(|checkpoint| checkpoint.display_name).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_in_freeze_or_thaw_costs_a_lease_and_the_service_says_so() -> Tested {
    let guest = Troubled::new().await?;
    guest.trouble("hang-in-freeze").await?;
    let since = Instant::now();
    let asked = guest.client.create_checkpoint(&guest.vm, "fallback", None).await?;
    guest.is_held().await?;
    guest.goes_on("hang in freeze, production").await?;
    let made = guest.client.wait(&asked.id).await?.checkpoint_response().ok_or("no checkpoint")?.clone();
    println!("hang in freeze: fallback after {:?}: {}", since.elapsed(), made.fallback_detail);
    assert_eq!(made.kind, Some(Kind::Standard));
    assert!(made.fallback_reason.is_some() && !made.fallback_detail.is_empty());
    assert!(since.elapsed() < Duration::from_secs(25), "{:?}", since.elapsed());

    guest.is_well_again().await?;
    guest.trouble("hang-in-freeze").await?;
    let only = Some(CheckpointPolicy::ProductionOnly);
    let asked = guest.client.create_checkpoint(&guest.vm, "only", only).await?;
    let refused = guest.client.wait(&asked.id).await.unwrap_err();
    assert_eq!(refused.reason(), Some("QUIESCE_FAILED"), "{refused}");
    guest.goes_on("hang in freeze, production only").await?;

    guest.is_well_again().await?;
    guest.trouble("hang-in-thaw").await?;
    let asked = guest.client.create_checkpoint(&guest.vm, "thaw", only).await?;
    let refused = guest.client.wait(&asked.id).await.unwrap_err();
    assert_eq!(refused.reason(), Some("QUIESCE_FAILED"), "{refused}");
    guest.goes_on("hang in thaw").await?;

    guest.is_well_again().await?;
    assert_eq!(guest.names().await?, ["fallback", "well", "well", "well"]);
    assert_layers_sound(&guest.client, &guest.vm, guest.set.path(), "hangs").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_or_a_service_killed_while_the_guest_is_frozen_lets_it_go_on_within_the_lease() -> Tested {
    let mut guest = Troubled::new().await?;
    guest.trouble("slow-freeze").await?;
    let asked = guest.client.create_checkpoint(&guest.vm, "agent killed", None).await?;
    guest.is_held().await?;
    guest.lab.sh("agent crash").await?;
    guest.goes_on("agent killed").await?;
    let made = guest.client.wait(&asked.id).await?.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!((made.kind, made.fallback_reason), (Some(Kind::Standard), Some(FallbackReason::HoldLapsed)));

    guest.is_well_again().await?;
    guest.trouble("slow-freeze").await?;
    let boot = guest.lab.sh("cat /proc/sys/kernel/random/boot_id").await?;
    let asked = guest.client.create_checkpoint(&guest.vm, "service killed", None).await?;
    guest.is_held().await?;
    guest.service.kill().await?;
    guest.goes_on("service killed").await?;
    guest.service.start_again().await?;
    let refused = guest.client.wait(&asked.id).await.unwrap_err();
    assert_eq!(refused.reason(), Some("INTERRUPTED"), "{refused}");
    quiet(&guest.client, &guest.vm).await?;
    assert_eq!(guest.client.vm(&guest.vm).await?.state, Some(PowerState::Running));
    assert_eq!(guest.names().await?, ["agent killed", "well"]);
    assert_eq!(guest.lab.sh("cat /proc/sys/kernel/random/boot_id").await?, boot);

    guest.is_well_again().await?;
    assert_layers_sound(&guest.client, &guest.vm, guest.set.path(), "kills").await
}
