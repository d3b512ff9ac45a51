//! The event log over gRPC and the command line, of a real service. Guests are not needed: see `guest_space` for what a
//! real one makes happen.

use stillpoint_cli::client::{EventsFrom, VmChange};
use stillpoint_common::{CheckpointPolicy, EventKind};
use stillpoint_tests::{bare::qemu_img, service::Service};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// An empty image for a VM that is never started.
fn image(path: &std::path::Path) -> std::io::Result<()> {
    let made =
        std::process::Command::new(qemu_img()).args(["create", "-q", "-f", "qcow2"]).arg(path).arg("1M").status()?;
    if made.success() { Ok(()) } else { Err(std::io::Error::other("qemu-img create failed")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_streamed_and_go_on_from_a_token_over_a_restart_of_the_service() -> Tested {
    let folder = tempfile::Builder::new().prefix("sp-").tempdir_in("/tmp")?;
    let mut service = Service::start(folder.path()).await?;
    for vm in ["web", "db"] {
        let disk = folder.path().join(vm);
        image(&disk)?;
        let disk = format!("name=system,path={},format=qcow2", disk.display());
        let (_, said, code) = service.stillpoint(&["vm", "create", vm, "--memory", "64M", "--disk", &disk]).await?;
        assert_eq!(code, 0, "{said}");
    }
    let client = service.client().await?;
    let mut watch = client.events(EventsFrom::Now, None, true).await?;
    let change = |policy| VmChange { checkpoint_policy: Some(policy), ..VmChange::default() };
    let (web, db) = ("web".parse()?, "db".parse()?);
    client.update_vm(&db, &change(CheckpointPolicy::Standard)).await?;
    client.update_vm(&web, &change(CheckpointPolicy::Standard)).await?;
    let seen = watch.next().await?.ok_or("no event")?;
    assert_eq!((seen.kind, seen.vm.as_ref(), seen.checkpoint), (Some(EventKind::VmChanged), Some(&db), None));
    assert_eq!(watch.next().await?.ok_or("no event")?.vm.as_ref(), Some(&web));

    service.kill().await?;
    assert!(watch.next().await.is_err(), "a watch does not outlive the service");
    service.start_again().await?;
    let client = service.client().await?;
    client.delete_vm(&web).await?;
    let mut again = client.events(EventsFrom::After(seen.token.clone()), None, false).await?;
    let mut kinds = vec![];
    while let Some(event) = again.next().await? {
        kinds.push((event.kind, event.vm));
    }
    assert_eq!(kinds, [(Some(EventKind::VmChanged), Some(web.clone())), (Some(EventKind::VmForgotten), Some(web))]);

    let (said, _, _) = service.stillpoint(&["events", "--vm", "db", "--json"]).await?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    let kinds: Vec<_> = said.as_array().into_iter().flatten().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds, ["VM_DEFINED", "VM_CHANGED"]);
    let (said, _, _) = service.stillpoint(&["events", "--since", &seen.token]).await?;
    assert!(said.lines().count() == 2 && said.contains("web  VM_FORGOTTEN  web was forgotten"), "{said}");
    for (token, field) in [("rubbish", "after: is no token"), ("999999-0", "was not given by this catalogue")] {
        let (_, said, code) = service.stillpoint(&["events", "--since", token]).await?;
        assert!(code == 1 && said.contains(field), "{said}");
    }
    Ok(())
}
