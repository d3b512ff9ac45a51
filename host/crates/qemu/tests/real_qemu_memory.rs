//! Memory saved while the guest runs, and loaded again, on real QEMU.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod lab;

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::Duration,
};

use lab::{DISK_SIZE, LONG, Lab, kill, numbers, quiet};
use stillpoint_common::{DiskFormat, InstanceId, LayerFile, LayerId, MemoryId, MemoryState, Progress};
use stillpoint_engine::ports::{
    Capture, DiskChain, Hypervisor, HypervisorError, Images, LaunchSpec, MemoryStates, ProgressSink, RunState,
    StartMode,
};
use stillpoint_memory::state::SavedMemory;
use tokio::time::Instant;

/// A standard checkpoint: the memory state, and the chains that belong to it.
struct Saved {
    state: MemoryState,
    chains: Vec<DiskChain>,
    paused_for: Duration,
}

/// Saves memory and disks of one instant, the way the engine does it.
async fn save(lab: &mut Lab) -> Saved {
    save_over(lab, None).await
}

/// The same; what is in the base need not be stored again.
async fn save_over(lab: &mut Lab, base: Option<&MemoryState>) -> Saved {
    let checkpoint = MemoryId::generate();
    let location = lab.folder.path().to_owned();
    let overlays = lab.attach_overlays().await;
    let sink = lab.states.begin(&location, checkpoint, base).await.unwrap();
    lab.hypervisor.prepare_capture(lab.instance, sink).await.unwrap();
    let was_running = lab.observe().await.run == RunState::Running;

    let begun = Instant::now();
    lab.hypervisor.pause(lab.instance).await.unwrap();
    lab.hypervisor.switch_heads(lab.instance, &overlays).await.unwrap();
    lab.hypervisor.start_capture(lab.instance).await.unwrap();
    lab.hypervisor.start_capture(lab.instance).await.unwrap();
    if was_running {
        lab.hypervisor.resume(lab.instance).await.unwrap();
    }
    let paused_for = begun.elapsed();

    let told = Arc::new(Mutex::new(Progress::default()));
    let progress: ProgressSink = {
        let told = Arc::clone(&told);
        Arc::new(move |progress| *told.lock().unwrap() = progress)
    };
    lab.hypervisor.finish_capture(lab.instance, &progress).await.unwrap();
    lab.hypervisor.finish_capture(lab.instance, &progress).await.unwrap();
    let told = *told.lock().unwrap();
    assert!(told.done == told.total && told.total >= 64 << 20, "{told:?}");
    assert_eq!(lab.observe().await.capture, Capture::Completed);
    let version = lab.hypervisor.version(lab.instance).await.unwrap();
    let state = lab.states.seal(&location, checkpoint, &version).await.unwrap();
    let chains = lab.chains.clone();
    lab.lay(&overlays);
    Saved { state, chains, paused_for }
}

/// An instance on new overlays over these chains that awaits its memory.
async fn awaiting(lab: &Lab, chains: &[DiskChain]) -> LaunchSpec {
    let mut spec = lab.spec();
    spec.instance = InstanceId::generate();
    spec.mode = StartMode::Restore;
    spec.chains = chains.to_vec();
    for chain in &mut spec.chains {
        let id = LayerId::generate();
        let path = lab.folder.path().join(format!("{id}.qcow2"));
        lab.images.create_overlay(&path, chain.layers.last().unwrap(), DISK_SIZE).await.unwrap();
        chain.layers.push(LayerFile { id, path, format: DiskFormat::Qcow2 });
    }
    lab.hypervisor.launch(&spec).await.unwrap();
    assert_eq!(lab.hypervisor.observe(spec.instance).await.unwrap().run, RunState::AwaitingMemory);
    spec
}

/// Brings a saved state back as the lab's instance.
async fn restore(lab: &mut Lab, saved: &Saved) {
    let spec = awaiting(lab, &saved.chains).await;
    let (source, outcome) = lab.states.open(&saved.state).await.unwrap().split();
    lab.hypervisor.load_memory(spec.instance, source.into(), LONG).await.unwrap();
    outcome.told(LONG).await.unwrap();
    assert_eq!(lab.hypervisor.observe(spec.instance).await.unwrap().run, RunState::Paused);
    (lab.instance, lab.chains) = (spec.instance, spec.chains);
    lab.hypervisor.resume(lab.instance).await.unwrap();
}

#[tokio::test]
async fn real_qemu_memory_and_disks_are_of_one_instant_and_come_back_again_and_again() {
    let mut lab = Lab::new().await;
    lab.run().await;
    let first = save(&mut lab).await;
    println!("the VM stood still for {:?}", first.paused_for);
    lab.progress(10).await;
    let second = save_over(&mut lab, Some(&first.state)).await;
    println!("and for {:?} the second time", second.paused_for);
    assert!(second.state.bytes * 2 < first.state.bytes, "{} bytes after {}", second.state.bytes, first.state.bytes);
    lab.progress(3).await;
    lab.retire().await;
    assert!(numbers(&lab.chains[0].layers).missing.is_empty());
    for saved in [&first, &second] {
        SavedMemory::open(&saved.state.path).unwrap().unwrap().check().unwrap();
    }

    for saved in [&first, &second, &first] {
        let then = numbers(&saved.chains[0].layers);
        assert!(then.missing.is_empty());
        restore(&mut lab, saved).await;
        lab.progress(5).await;
        let again = save(&mut lab).await;
        lab.retire().await;
        for chain in &lab.chains {
            let now = numbers(&chain.layers);
            assert!(now.greatest > then.greatest && now.missing.is_empty(), "{then:?} {now:?}");
        }
        assert_ne!(again.state.blake3, saved.state.blake3);
    }
    let (first, second) = (numbers(&first.chains[0].layers), numbers(&second.chains[0].layers));
    assert!(first.greatest < second.greatest);
}

#[tokio::test]
async fn real_qemu_a_vm_is_saved_standing_still_and_goes_on_from_it_or_in_the_old_process() {
    let mut lab = Lab::new().await;
    lab.run().await;
    let location = lab.folder.path().to_owned();
    let saved = MemoryId::generate();
    let sink = lab.states.begin(&location, saved, None).await.unwrap().stream;
    let running = lab.hypervisor.save_memory(lab.instance, sink, &quiet()).await.unwrap_err();
    assert!(matches!(running, HypervisorError::WrongState(_)), "{running}");

    // It is not wanted after all: the VM goes on, and can be captured again in the other way.
    lab.hypervisor.pause(lab.instance).await.unwrap();
    let sink = lab.states.begin(&location, saved, None).await.unwrap().stream;
    lab.hypervisor.save_memory(lab.instance, sink, &quiet()).await.unwrap();
    assert_eq!(lab.observe().await.run, RunState::Paused);
    lab.hypervisor.cancel_capture(lab.instance).await.unwrap();
    lab.hypervisor.resume(lab.instance).await.unwrap();
    lab.progress(3).await;
    let checkpoint = save(&mut lab).await;

    lab.progress(3).await;
    lab.hypervisor.pause(lab.instance).await.unwrap();
    let sink = lab.states.begin(&location, saved, Some(&checkpoint.state)).await.unwrap().stream;
    lab.hypervisor.save_memory(lab.instance, sink, &quiet()).await.unwrap();
    let version = lab.hypervisor.version(lab.instance).await.unwrap();
    let state = lab.states.seal(&location, saved, &version).await.unwrap();
    lab.retire().await;
    let then = numbers(&lab.chains[0].layers);
    assert!(then.missing.is_empty());

    // On the same layers, without a new one over them.
    let mut spec = lab.spec();
    (spec.instance, spec.mode) = (InstanceId::generate(), StartMode::Restore);
    lab.hypervisor.launch(&spec).await.unwrap();
    let (source, outcome) = lab.states.open(&state).await.unwrap().split();
    lab.hypervisor.load_memory(spec.instance, source.into(), LONG).await.unwrap();
    outcome.told(LONG).await.unwrap();
    lab.instance = spec.instance;
    lab.hypervisor.resume(lab.instance).await.unwrap();
    lab.progress(3).await;
    lab.retire().await;
    let now = numbers(&lab.chains[0].layers);
    assert!(now.greatest > then.greatest && now.missing.is_empty(), "{then:?} {now:?}");
    restore(&mut lab, &checkpoint).await;
    lab.progress(2).await;
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_a_paused_vm_is_saved_and_stays_paused() {
    let mut lab = Lab::new().await;
    lab.run().await;
    lab.hypervisor.pause(lab.instance).await.unwrap();
    let saved = save(&mut lab).await;
    assert_eq!(lab.observe().await.run, RunState::Paused);
    lab.retire().await;
    restore(&mut lab, &saved).await;
    lab.progress(2).await;
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_a_cancelled_capture_leaves_the_vm_as_it_was() {
    let mut lab = Lab::new().await;
    lab.run().await;
    lab.hypervisor.cancel_capture(lab.instance).await.unwrap();
    for begin in [false, true, true] {
        let sink = File::create(lab.folder.path().join("part")).unwrap();
        lab.hypervisor.prepare_capture(lab.instance, sink.into()).await.unwrap();
        if begin {
            lab.hypervisor.pause(lab.instance).await.unwrap();
            lab.hypervisor.start_capture(lab.instance).await.unwrap();
            lab.hypervisor.resume(lab.instance).await.unwrap();
        }
        lab.hypervisor.cancel_capture(lab.instance).await.unwrap();
        lab.hypervisor.cancel_capture(lab.instance).await.unwrap();
        assert_ne!(lab.observe().await.capture, Capture::Active);
        assert_eq!(lab.observe().await.run, RunState::Running);
        lab.progress(2).await;
    }
    // What was not begun is not finished by what an earlier capture left.
    let sink = File::create(lab.folder.path().join("part")).unwrap();
    lab.hypervisor.prepare_capture(lab.instance, sink.into()).await.unwrap();
    lab.hypervisor.cancel_capture(lab.instance).await.unwrap();
    lab.hypervisor.pause(lab.instance).await.unwrap();
    let error = lab.hypervisor.start_capture(lab.instance).await.unwrap_err();
    assert!(matches!(error, HypervisorError::Refused { .. }), "{error}");
    lab.hypervisor.resume(lab.instance).await.unwrap();
    save(&mut lab).await;
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_captures_follow_each_other_at_once() {
    let lab = Lab::new().await;
    lab.run().await;
    for _ in 0..25 {
        let sink = OpenOptions::new().write(true).open("/dev/null").unwrap();
        lab.hypervisor.prepare_capture(lab.instance, sink.into()).await.unwrap();
        lab.hypervisor.pause(lab.instance).await.unwrap();
        lab.hypervisor.start_capture(lab.instance).await.unwrap();
        lab.hypervisor.resume(lab.instance).await.unwrap();
        while lab.observe().await.capture != Capture::Completed {}
    }
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_retires_in_the_middle_of_a_capture() {
    let lab = Lab::new().await;
    lab.run().await;
    let sink = File::create(lab.folder.path().join("part")).unwrap();
    lab.hypervisor.prepare_capture(lab.instance, sink.into()).await.unwrap();
    lab.hypervisor.pause(lab.instance).await.unwrap();
    lab.hypervisor.start_capture(lab.instance).await.unwrap();
    tokio::time::timeout(LONG, lab.retire()).await.unwrap();
    assert!(matches!(lab.hypervisor.finish_capture(lab.instance, &quiet()).await, Err(HypervisorError::Gone)));
}

#[tokio::test]
async fn real_qemu_killed_in_the_middle_of_a_capture_is_gone_and_its_memory_is_not_sealed() {
    let lab = Lab::new().await;
    lab.run().await;
    let checkpoint = MemoryId::generate();
    let sink = lab.states.begin(lab.folder.path(), checkpoint, None).await.unwrap();
    lab.hypervisor.prepare_capture(lab.instance, sink).await.unwrap();
    lab.hypervisor.pause(lab.instance).await.unwrap();
    lab.hypervisor.start_capture(lab.instance).await.unwrap();
    kill(lab.pid());
    let error = lab.hypervisor.finish_capture(lab.instance, &quiet()).await.unwrap_err();
    assert!(matches!(error, HypervisorError::Gone), "{error}");
    lab.states.seal(lab.folder.path(), checkpoint, "0").await.unwrap_err();
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_that_cannot_write_fails_the_capture_and_the_vm_goes_on() {
    let lab = Lab::new().await;
    lab.run().await;
    let full: OwnedFd = OpenOptions::new().write(true).open("/dev/full").unwrap().into();
    lab.hypervisor.prepare_capture(lab.instance, full.into()).await.unwrap();
    lab.hypervisor.pause(lab.instance).await.unwrap();
    let failed = match lab.hypervisor.start_capture(lab.instance).await {
        Ok(()) => lab.hypervisor.finish_capture(lab.instance, &quiet()).await.unwrap_err(),
        Err(error) => error,
    };
    println!("{failed}");
    // Before 9.0 it is the pump that cannot write, and it knows why.
    assert!(matches!(failed, HypervisorError::Refused { .. } | HypervisorError::NoSpace { .. }), "{failed:?}");
    lab.hypervisor.cancel_capture(lab.instance).await.unwrap();
    lab.hypervisor.resume(lab.instance).await.unwrap();
    lab.progress(2).await;
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_goes_on_when_the_service_dies_in_the_middle_of_a_capture() {
    let mut lab = Lab::new().await;
    lab.run().await;
    let (reader, sink) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    // What a service that is killed leaves behind: a part was read, and nobody reads any more.
    let service = std::thread::spawn(move || File::from(reader).read_exact(&mut vec![0; 256 << 10]).unwrap());
    lab.hypervisor.prepare_capture(lab.instance, sink.into()).await.unwrap();
    lab.hypervisor.pause(lab.instance).await.unwrap();
    lab.hypervisor.start_capture(lab.instance).await.unwrap();
    lab.hypervisor.resume(lab.instance).await.unwrap();
    tokio::task::spawn_blocking(|| service.join().unwrap()).await.unwrap();
    lab.progress(5).await;
    lab.hypervisor.cancel_capture(lab.instance).await.unwrap();
    lab.progress(5).await;
    save(&mut lab).await;
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_memory_that_cannot_be_write_protected_is_refused_in_clear_words() {
    let lab = Lab::new().await;
    let mut spec = lab.spec();
    // A file on a real disk: memory files can be write-protected.
    let disk = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ram = format!("memory-backend-file,id=pc.ram,size=64M,share=off,mem-path={}/ram", disk.path().display());
    spec.definition.extra_arguments = ["-object", &ram, "-machine", "memory-backend=pc.ram"].map(Into::into).to_vec();
    lab.hypervisor.launch(&spec).await.unwrap();
    lab.hypervisor.resume(lab.instance).await.unwrap();
    lab.progress(1).await;
    lab.hypervisor.pause(lab.instance).await.unwrap();
    let sink = File::create(lab.folder.path().join("part")).unwrap();
    let refused = match lab.hypervisor.prepare_capture(lab.instance, sink.into()).await {
        Ok(()) => lab.hypervisor.start_capture(lab.instance).await.unwrap_err(),
        Err(error) => error,
    };
    println!("{refused}");
    assert!(matches!(refused, HypervisorError::WrongState(_)), "{refused:?}");
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_memory_of_a_vm_that_never_ran_is_refused_and_the_vm_lives() {
    let mut lab = Lab::new().await;
    lab.launch().await;
    let sink = File::create(lab.folder.path().join("part")).unwrap();
    lab.hypervisor.prepare_capture(lab.instance, sink.into()).await.unwrap();
    let error = lab.hypervisor.start_capture(lab.instance).await.unwrap_err();
    assert!(matches!(error, HypervisorError::WrongState(_)), "{error}");
    lab.hypervisor.cancel_capture(lab.instance).await.unwrap();
    lab.hypervisor.resume(lab.instance).await.unwrap();
    lab.progress(1).await;
    save(&mut lab).await;
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_says_why_it_does_not_load_a_stream() {
    let mut lab = Lab::new().await;
    lab.run().await;
    let saved = save(&mut lab).await;
    let mut whole = Vec::new();
    let source = lab.states.open(&saved.state).await.unwrap().stream;
    File::from(source).read_to_end(&mut whole).unwrap();
    let mut bent = whole.clone();
    let at = whole.len() / 2;
    bent[at..at + 4096].fill(0xee);
    let cases: [(&str, &[u8]); 4] =
        [("garbage", b"not a stream at all"), ("empty", b""), ("half", &whole[..at]), ("bent", &bent)];
    for (name, bytes) in cases {
        let spec = awaiting(&lab, &saved.chains).await;
        let path = lab.folder.path().join(name);
        File::create(&path).unwrap().write_all(bytes).unwrap();
        let loaded =
            lab.hypervisor.load_memory(spec.instance, OwnedFd::from(File::open(&path).unwrap()).into(), LONG).await;
        println!("{name}: {loaded:?}");
        // A page that is bent is not noticed by QEMU: the hashes of the state are there for that.
        assert!(name == "bent" || matches!(loaded, Err(HypervisorError::Refused { .. })), "{name}: {loaded:?}");
        lab.hypervisor.retire(spec.instance).await.unwrap();
    }

    let mut spec = lab.spec();
    spec.definition.memory_mib = 128;
    spec.instance = InstanceId::generate();
    spec.mode = StartMode::Restore;
    lab.retire().await;
    lab.hypervisor.launch(&spec).await.unwrap();
    let source = lab.states.open(&saved.state).await.unwrap().stream;
    let error = lab.hypervisor.load_memory(spec.instance, source.into(), LONG).await.unwrap_err();
    println!("other size: {error}");
    assert!(error.to_string().contains("pc.ram"), "{error}");
    lab.hypervisor.retire(spec.instance).await.unwrap();
}
