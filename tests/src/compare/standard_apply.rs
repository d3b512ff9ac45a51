//! `standard_apply`: how long it takes, from the request, until a VM that is off runs at the instant of a standard checkpoint,
//! and until all of its memory is in.
//!
//! Until it runs, the floor is a QEMU with the product's own command line, which loads a plain stream from a file and is then told
//! `cont`; its clock starts before its process does. The product's side has besides to make the layers and to write down what it
//! does. Until all is in, the floor is the product itself with `--load-whole`, which reads and checks the same pages before the VM
//! runs.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use stillpoint_cli::client::Client;
use stillpoint_common::{CheckpointId, CheckpointPolicy, VmId};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use super::{Effort, Outcome, figures::Case, pair::fill};
use crate::{
    guest_image::GuestSet,
    qmp::Qmp,
    service::{Service, guest_spec},
};

pub(super) const NAME: &str = "standard_apply";
/// It runs before a QEMU that is given nothing else to do.
const TARGET: f64 = 1.0;
/// What it costs that pages come one by one.
const WHOLE_TARGET: f64 = 1.3;
const SIZES: [(u64, &str); 2] = [(512, "512 MiB"), (2048, "2 GiB")];
const LIMIT: Duration = Duration::from_secs(60);
const QUICK: Duration = Duration::from_millis(2);
const BY_STREAM: &str = "all of it loaded first";
const BARE: &str = "a bare QEMU";

/// Until the VM runs, and until all of its memory is in.
struct Took {
    runs: Duration,
    is_in: Duration,
}

pub(super) async fn run(effort: Effort) -> Outcome<Vec<Case>> {
    let mut cases = Vec::new();
    for (memory_mib, name) in SIZES {
        let runs = Case::new(NAME, format!("{name}, it runs"), Some(TARGET));
        let is_in = Case::new(NAME, format!("{name}, all is in"), Some(WHOLE_TARGET));
        cases.extend(of_size(memory_mib, effort, [runs, is_in]).await?);
    }
    Ok(cases)
}

async fn of_size(memory_mib: u64, effort: Effort, mut cases: [Case; 2]) -> Outcome<[Case; 2]> {
    let set = GuestSet::new()?;
    let (vm, made) = prepared(&set, memory_mib).await?;
    let stream = set.path().join("stream");
    for _ in 0..effort.runs {
        let service = Service::start(set.path()).await?;
        let ours = apply(&service, &vm, made).await?;
        plain_stream(&service, &set, made, &stream).await?;
        end(service, &vm).await?;
        let whole = vec![("STILLPOINT_LOAD_WHOLE".to_owned(), "true".to_owned())];
        let service = Service::start_with(set.path(), whole).await?;
        let first = apply(&service, &vm, made).await?;
        let line = command_line(&service)?;
        end(service, &vm).await?;
        let floor = floor(&set, &line, &stream).await?;
        eprintln!(
            "  {memory_mib} MiB: runs after {:.1?}, all in after {:.1?}; all loaded first {:.1?}; floor {floor:.1?}",
            ours.runs, ours.is_in, first.runs
        );
        let turns = [(ours.runs, floor, BY_STREAM, first.runs), (ours.is_in, first.runs, BARE, floor)];
        for (case, (ours, floor, name, peer)) in cases.iter_mut().zip(turns) {
            case.ours.add(ours);
            case.floor.add(floor);
            case.peers.entry(name).or_default().add(peer);
        }
    }
    Ok(cases)
}

/// A VM that is off, with a checkpoint of it with half of its memory full.
async fn prepared(set: &GuestSet, memory_mib: u64) -> Outcome<(VmId, CheckpointId)> {
    let service = Service::start(set.path()).await?;
    let booted = service.boot_as("measured", guest_spec(set, memory_mib)).await;
    let (vm, lab) = booted.map_err(|error| error.to_string())?;
    fill(&lab, memory_mib / 2).await?;
    let client = service.client().await?;
    let asked = client.create_checkpoint(&vm, "full", Some(CheckpointPolicy::Standard)).await?;
    let ended = client.wait(&asked.id).await?;
    let made = ended.checkpoint_response().ok_or("the operation made no checkpoint")?.id;
    end(service, &vm).await?;
    Ok((vm, made))
}

/// Turns the VM off, and ends the service.
async fn end(mut service: Service, vm: &VmId) -> Outcome {
    let client: Client = service.client().await?;
    let off = client.stop_vm(vm, true).await?;
    client.wait(&off.id).await?;
    Ok(service.terminate().await?)
}

async fn apply(service: &Service, vm: &VmId, made: CheckpointId) -> Outcome<Took> {
    let client = service.client().await?;
    let begun = Instant::now();
    let asked = client.apply_checkpoint(vm, made).await?;
    let instance = loop {
        match service.instances().pop() {
            Some(instance) => break instance,
            None if begun.elapsed() > LIMIT => return Err("no process was started".into()),
            None => sleep(QUICK).await,
        }
    };
    let mut qmp = Qmp::connect(&instance.join("qmp-debug"), LIMIT).await?;
    until(&mut qmp, "query-status", |told| told["status"] == "running").await?;
    let runs = begun.elapsed();
    until(&mut qmp, "query-migrate", |told| told["status"] == "completed").await?;
    let is_in = begun.elapsed();
    client.wait(&asked.id).await?;
    Ok(Took { runs, is_in })
}

async fn until(qmp: &mut Qmp, question: &str, is_so: impl Fn(&Value) -> bool) -> Outcome {
    let end = Instant::now() + LIMIT;
    while !is_so(&qmp.execute(question, json!({})).await?) {
        if Instant::now() > end {
            return Err(format!("{question} does not answer what is waited for").into());
        }
        sleep(QUICK).await;
    }
    Ok(())
}

/// The command line of the only VM that runs, and its runtime folder.
fn command_line(service: &Service) -> Outcome<(Vec<String>, PathBuf)> {
    let pid = *service.qemu_pids().first().ok_or("the VM has no QEMU")?;
    let line = String::from_utf8(std::fs::read(format!("/proc/{pid}/cmdline"))?)?;
    let instance = service.instances().pop().ok_or("the VM has no runtime folder")?;
    Ok((line.split_terminator('\0').map(str::to_owned).collect(), instance))
}

async fn plain_stream(service: &Service, set: &GuestSet, made: CheckpointId, stream: &Path) -> Outcome {
    if stream.exists() {
        return Ok(());
    }
    let state = set.path().join(format!("s/checkpoints/measured/{made}.memory")).display().to_string();
    let (out, error, code) =
        service.stillpoint(&["memory", "to-stream", &state, &stream.display().to_string()]).await?;
    if code == 0 { Ok(()) } else { Err(format!("{out}{error}").into()) }
}

/// How long a bare QEMU takes from its start until it runs with this stream loaded. It has the disks of the VM, which is off.
async fn floor(set: &GuestSet, (line, instance): &(Vec<String>, PathBuf), stream: &Path) -> Outcome<Duration> {
    let folder = set.path().join("bare");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder)?;
    let (from, to) = (instance.display().to_string(), folder.display().to_string());
    let words: Vec<String> = line.iter().map(|word| word.replace(&from, &to)).collect();
    let errors = File::create(folder.join("stderr"))?;
    let begun = Instant::now();
    let mut command = Command::new(words.first().ok_or("a process without a command line")?);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors).kill_on_drop(true);
    let mut process = command.spawn()?;
    let mut qmp = Qmp::connect(&folder.join("qmp"), LIMIT).await.map_err(|error| said(&folder, &error))?;
    qmp.execute_with("getfd", json!({ "fdname": "memory" }), Some(File::open(stream)?.into())).await?;
    qmp.execute("migrate-incoming", json!({ "uri": "fd:memory" })).await?;
    until(&mut qmp, "query-status", |told| told["status"] == "paused").await?;
    qmp.execute("cont", json!({})).await?;
    let took = begun.elapsed();
    process.kill().await?;
    Ok(took)
}

fn said(folder: &Path, error: &io::Error) -> String {
    format!("{error}: {}", std::fs::read_to_string(folder.join("stderr")).unwrap_or_default())
}
