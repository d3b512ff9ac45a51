//! A real guest with a TPM: what the TPM keeps goes back with each kind of checkpoint, and what it has in memory with those
//! that have memory.

use std::{fs, path::Path, time::Duration};

use stillpoint_cli::{client::Client, view::Checkpoint};
use stillpoint_common::{CheckpointPolicy, PowerState, VmId};
use stillpoint_tests::{
    guest_image::GuestSet,
    lab::LabChannel,
    service::{Service, guest_spec},
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// An index of the TPM's NV memory, for everybody.
const INDEX: &str = "01500001";
/// The authorisation of a command: by an empty password.
const AUTHORISED: &str = "00000009400000090000000000";

/// Says a command to the TPM, in hexadecimal without its size, and answers what it answers.
async fn tpm(lab: &LabChannel, tag: &str, rest: &str) -> Tested<String> {
    let command = format!("{tag}{:08x}{rest}", 6 + rest.len() / 2);
    let bytes: String = (0..command.len() / 2).map(|at| format!("\\x{}", &command[2 * at..2 * at + 2])).collect();
    let said = format!(
        "exec 3<>/dev/tpm0; printf '{bytes}' >&3; dd bs=4096 count=1 <&3 2>/dev/null | od -An -v -tx1 | tr -d ' \\n'"
    );
    let answer = lab.sh(&said).await?.trim().to_owned();
    match answer.get(12..20) {
        Some("00000000") => Ok(answer),
        _ => Err(format!("the TPM refused {command}: {answer}").into()),
    }
}

async fn define(lab: &LabChannel) -> Tested {
    let public = format!("000e{INDEX}000b0206000600000008");
    tpm(lab, "8002", &format!("0000012a40000001{AUTHORISED}0000{public}")).await.map(drop)
}

/// Makes the TPM keep a number when it has no power.
async fn keep(lab: &LabChannel, number: u64) -> Tested {
    tpm(lab, "8002", &format!("00000137{INDEX}{INDEX}{AUTHORISED}0008{number:016x}0000")).await.map(drop)
}

/// The number that it keeps.
async fn kept(lab: &LabChannel) -> Tested<u64> {
    let answer = tpm(lab, "8002", &format!("0000014e{INDEX}{INDEX}{AUTHORISED}00080000")).await?;
    Ok(u64::from_str_radix(answer.get(32..48).ok_or("too short")?, 16)?)
}

/// Measures something into register 16, which the TPM has in memory only.
async fn extend(lab: &LabChannel) -> Tested<String> {
    tpm(lab, "8002", &format!("0000018200000010{AUTHORISED}00000001000b{}", "5a".repeat(32))).await?;
    register(lab).await
}

async fn register(lab: &LabChannel) -> Tested<String> {
    Ok(lab.sh("cat /sys/class/tpm/tpm0/pcr-sha256/16").await?.trim().to_owned())
}

async fn checkpoint(client: &Client, vm: &VmId, name: &str, policy: CheckpointPolicy) -> Tested<Checkpoint> {
    let made = client.wait(&client.create_checkpoint(vm, name, Some(policy)).await?.id).await?;
    Ok(made.checkpoint_response().ok_or("no checkpoint")?.clone())
}

async fn apply(client: &Client, vm: &VmId, checkpoint: &Checkpoint) -> Tested {
    Ok(client.wait(&client.apply_checkpoint(vm, checkpoint.id).await?.id).await.map(drop)?)
}

/// The command line's answer, and that it ended with this code.
async fn says(service: &Service, expected: i32, arguments: &[&str]) -> Tested<String> {
    let (out, error, code) = service.stillpoint(arguments).await?;
    if code != expected {
        return Err(format!("{arguments:?} ended with {code}, not {expected}: {out}{error}").into());
    }
    Ok(format!("{out}{error}"))
}

async fn started(service: &Service, client: &Client, vm: &VmId) -> Tested<LabChannel> {
    client.wait(&client.start_vm(vm).await?.id).await?;
    Ok(service.lab().await?)
}

/// How many TPMs run whose sockets are below this folder.
fn running_tpms(folder: &Path) -> usize {
    let of_ours = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("swtpm\0socket") && line.contains(&folder.display().to_string())
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().map(of_ours).filter(|ours| *ours).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_goes_back_with_each_kind_of_checkpoint() -> Tested {
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let client = service.client().await?;
    let mut spec = guest_spec(&set, 512);
    spec.tpm = true;
    let (vm, lab) = service.boot_as("web", spec).await?;
    define(&lab).await?;
    keep(&lab, 1).await?;
    let production = checkpoint(&client, &vm, "production", CheckpointPolicy::ProductionOnly).await?;
    assert!(production.tpm_bytes > 0, "{production:?}");

    keep(&lab, 2).await?;
    let measured = extend(&lab).await?;
    let standard = checkpoint(&client, &vm, "standard", CheckpointPolicy::Standard).await?;
    keep(&lab, 3).await?;
    assert_ne!(extend(&lab).await?, measured);

    apply(&client, &vm, &standard).await?;
    let lab = service.lab().await?;
    assert_eq!((kept(&lab).await?, register(&lab).await?), (2, measured.clone()), "memory and NV of the instant");
    keep(&lab, 4).await?;
    client.wait(&client.save_vm(&vm).await?.id).await?;
    assert_eq!(running_tpms(set.path()), 0, "it ends with its VM");
    let saved = checkpoint(&client, &vm, "saved", CheckpointPolicy::Standard).await?;
    let lab = started(&service, &client, &vm).await?;
    assert_eq!((kept(&lab).await?, register(&lab).await?), (4, measured.clone()));
    keep(&lab, 5).await?;

    apply(&client, &vm, &production).await?;
    assert_eq!(client.vm(&vm).await?.state, Some(PowerState::Off));
    let offline = checkpoint(&client, &vm, "offline", CheckpointPolicy::Production).await?;
    let lab = started(&service, &client, &vm).await?;
    assert_eq!(kept(&lab).await?, 1);
    keep(&lab, 6).await?;

    apply(&client, &vm, &saved).await?;
    let lab = started(&service, &client, &vm).await?;
    assert_eq!((kept(&lab).await?, register(&lab).await?), (4, measured));
    apply(&client, &vm, &offline).await?;
    let lab = started(&service, &client, &vm).await?;
    assert_eq!(kept(&lab).await?, 1);
    told_and_copied_out(&service, &client, &vm, set.path()).await
}

/// The command line names it, and an export has it.
async fn told_and_copied_out(service: &Service, client: &Client, vm: &VmId, folder: &Path) -> Tested {
    let state = client.vm(vm).await?.tpm_state;
    assert!(says(service, 0, &["vm", "show", "web"]).await?.contains(&state));
    assert_eq!(fs::read_dir(folder_of(&state)?)?.flatten().filter(|entry| is_state(&entry.path())).count(), 1);
    let config = says(service, 0, &["checkpoint", "show", "web", "production", "--config"]).await?;
    assert!(config.lines().any(|line| line.starts_with("tpm:") && line.ends_with("2.0")), "{config}");
    let target = folder.join("export");
    says(service, 0, &["checkpoint", "export", "web", "production", &target.display().to_string()]).await?;
    let copied = fs::read(target.join("tpm2-00.permall"))?;
    let holds = |number: u64| copied.windows(8).any(|window| window == number.to_be_bytes());
    assert!(holds(1) && !holds(6), "what it kept at the checkpoint, and nothing later");
    says(service, 0, &["vm", "stop", "web", "--turn-off"]).await?;
    says(service, 0, &["vm", "update", "web", "--tpm", "false"]).await?;
    let diff = says(service, 0, &["checkpoint", "diff", "web", "production"]).await?;
    assert!(diff.lines().any(|line| line.starts_with("tpm") && line.contains("2.0")), "{diff}");
    Ok(())
}

fn folder_of(state: &str) -> Tested<&Path> {
    Ok(Path::new(state).parent().ok_or("it has no folder")?)
}

fn is_state(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "tpm")
}

/// Returns when so many TPMs run.
async fn tpms(folder: &Path, wanted: usize) -> Tested {
    for _ in 0..200 {
        if running_tpms(folder) == wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("{} TPMs run, not {wanted}", running_tpms(folder)).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_outlives_the_service_and_ends_with_its_qemu() -> Tested {
    let set = GuestSet::new()?;
    let mut service = Service::start(set.path()).await?;
    let mut spec = guest_spec(&set, 512);
    spec.tpm = true;
    let (vm, lab) = service.boot_as("web", spec).await?;
    define(&lab).await?;
    keep(&lab, 1).await?;
    service.kill().await?;
    keep(&lab, 2).await?;
    assert_eq!(running_tpms(set.path()), 1);
    service.start_again().await?;
    let client = service.client().await?;
    let made = checkpoint(&client, &vm, "standard", CheckpointPolicy::Standard).await?;
    keep(&lab, 3).await?;
    let [pid] = service.qemu_pids()[..] else { return Err("not one QEMU runs".into()) };
    std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    tpms(set.path(), 0).await?;
    apply(&client, &vm, &made).await?;
    assert_eq!(kept(&service.lab().await?).await?, 2);
    tpms(set.path(), 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_tpm_says_what_to_install() -> Tested {
    let set = GuestSet::new()?;
    let disk = format!("name=data,path={},format=qcow2", set.data_disk.display());
    let create = ["vm", "create", "web", "--memory", "256M", "--disk", &disk, "--tpm"];
    let missing = set.path().join("no-such-program").display().to_string();
    {
        let mut service =
            Service::start_with(set.path(), vec![("STILLPOINT_SWTPM".to_owned(), missing.clone())]).await?;
        let said = says(&service, 1, &create).await?;
        assert!(said.contains("TPM_MISSING") && said.contains("apt-get install swtpm"), "{said}");
        assert!(said.contains(&missing), "{said}");
        says(&service, 0, &create[..7]).await?;
        says(&service, 0, &["vm", "delete", "web", "--yes"]).await?;
        service.kill().await?;
    }
    {
        let mut service = Service::start(set.path()).await?;
        says(&service, 0, &create).await?;
        service.kill().await?;
    }
    let service = Service::start_with(set.path(), vec![("STILLPOINT_SWTPM".to_owned(), missing)]).await?;
    let said = says(&service, 1, &["vm", "start", "web"]).await?;
    assert!(said.contains("TPM_MISSING") && said.contains("apt-get install swtpm"), "{said}");
    says(&service, 0, &["vm", "update", "web", "--tpm", "false"]).await?;
    says(&service, 0, &["vm", "start", "web"]).await?;
    Ok(())
}
