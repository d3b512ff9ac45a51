//! From launch to end, on real QEMU.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod lab;

use std::{os::unix::fs::PermissionsExt, time::Duration};

use lab::{LONG, Lab, config, disk, event, kill};
use stillpoint_common::{Accelerator, AcceleratorChoice, InstanceId};
use stillpoint_engine::ports::{
    Capture, Hypervisor, HypervisorError, HypervisorEventKind, Observed, RunState, StartMode,
};
use stillpoint_qemu::QemuHypervisor;

#[tokio::test]
async fn real_qemu_starts_paused_runs_stands_still_and_ends() {
    let lab = Lab::new().await;
    let unknown = lab.observe().await;
    assert_eq!(unknown.run, RunState::Gone);
    let mut events = lab.hypervisor.events();

    let launched = lab.hypervisor.launch(&lab.spec()).await.unwrap();
    assert_eq!(launched.accelerator, Accelerator::Tcg("the definition asks for it".into()));
    assert!(launched.version.starts_with(|digit: char| digit.is_ascii_digit()), "{}", launched.version);
    let observed = lab.observe().await;
    assert_eq!((observed.run, observed.capture), (RunState::Paused, Capture::None));
    assert!(observed.attached.is_empty());
    lab.assert_chains().await;
    assert_eq!(lab.hypervisor.launch(&lab.spec()).await.unwrap(), launched, "launching again only answers");
    let mode = std::fs::metadata(lab.layout.instance(lab.instance)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "the folder is for the service alone");

    lab.hypervisor.resume(lab.instance).await.unwrap();
    lab.hypervisor.resume(lab.instance).await.unwrap();
    assert_eq!(lab.observe().await.run, RunState::Running);
    lab.progress(3).await;
    lab.hypervisor.pause(lab.instance).await.unwrap();
    lab.hypervisor.pause(lab.instance).await.unwrap();
    assert_eq!(lab.observe().await.run, RunState::Paused);
    let standing = lab.written().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lab.written().await, standing, "a paused guest writes nothing");

    lab.hypervisor.press_power_button(lab.instance).await.unwrap();
    lab.retire().await;
    event(&mut events, &HypervisorEventKind::Gone).await;
    lab.retire().await;
    assert!(matches!(lab.hypervisor.pause(lab.instance).await, Err(HypervisorError::Gone)));
    assert!(lab::numbers(&lab.chains[0].layers).missing.is_empty());
}

#[tokio::test]
async fn real_qemu_outlives_the_service_and_is_found_again() {
    let mut lab = Lab::new().await;
    let launched = lab.hypervisor.launch(&lab.spec()).await.unwrap();
    lab.hypervisor.resume(lab.instance).await.unwrap();
    let first = std::mem::replace(&mut lab.hypervisor, QemuHypervisor::new(config(), lab.layout.clone()));
    // The first service dies with a command on its way.
    let _ = tokio::time::timeout(Duration::from_micros(200), first.pause(lab.instance)).await;
    drop(first);

    let mut events = lab.hypervisor.events();
    assert!(matches!(lab.observe().await.run, RunState::Running | RunState::Paused));
    lab.assert_chains().await;
    assert_eq!(lab.hypervisor.launch(&lab.spec()).await.unwrap(), launched);
    lab.hypervisor.resume(lab.instance).await.unwrap();
    lab.progress(1).await;
    lab.retire().await;
    event(&mut events, &HypervisorEventKind::Gone).await;
}

#[tokio::test]
async fn real_qemu_killed_from_outside_is_gone_and_says_so() {
    let lab = Lab::new().await;
    lab.run().await;
    let mut events = lab.hypervisor.events();
    kill(lab.pid());
    event(&mut events, &HypervisorEventKind::Gone).await;
    let gone = lab.observe().await;
    assert_eq!(gone.run, RunState::Gone);
    assert!(gone.chains.is_empty());
    assert!(matches!(lab.hypervisor.resume(lab.instance).await, Err(HypervisorError::Gone)));
    lab.launch().await;
    assert_eq!(lab.observe().await.run, RunState::Paused, "the same instance can be started again");
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_killed_in_the_middle_of_a_command_is_gone() {
    let lab = Lab::new().await;
    lab.run().await;
    let pid = lab.pid();
    let (answer, ()) = tokio::join!(
        async {
            loop {
                if let Err(error) = lab.hypervisor.pause(lab.instance).await {
                    return error;
                }
            }
        },
        async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            kill(pid);
        }
    );
    assert!(matches!(answer, HypervisorError::Gone), "{answer}");
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_starts_again_right_after_it_was_killed() {
    let lab = Lab::new().await;
    for _ in 0..3 {
        lab.launch().await;
        let pid = lab.pid();
        kill(pid);
        while lab.observe().await.run != RunState::Gone {}
    }
    lab.launch().await;
    assert_eq!(lab.observe().await.run, RunState::Paused);
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_that_does_not_start_says_why_and_leaves_nothing() {
    let lab = Lab::new().await;
    let mut spec = lab.spec();
    spec.definition.extra_arguments = vec!["-device".into(), "no-such-device".into()];
    let error = lab.hypervisor.launch(&spec).await.unwrap_err();
    let HypervisorError::LaunchFailed { message } = &error else { panic!("{error:?}") };
    assert!(message.contains("no-such-device"), "{message}");
    assert!(!lab.layout.instance(lab.instance).exists());

    let mut spec = lab.spec();
    spec.chains[1].layers[0].path = "/no/such/file".into();
    let error = lab.hypervisor.launch(&spec).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/file"), "{error}");

    let mut nowhere = config();
    nowhere.qemu = "/no/such/qemu".into();
    let hypervisor = QemuHypervisor::new(nowhere, lab.layout.clone());
    let error = hypervisor.launch(&lab.spec()).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/qemu"), "{error}");
    assert_eq!(lab.observe().await.run, RunState::Gone);
}

#[tokio::test]
async fn real_qemu_refuses_a_disk_that_another_vm_writes_to() {
    let lab = Lab::new().await;
    lab.launch().await;
    let mut spec = lab.spec();
    spec.instance = InstanceId::generate();
    let error = lab.hypervisor.launch(&spec).await.unwrap_err();
    assert!(error.to_string().contains("lock"), "{error}");
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_hardware_is_used_only_if_it_really_works() {
    let lab = Lab::new().await;
    let mut spec = lab.spec();
    spec.definition.accelerator = AcceleratorChoice::Auto;
    let launched = lab.hypervisor.launch(&spec).await.unwrap();
    lab.hypervisor.resume(lab.instance).await.unwrap();
    lab.progress(1).await;
    lab.retire().await;
    spec.definition.accelerator = AcceleratorChoice::Kvm;
    spec.instance = InstanceId::generate();
    let asked = lab.hypervisor.launch(&spec).await;
    match (launched.accelerator, asked) {
        (Accelerator::Kvm, Ok(_)) => lab.hypervisor.retire(spec.instance).await.unwrap(),
        (Accelerator::Tcg(said), Err(HypervisorError::AcceleratorMissing { why })) => assert_eq!(said, why),
        (accelerator, other) => panic!("{accelerator:?} and {other:?}"),
    }
}

#[tokio::test]
async fn real_qemu_that_awaits_its_memory_is_observed_so() {
    let lab = Lab::new().await;
    let mut spec = lab.spec();
    spec.mode = StartMode::Restore;
    lab.hypervisor.launch(&spec).await.unwrap();
    let Observed { run, chains, .. } = lab.observe().await;
    assert_eq!(run, RunState::AwaitingMemory);
    assert_eq!(chains[&disk("system")].len(), 1);
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_that_answers_nothing_is_killed_when_it_is_retired() {
    let mut lab = Lab::new().await;
    lab.run().await;
    let mut hasty = config();
    hasty.deadlines.quit = Duration::from_millis(300);
    hasty.deadlines.command = Duration::from_millis(300);
    hasty.deadlines.greeting = Duration::from_millis(300);
    lab.hypervisor = QemuHypervisor::new(hasty, lab.layout.clone());
    let pid = rustix::process::Pid::from_raw(lab.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let error = lab.hypervisor.observe(lab.instance).await.unwrap_err();
    assert!(matches!(error, HypervisorError::Unanswered { .. }), "{error}");
    tokio::time::timeout(LONG, lab.retire()).await.unwrap();
}
