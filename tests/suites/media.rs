//! Read-only media: in no checkpoint, shared by VMs, put in and taken out at will, and what becomes of one that is gone.

use stillpoint_common::{
    CheckpointPolicy, CriticalSettings, DiskFormat, Drive, Failure, Medium, MediumFile, Operation, Reason,
    SettingsChange, UnsupportedDisks, VmDefinition, VmSettings,
};
use stillpoint_engine::{ApplyRequest, NewVm, Request, VmChange};
use stillpoint_sim::definition;
use stillpoint_tests::sim_host::SimHost;

const ISO: &str = "/iso/install.iso";

fn image(name: &str, path: &str) -> Medium {
    let file = MediumFile { path: path.into(), format: DiskFormat::Qcow2 };
    Medium { name: name.parse().expect("a name"), drive: Drive::Disk, file: Some(file) }
}

fn empty(name: &str) -> Medium {
    Medium { file: None, ..Medium::cdrom(name, "") }
}

/// Gives the VM these media.
async fn insert(host: &SimHost, media: &[Medium]) -> Result<(), Failure> {
    let known = host.engine.vm(&host.vm()).await?.vm.definition;
    let definition = Some(VmDefinition { media: media.to_vec(), ..known });
    host.engine.update_vm(&host.vm(), VmChange { definition, ..VmChange::default() }).await.map(drop)
}

/// A VM that is off, with an ISO file in its drive and a read-only image beside.
async fn host() -> SimHost {
    let host = SimHost::new().await;
    host.world.add_image_of(ISO, DiskFormat::Raw, 1 << 20);
    host.world.add_image("/iso/tools.qcow2", 1 << 20);
    insert(&host, &[Medium::cdrom("cd", ISO), image("tools", "/iso/tools.qcow2")]).await.expect("they are fine");
    host
}

/// What the process of the VM has in its drives.
fn in_drives(host: &SimHost) -> Vec<Medium> {
    let instance = host.world.instances(&host.vm())[0];
    host.world.launch_spec(instance).expect("it runs").definition.media
}

/// Does a request, and answers it with its warnings.
async fn told(host: &SimHost, request: Request) -> Operation {
    let accepted = host.engine.submit(&host.vm(), request, None).await.expect("it is admitted");
    host.end_of(&accepted).await.expect("it is done");
    host.engine.operation(accepted.id).await.expect("it is remembered")
}

#[tokio::test(start_paused = true)]
async fn a_medium_is_in_no_checkpoint_gets_no_layer_and_is_named_as_left_out() {
    let host = host().await;
    let settings = SettingsChange { unsupported_disks: Some(UnsupportedDisks::Refuse), ..SettingsChange::default() };
    host.engine.update_vm(&host.vm(), VmChange { settings, ..VmChange::default() }).await.unwrap();
    host.run(Request::Start).await.unwrap();
    for policy in [CheckpointPolicy::Production, CheckpointPolicy::Standard] {
        let made = host.create(policy).await.unwrap();
        let named: Vec<_> = made.left_out.iter().map(|left| left.disk.as_str()).collect();
        assert_eq!(named, ["cd", "tools"]);
        assert!(made.left_out[0].why.contains("/iso/install.iso is a read-only medium"), "{}", made.left_out[0].why);
        assert_eq!(made.disks.len(), 2, "its disks, and nothing else");
    }
    let beside = host.world.files().into_iter().filter(|path| path.starts_with("/iso"));
    assert_eq!(beside.count(), 2, "no layer lies beside a medium");
    let export = host.checkpoints().await[0].checkpoint.id;
    let target = "/exports/one";
    host.run(Request::Export { checkpoint: export, folder: target.into(), format: DiskFormat::Raw }).await.unwrap();
    let manifest = host.world.manifest(target).unwrap();
    assert_eq!(manifest["definition"]["media"][0]["name"], "cd", "{manifest}");
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_with_a_medium_and_no_warning_says_so() {
    let host = host().await;
    let warnings = told(&host, Request::CreateCheckpoint(Default::default())).await.warnings;
    assert_eq!(warnings, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn several_vms_have_the_same_medium_in_at_the_same_time() {
    let host = host().await;
    host.run(Request::Start).await.unwrap();
    host.world.add_image("/vm/db.qcow2", 1 << 30);
    let new = NewVm {
        id: "db".parse().unwrap(),
        definition: VmDefinition {
            media: vec![Medium::cdrom("dvd", ISO)],
            ..definition(&[("system", "/vm/db.qcow2")])
        },
        checkpoint_policy: CheckpointPolicy::Production,
        checkpoint_location: None,
        critical: CriticalSettings::default(),
        settings: VmSettings::default(),
    };
    let db = host.engine.create_vm(new, None).await.unwrap().vm.id;
    let started = host.engine.submit(&db, Request::Start, None).await.unwrap();
    host.end_of(&started).await.unwrap();
    assert!(host.world.running(&db).is_some() && host.world.running(&host.vm()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_medium_changes_under_checkpoints_and_which_one_was_in_goes_back_with_an_apply() {
    let host = host().await;
    host.world.add_image_of("/iso/second.iso", DiskFormat::Raw, 1 << 20);
    host.run(Request::Start).await.unwrap();
    let standard = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.turn_off().await;
    insert(&host, &[Medium::cdrom("cd", "/iso/second.iso")]).await.unwrap();
    insert(&host, &[empty("cd")]).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(in_drives(&host), [empty("cd")]);

    let applied = told(&host, Request::Apply(standard.id.into())).await;
    assert_eq!(in_drives(&host), [Medium::cdrom("cd", ISO), image("tools", "/iso/tools.qcow2")]);
    let changes: Vec<_> = applied.changes.iter().map(|change| change.field.as_str()).collect();
    assert_eq!((changes, applied.warnings.len()), (vec!["media.cd", "media.tools"], 0));
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_medium_that_is_gone_is_named_at_the_start_and_keeps_nothing_else_from_being_done() {
    let host = host().await;
    let first = host.create(CheckpointPolicy::Production).await.unwrap();
    assert!(host.world.lose_file(ISO));
    let refused = host.run(Request::Start).await.unwrap_err();
    assert_eq!(refused.reason, Reason::MediumMissing);
    assert_eq!(refused.message, "the medium cd of VM web is missing: /iso/install.iso does not exist");
    assert_eq!(host.world.instances(&host.vm()), [], "no process is left");

    let second = host.create(CheckpointPolicy::Production).await.unwrap();
    host.run(Request::Apply(first.id.into())).await.unwrap();
    let known = host.engine.vm(&host.vm()).await.unwrap().vm.definition;
    let definition = Some(VmDefinition { cpus: 2, ..known });
    host.engine.update_vm(&host.vm(), VmChange { definition, ..VmChange::default() }).await.unwrap();
    host.run(Request::DeleteCheckpoint(second.id)).await.unwrap();

    insert(&host, &[empty("cd"), image("tools", "/iso/tools.qcow2")]).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(in_drives(&host)[0], empty("cd"));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_goes_on_where_it_was_finds_its_drive_empty_if_the_medium_is_gone() {
    let host = host().await;
    host.run(Request::Start).await.unwrap();
    let standard = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.run(Request::Save).await.unwrap();
    host.world.lose_file(ISO);
    let woken = told(&host, Request::Start).await;
    assert_eq!(woken.warnings, ["medium cd is not in its drive: /iso/install.iso does not exist"]);
    let applied = told(&host, Request::Apply(standard.id.into())).await;
    assert!(applied.warnings.contains(&woken.warnings[0]), "{:?}", applied.warnings);
    assert_eq!(in_drives(&host)[0], empty("cd"));

    host.world.lose_file("/iso/tools.qcow2");
    let refused = host.run(Request::Apply(standard.id.into())).await.unwrap_err();
    assert_eq!(refused.reason, Reason::MediumMissing, "a disk cannot be empty");
    assert!(host.world.running(&host.vm()).is_some(), "the VM runs as it did");
    let off = ApplyRequest { machine: stillpoint_engine::Machine::WithoutMemory, ..standard.id.into() };
    host.run(Request::Apply(off)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_medium_is_refused_with_the_field_that_names_it() {
    let host = SimHost::new().await;
    for path in ["/iso/damaged.qcow2", "/iso/base.qcow2", "/iso/overlay.qcow2"] {
        host.world.add_image(path, 1 << 20);
    }
    host.world.corrupt_file("/iso/damaged.qcow2");
    host.world.name_backing("/iso/overlay.qcow2", "/iso/base.qcow2");
    let cases = [
        ("/iso/absent.qcow2", Reason::MediumMissing),
        ("/iso/damaged.qcow2", Reason::DiskFileUnusable),
        ("/iso/overlay.qcow2", Reason::DiskFileUnusable),
    ];
    for (path, reason) in cases {
        let refused = insert(&host, &[empty("cd"), image("a", path)]).await.unwrap_err();
        assert_eq!((refused.reason, refused.field.as_deref()), (reason, Some("vm.spec.media[1].path")), "{path}");
    }
    let refused = insert(&host, &[Medium::cdrom("cd", "/iso/base.qcow2")]).await.unwrap_err();
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::DiskFileUnusable, Some("vm.spec.media[0].path")));
    assert!(refused.message.contains("declare it as qcow2"), "{refused}");
    let own = host.engine.vm(&host.vm()).await.unwrap().disks[0].1.path.clone();
    host.create(CheckpointPolicy::Production).await.unwrap();
    let head = host.engine.vm(&host.vm()).await.unwrap().disks[0].1.path.clone();
    assert_ne!(own, head);
    let refused = insert(&host, &[image("a", head.to_str().unwrap())]).await.unwrap_err();
    assert!(matches!(refused.reason, Reason::DiskInUse | Reason::DiskFileUnusable), "{refused}");
    let refused = insert(&host, &[image("a", own.to_str().unwrap())]).await.unwrap_err();
    assert_eq!(refused.reason, Reason::FieldInvalid, "{refused}");
}
