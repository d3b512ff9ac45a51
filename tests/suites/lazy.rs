//! VMs that run before all of their memory is in. On the simulator; on a real guest in the suite `guest_lazy`.

use std::time::Duration;

use stillpoint_common::{Checkpoint, CheckpointPolicy, EventKind, InstanceId, Operation, PowerState, Reason};
use stillpoint_engine::{EventsFrom, Request, VmView};
use stillpoint_sim::{Call, Fault, FaultPlan, IntakeScript};
use stillpoint_tests::sim_host::SimHost;

async fn now(host: &SimHost) -> VmView {
    host.engine.vm(&host.vm()).await.expect("it works")
}

async fn last(host: &SimHost) -> Operation {
    host.engine.operations().await.expect("it works").remove(0)
}

/// A running VM with a checkpoint of 7 in its memory; instances take their memory in slowly.
async fn slow() -> (SimHost, Checkpoint) {
    let host = SimHost::running().await;
    host.world.set_guest_memory(&host.vm(), 7);
    let made = host.create(CheckpointPolicy::Standard).await.expect("it works");
    host.world.set_guest_memory(&host.vm(), 8);
    host.world.script_intake(IntakeScript::Slow);
    (host, made)
}

/// The VM's process, which takes its memory in.
async fn taking_in(host: &SimHost) -> InstanceId {
    let vm = now(host).await.vm;
    assert!(vm.held.is_some(), "its memory is held");
    vm.instance.expect("it runs")
}

async fn has_let_go(host: &SimHost) {
    host.quiet().await;
    assert_eq!(now(host).await.vm.held, None);
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_memory_is_held_until_it_is_in_whatever_becomes_of_its_checkpoint() {
    let (host, made) = slow().await;
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!((now(&host).await.power, host.world.guest_memory(&host.vm())), (PowerState::Running, Some(7)));
    let instance = taking_in(&host).await;
    host.run(Request::DeleteMemory(made.id)).await.unwrap();
    host.run(Request::DeleteCheckpoint(made.id)).await.unwrap();
    host.quiet().await;
    assert_eq!(taking_in(&host).await, instance, "it still takes it in");
    host.world.assert_sound();
    host.world.take_in(instance);
    tokio::time::sleep(Duration::from_secs(1)).await;
    has_let_go(&host).await;
    assert_eq!(last(&host).await.warnings, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_saves_a_memory_waits_until_all_of_it_is_in() {
    let (host, made) = slow().await;
    host.run(Request::Apply(made.id.into())).await.unwrap();
    let again = host.create(CheckpointPolicy::Standard).await.unwrap();
    assert!(last(&host).await.phases.iter().any(|phase| phase.name == "take in"), "it is told");
    has_let_go(&host).await;
    host.run(Request::Apply(again.id.into())).await.unwrap();
    host.run(Request::Save).await.unwrap();
    has_let_go(&host).await;
    // Its only copy is given up by the start: all of it is loaded before.
    host.run(Request::Start).await.unwrap();
    assert_eq!((host.world.guest_memory(&host.vm()), now(&host).await.vm.held), (Some(7), None));
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn while_it_is_held_a_check_knows_whose_it_is() {
    let (host, made) = slow().await;
    host.run(Request::Apply(made.id.into())).await.unwrap();
    taking_in(&host).await;
    assert_eq!(host.engine.check(Some(&host.vm())).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_stays_paused_is_loaded_as_a_whole() {
    let host = SimHost::running().await;
    host.run(Request::Pause).await.unwrap();
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.world.script_intake(IntakeScript::Slow);
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!((now(&host).await.power, now(&host).await.vm.held), (PowerState::Paused, None));
}

#[tokio::test(start_paused = true)]
async fn a_memory_that_is_lost_before_the_vm_has_gone_over_leaves_now_as_it_was() {
    let (host, made) = slow().await;
    let before = now(&host).await.vm;
    host.world.script_intake(IntakeScript::Lost("a page is damaged".to_owned()));
    let failed = host.run(Request::Apply(made.id.into())).await.unwrap_err();
    assert_eq!((failed.reason, failed.message.as_str()), (Reason::MemoryLost, "a page is damaged"));
    let after = now(&host).await;
    assert_eq!((after.power, after.vm.instance), (PowerState::Running, before.instance));
    assert_eq!(host.world.guest_memory(&host.vm()), Some(8));
    has_let_go(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_in_which_nothing_can_be_written_keeps_nobody_from_going_back() {
    let (host, made) = slow().await;
    let faults =
        || FaultPlan::none().every(Call::KeepMemory, Fault::FailBefore).every(Call::RemoveMemory, Fault::FailBefore);
    host.world.set_faults(faults());
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!(host.world.guest_memory(&host.vm()), Some(7));
    let told = last(&host).await.warnings;
    assert!(told.iter().any(|told| told.contains("cannot be held until it is")), "{told:?}");
    // Nor does an undo wait for ever for it.
    host.world.set_faults(faults().every(Call::LoadMemory, Fault::FailBefore));
    host.run(Request::Apply(made.id.into())).await.unwrap_err();
    assert_eq!(now(&host).await.power, PowerState::Running);
    host.world.set_faults(FaultPlan::none());
    host.run(Request::Apply(made.id.into())).await.unwrap();
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_vm_goes_back_once_more_while_it_still_takes_its_memory_in() {
    let (host, made) = slow().await;
    host.run(Request::Apply(made.id.into())).await.unwrap();
    let first = taking_in(&host).await;
    host.run(Request::Apply(made.id.into())).await.unwrap();
    let second = taking_in(&host).await;
    assert_ne!(first, second);
    host.assert_clean().await;
    host.world.take_in(second);
    tokio::time::sleep(Duration::from_secs(1)).await;
    has_let_go(&host).await;
}

#[tokio::test(start_paused = true)]
async fn where_it_cannot_be_all_of_the_memory_is_loaded_first_and_why_is_told() {
    let (host, made) = slow().await;
    host.world.script_intake(IntakeScript::Impossible("no userfaultfd".to_owned()));
    host.run(Request::Apply(made.id.into())).await.unwrap();
    let told = last(&host).await.warnings;
    assert_eq!(told, ["the VM waits until all of its memory is loaded: no userfaultfd"]);
    assert_eq!((host.world.guest_memory(&host.vm()), now(&host).await.vm.held), (Some(7), None));
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_set_so_loads_all_of_a_memory_first() {
    let (mut host, made) = slow().await;
    host.restart_with(|config| config.load_by_page = false).await;
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!((host.world.guest_memory(&host.vm()), now(&host).await.vm.held), (Some(7), None));
    assert_eq!(last(&host).await.warnings, [""; 0]);
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_whose_memory_does_not_come_has_failed_for_that_reason_and_can_be_brought_back() {
    let (host, made) = slow().await;
    host.run(Request::Apply(made.id.into())).await.unwrap();
    host.world.lose_memory(taking_in(&host).await, "a page is damaged");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let view = now(&host).await;
    assert_eq!(
        (view.power, view.failures.last.map(|failure| failure.reason)),
        (PowerState::Off, Some(Reason::MemoryLost))
    );
    let mut events = host.engine.events(EventsFrom::Oldest, None, false).await.unwrap();
    let mut died = Vec::new();
    while let Some((_, event)) = events.next().await.unwrap() {
        died.extend((event.kind == EventKind::VmDied).then_some(event.text));
    }
    assert_eq!(died, ["it was stopped while it was still taking in its memory: a page is damaged"]);
    has_let_go(&host).await;
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!((now(&host).await.power, host.world.guest_memory(&host.vm())), (PowerState::Running, Some(7)));
    assert_eq!(now(&host).await.vm.held, None, "this time it is loaded as a whole before anything is given up");
}

#[tokio::test(start_paused = true)]
async fn what_comes_in_while_the_service_is_down_is_let_go_of_by_the_next_one() {
    let (mut host, made) = slow().await;
    host.run(Request::Apply(made.id.into())).await.unwrap();
    let instance = taking_in(&host).await;
    host.restart().await;
    host.quiet().await;
    assert_eq!(taking_in(&host).await, instance, "it still takes it in");
    host.world.crash();
    host.world.take_in(instance);
    host.restart().await;
    has_let_go(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_dies_while_it_applies_leaves_the_vm_at_one_or_the_other_and_holds_what_is_needed() {
    let mut cases = 0;
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        for point in 1.. {
            let (mut host, made) = slow().await;
            host.world.set_faults(FaultPlan::none().at_point(point, fault));
            let (engine, vm) = (host.engine.clone(), host.vm());
            let client = tokio::spawn(async move { engine.submit(&vm, Request::Apply(made.id.into()), None).await });
            let done = tokio::time::timeout(Duration::from_secs(60), host.world.crashed()).await.is_err();
            client.abort();
            if done {
                break;
            }
            cases += 1;
            host.world.set_faults(FaultPlan::none());
            host.restart().await;
            host.quiet().await;
            let memory = host.world.guest_memory(&host.vm());
            assert!(matches!(memory, Some(7 | 8)), "dead at {point}: {memory:?}");
            assert_eq!(now(&host).await.vm.held.is_some(), memory == Some(7), "dead at {point}");
            host.assert_clean().await;
            for instance in host.world.instances(&host.vm()) {
                host.world.take_in(instance);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            has_let_go(&host).await;
        }
    }
    println!("{cases} cases");
    assert!(cases > 30, "only {cases} cases");
}
