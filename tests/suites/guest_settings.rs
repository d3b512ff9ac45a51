//! What is set for a VM and what is told of it, on a real guest: automatic checkpoints, advice, hazards, and the check.

use std::time::Duration;

use stillpoint_cli::client::Client;
use stillpoint_common::{PowerState, VmId};
use stillpoint_tests::{guest_image::GuestSet, lab::LabChannel, service::Service};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Waits until the VM is off and has so many checkpoints and so many layers.
async fn settles(client: &Client, vm: &VmId, checkpoints: usize, layers: usize) -> Tested {
    let mut seen = None;
    for _ in 0..600 {
        let (made, files) = (client.list_checkpoints(vm).await?.len(), client.layers(vm).await?.len());
        let state = client.vm(vm).await?.state;
        if (state, made, files) == (Some(PowerState::Off), checkpoints, layers) {
            return Ok(());
        }
        seen = Some((state, made, files));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("the VM is {seen:?}, not off with {checkpoints} checkpoints and {layers} layers").into())
}

/// The command line's answer, and that it ended with this code.
async fn says(service: &Service, expected: i32, arguments: &[&str]) -> Tested<String> {
    let (out, error, code) = service.stillpoint(arguments).await?;
    if code != expected {
        return Err(format!("{arguments:?} ended with {code}, not {expected}: {out}{error}").into());
    }
    Ok(format!("{out}{error}"))
}

/// A process that is called so; it does nothing.
async fn run(lab: &LabChannel, program: &str) -> Tested {
    let begin = format!(
        "cp $(which stillpoint-lab) /tmp/{program} && \
         (/tmp/{program} value {program} x < /dev/null > /dev/null 2>&1 &); \
         until pidof {program}; do usleep 20000; done"
    );
    lab.sh(&begin).await?;
    Ok(())
}

/// What is advised for a guest in which a database and a member of a cluster run, and what becomes of its hazards.
async fn advised(service: &Service, lab: &LabChannel) -> Tested {
    let quiet = says(service, 0, &["checkpoint", "advise", "web"]).await?;
    assert!(quiet.starts_with("PRODUCTION\n") && !quiet.contains("Hazards"), "{quiet}");
    run(lab, "postgres").await?;
    let database = says(service, 0, &["checkpoint", "advise", "web"]).await?;
    assert!(
        database.starts_with("STANDARD\n") && database.contains("postgresql runs (process postgres)"),
        "{database}"
    );
    run(lab, "etcd").await?;
    let cluster = says(service, 0, &["checkpoint", "advise", "web"]).await?;
    assert!(cluster.contains("Hazards") && cluster.contains("what it voted for"), "{cluster}");

    let made = says(service, 0, &["checkpoint", "create", "web", "--name", "own"]).await?;
    assert!(made.contains("etcd runs in the guest"), "{made}");
    let kept = says(service, 0, &["checkpoint", "show", "web", "own"]).await?;
    assert!(kept.contains("Hazards") && kept.contains("etcd"), "{kept}");
    let back: [&[&str]; 2] = [&["checkpoint", "revert", "web"], &["checkpoint", "apply", "web", "own"]];
    for act in back {
        let told = says(service, 2, &[act, &["--discard-now", "--yes"]].concat()).await?;
        assert!(told.contains("etcd ran in the guest") && told.contains("--accept-hazards"), "{told}");
    }
    says(service, 0, &["vm", "set", "web", "--hazards", "refuse"]).await?;
    for act in [&["checkpoint", "create", "web"][..], &["checkpoint", "revert", "web", "--discard-now", "--yes"]] {
        let accepted: &[&str] = if act[1] == "revert" { &["--accept-hazards"] } else { &[] };
        let refused = says(service, 1, &[act, accepted].concat()).await?;
        assert!(refused.contains("HAZARD_REFUSED"), "{refused}");
    }
    Ok(())
}

/// The monitoring check ends as a plugin does, and deletes nothing.
async fn checked(service: &Service) -> Tested {
    let fine = says(service, 0, &["check", "web"]).await?;
    assert!(fine.starts_with("STILLPOINT OK - 2 checkpoints on 1 VM | ") && fine.contains("'web_count'=2;"), "{fine}");
    assert!(says(service, 1, &["check", "web", "--warn-count", "2"]).await?.starts_with("STILLPOINT WARNING - web: 2"));
    assert!(says(service, 2, &["check", "--crit-count", "2"]).await?.starts_with("STILLPOINT CRITICAL - web: 2"));
    assert!(says(service, 3, &["--socket", "/nowhere", "check"]).await?.starts_with("STILLPOINT UNKNOWN - "));
    Ok(())
}

/// What the guest writes is the growth of its VM, and each checkpoint says how deep it lies.
async fn grown(service: &Service, lab: &LabChannel) -> Tested {
    let json = async |arguments: &[&str]| -> Tested<serde_json::Value> {
        Ok(serde_json::from_str(&says(service, 0, &[arguments, &["--json"]].concat()).await?)?)
    };
    let before = json(&["vm", "show", "web"]).await?["growth"]["bytes"].as_u64().ok_or("no growth")?;
    lab.sh("stillpoint-lab fill /data/more 8 1").await?;
    let after = json(&["vm", "show", "web"]).await?["growth"]["bytes"].as_u64().ok_or("no growth")?;
    assert!(after >= before + (8 << 20), "{before} and then {after}");
    let depths: Vec<_> =
        json(&["checkpoint", "list", "web"]).await?.as_array().into_iter().flatten().map(depth).collect();
    assert_eq!(depths, [Some(1), Some(2)], "the automatic one is of the user's own image, the other one lies on it");
    Ok(())
}

fn depth(checkpoint: &serde_json::Value) -> Option<u64> {
    checkpoint["usage"]["depth"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_automatic_checkpoint_lasts_for_the_run_of_its_guest_and_advice_is_of_what_runs_in_it() -> Tested {
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let vm = service.define("web", &set).await?;
    let client = service.client().await?;
    says(&service, 0, &["vm", "set", "w*", "--automatic-checkpoints", "on", "--add-label", "prod"]).await?;
    client.wait(&client.start_vm(&vm).await?.id).await?;
    let lab = service.lab().await?;
    let made = client.list_checkpoints(&vm).await?;
    assert!(
        made.len() == 1 && made[0].automatic && made[0].display_name.starts_with("Automatic Checkpoint"),
        "{made:?}"
    );

    lab.sh("echo one > /data/one && sync").await?;
    advised(&service, &lab).await?;
    checked(&service).await?;
    grown(&service, &lab).await?;

    // The guest switches itself off: the automatic checkpoint goes, the user's own stays.
    lab.sh("/sbin/poweroff < /dev/null > /dev/null 2>&1 &").await?;
    settles(&client, &vm, 1, 2).await?;
    let left = client.list_checkpoints(&vm).await?;
    assert_eq!((left[0].display_name.as_str(), left[0].automatic), ("own", false));
    client.wait(&client.delete_checkpoint(&vm, left[0].id).await?.id).await?;
    settles(&client, &vm, 0, 1).await?;

    // What the run wrote stays, and a stop that was asked for ends the next one too, here through the power button.
    client.wait(&client.start_vm(&vm).await?.id).await?;
    let lab = service.lab().await?;
    assert_eq!(lab.sh("cat /data/one").await?.trim(), "one");
    assert!(client.list_checkpoints(&vm).await?.iter().all(|made| made.automatic));
    let listed = says(&service, 0, &["guest", "services", "web"]).await?;
    assert!(listed.contains("QUIESCE     OK") && listed.contains("SHUTDOWN    OK"), "{listed}");
    says(&service, 0, &["vm", "set", "web", "--service-off", "quiesce", "--service-off", "shutdown"]).await?;
    let refused = says(&service, 1, &["checkpoint", "create", "web", "--policy", "production-only"]).await?;
    assert!(refused.contains("QUIESCE of the guest is switched off"), "{refused}");
    client.wait(&client.stop_vm(&vm, false).await?.id).await?;
    settles(&client, &vm, 0, 1).await
}
