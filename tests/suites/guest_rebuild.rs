//! The catalogue of a real guest's host is deleted and made again from the descriptions and the layers.

use std::{fs, path::PathBuf};

use stillpoint_cli::{client::Client, view::Checkpoint};
use stillpoint_common::{CheckpointPolicy, PowerState};
use stillpoint_tests::{
    audit::{assert_layers_sound, assert_memory_sound},
    guest_image::GuestSet,
    lab::LabChannel,
    service::Service,
};

type Tested = Result<(), Box<dyn std::error::Error>>;

const ALL_WELL: &str = "Everything is as the catalogue says.\n";

/// The layer of the last checkpoint is moved away and put back, while the VM runs on another branch.
async fn what_is_missing_is_said(service: &Service, client: &Client) -> Tested {
    let vm = "web".parse()?;
    let (text, _, code) = service.stillpoint(&["host", "check", "web"]).await?;
    assert_eq!((text.as_str(), code), (ALL_WELL, 0));
    let last = client.list_checkpoints(&vm).await?.into_iter().next_back().ok_or("no checkpoint")?;
    let layer = PathBuf::from(&last.disks[0].path);
    let away = layer.with_extension("away");
    fs::rename(&layer, &away)?;
    let (text, _, code) = service.stillpoint(&["host", "check", "web"]).await?;
    assert!(
        code == 4 && text.starts_with("LAYER_MISSING web:") && text.contains(&last.id.to_string()),
        "{code} {text}"
    );
    let (tree, ..) = service.stillpoint(&["checkpoint", "tree", "web"]).await?;
    assert_eq!(tree.matches("MISSING").count(), 1, "{tree}");
    let (_, refusal, code) =
        service.stillpoint(&["checkpoint", "apply", "web", "after the loss", "--discard-now", "--yes"]).await?;
    assert!(code == 1 && refusal.contains("CHECKPOINT_MISSING"), "{refusal}");
    client.wait(&client.create_checkpoint(&vm, "meanwhile", None).await?.id).await?;
    fs::rename(&away, &layer)?;
    let (text, _, code) = service.stillpoint(&["host", "check", "web"]).await?;
    assert_eq!((text.as_str(), code), (ALL_WELL, 0), "put back");
    let (layers, ..) = service.stillpoint(&["vm", "layers", "web"]).await?;
    assert_eq!((layers.matches(" BASE ").count(), layers.matches(" DIFFERENCING ").count()), (1, 4), "{layers}");
    Ok(())
}

/// What is left of the VM are the descriptions of its checkpoints, and the layers.
async fn its_own_description_is_lost_too(service: &mut Service, set: &GuestSet, lab: LabChannel) -> Tested {
    let vm = "web".parse()?;
    lab.sh("echo last > /data/file; sync").await?;
    drop(lab);
    let before: Vec<Checkpoint> = service.client().await?.list_checkpoints(&vm).await?;
    service.stillpoint(&["vm", "stop", "web", "--turn-off"]).await?;
    service.terminate().await?;
    fs::remove_file(set.path().join("s/catalogue.redb"))?;
    fs::remove_file(set.path().join("s/checkpoints/web/web.vm.json"))?;
    service.start_again().await?;
    let (text, errors, code) = service.stillpoint(&["host", "rebuild"]).await?;
    let taken = format!("taken web: {} checkpoints, 5 layers\n", before.len());
    assert!(text.starts_with(&taken) && text.contains("web.vm.json is lost") && code == 0, "{text}{errors}");
    let client = service.client().await?;
    assert_eq!(client.list_checkpoints(&vm).await?, before);
    let (_, errors, code) = service.stillpoint(&["vm", "start", "web"]).await?;
    assert_eq!(code, 0, "{errors}");
    assert_eq!(service.lab().await?.sh("cat /data/file").await?.trim(), "last");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_catalogue_comes_back_with_the_tree_and_the_running_guest() -> Tested {
    let set = GuestSet::new()?;
    let mut service = Service::start(set.path()).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;
    lab.sh("echo first > /data/file; echo first > /tmp/value; sync").await?;
    let asked = client.create_checkpoint(&vm, "with memory", Some(CheckpointPolicy::Standard)).await?;
    let standard = client.wait(&asked.id).await?.checkpoint_response().ok_or("no checkpoint")?.id;
    lab.sh("echo second > /data/file; sync").await?;
    client.wait(&client.create_checkpoint(&vm, "quiet", None).await?.id).await?;
    lab.sh("echo third > /data/file; sync").await?;
    let before: Vec<Checkpoint> = client.list_checkpoints(&vm).await?;
    let record = client.vm(&vm).await?;
    drop(client);

    service.terminate().await?;
    fs::remove_file(set.path().join("s/catalogue.redb"))?;
    service.start_again().await?;
    let client = service.client().await?;
    assert!(client.list_vms().await?.is_empty(), "the catalogue is gone");
    let (text, errors, code) = service.stillpoint(&["host", "rebuild"]).await?;
    assert_eq!((text.as_str(), code), ("taken web: 2 checkpoints, 3 layers, running\n", 0), "{errors}");
    assert_eq!(client.list_checkpoints(&vm).await?, before);
    assert_eq!(client.vm(&vm).await?, record, "the same VM, running");

    assert_eq!(lab.sh("cat /data/file").await?.trim(), "third", "the guest has noticed nothing");
    client.wait(&client.create_checkpoint(&vm, "after the loss", None).await?.id).await?;
    client.wait(&client.apply_checkpoint(&vm, standard).await?.id).await?;
    let lab = service.lab().await?;
    assert_eq!(lab.sh("cat /tmp/value /data/file").await?.trim(), "first\nfirst");
    assert_eq!(client.vm(&vm).await?.state, Some(PowerState::Running));
    what_is_missing_is_said(&service, &client).await?;
    drop(client);
    its_own_description_is_lost_too(&mut service, &set, lab).await?;
    let client = service.client().await?;
    for checkpoint in client.list_checkpoints(&vm).await? {
        client.wait(&client.delete_checkpoint(&vm, checkpoint.id).await?.id).await?;
    }
    assert_layers_sound(&client, &vm, set.path(), "rebuilt").await?;
    assert_memory_sound(&client, &vm, "rebuilt").await?;
    let (text, _, code) = service.stillpoint(&["host", "check"]).await?;
    assert_eq!((text.as_str(), code), (ALL_WELL, 0), "after merges under a running guest");
    let descriptions = fs::read_dir(set.path().join("s/checkpoints/web"))?.flatten();
    let names: Vec<_> = descriptions.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["web.vm.json"], "what is described is what there is");
    Ok(())
}
