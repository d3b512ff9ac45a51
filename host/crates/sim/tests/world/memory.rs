//! Memory of the simulated world is of one instant.

use std::time::Duration;

use crate::lab::{Lab, SIZE, layer, quiet};
use stillpoint_common::{InstanceId, LayerFile, MemoryId, MemoryState};
use stillpoint_engine::ports::{Capture, HypervisorError, MemoryError, RunState, StartMode};

const PATIENCE: Duration = Duration::from_secs(60);

/// A standard checkpoint by hand: the memory, and the overlay that Now writes to since.
async fn capture(lab: &Lab, vm: InstanceId, id: MemoryId) -> (Result<MemoryState, MemoryError>, LayerFile) {
    let (hypervisor, memory) = (&lab.ports.hypervisor, &lab.ports.memory);
    let overlay = lab.attached(vm, &format!("/vm/{id}.qcow2"), &lab.bases[0]).await;
    let sink = memory.begin("/vm".as_ref(), id, None).await.expect("a place");
    hypervisor.prepare_capture(vm, sink).await.expect("a preparation");
    hypervisor.pause(vm).await.expect("a pause");
    hypervisor.switch_heads(vm, std::slice::from_ref(&overlay)).await.expect("a switch");
    hypervisor.start_capture(vm).await.expect("a start");
    hypervisor.resume(vm).await.expect("a resume");
    lab.world.set_guest_memory(&lab.vm, 99);
    lab.write(1, 99);
    hypervisor.finish_capture(vm, &quiet()).await.expect("an end");
    (memory.seal("/vm".as_ref(), id, "10.0.2").await, overlay.file)
}

#[tokio::test(start_paused = true)]
async fn what_is_saved_is_the_memory_of_the_instant_in_which_the_capture_started() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.world.set_capture_time(Duration::from_secs(2));
    lab.world.set_guest_memory(&lab.vm, 42);
    lab.write(1, 42);
    let (state, _) = capture(&lab, vm, MemoryId::generate()).await;
    lab.ports.hypervisor.retire(vm).await.unwrap();

    tokio::time::advance(Duration::from_secs(100)).await;
    let applied = layer("/vm/applied.qcow2");
    lab.ports.images.create_overlay(&applied.path, &lab.bases[0], SIZE).await.unwrap();
    let spec = lab.spec(&[&lab.bases[0], &applied], &[&lab.bases[1]], StartMode::Restore);
    lab.launch(&spec).await.unwrap();
    assert_eq!(lab.world.run_state(spec.instance), RunState::AwaitingMemory);
    assert!(lab.ports.hypervisor.resume(spec.instance).await.is_err());
    let source = lab.ports.memory.open(&state.unwrap()).await.unwrap().stream;
    lab.ports.hypervisor.load_memory(spec.instance, source.into(), PATIENCE).await.unwrap();
    lab.ports.hypervisor.resume(spec.instance).await.unwrap();
    assert_eq!(lab.world.guest_memory(&lab.vm), Some(42));
    lab.world.assert_sound();

    assert_eq!(lab.world.clock_behind(&lab.vm), Some(Duration::from_secs(102)));
    let set = lab.ports.guest.set_clock(spec.instance).await.unwrap();
    assert_eq!(set.was_off_by_ms, -102_000);
    assert_eq!(lab.world.clock_behind(&lab.vm), Some(Duration::ZERO));
}

#[tokio::test]
async fn a_launch_that_writes_below_another_layer_breaks_a_rule() {
    let lab = Lab::new();
    let vm = lab.running().await;
    capture(&lab, vm, MemoryId::generate()).await.0.unwrap();
    lab.ports.hypervisor.retire(vm).await.unwrap();
    lab.launch(&lab.spec(&[&lab.bases[0]], &[&lab.bases[1]], StartMode::Fresh)).await.unwrap();
    assert!(lab.world.violations()[0].starts_with("launch writes to /vm/system.qcow2"));
}

#[tokio::test]
async fn memory_loaded_over_other_disks_breaks_a_rule() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let (state, head) = capture(&lab, vm, MemoryId::generate()).await;
    lab.ports.hypervisor.retire(vm).await.unwrap();
    let spec = lab.spec(&[&lab.bases[0], &head], &[&lab.bases[1]], StartMode::Restore);
    lab.launch(&spec).await.unwrap();
    let source = lab.ports.memory.open(&state.unwrap()).await.unwrap().stream;
    lab.ports.hypervisor.load_memory(spec.instance, source.into(), PATIENCE).await.unwrap();
    assert!(lab.world.violations()[0].contains("disk system of web changed"));
}

#[tokio::test(start_paused = true)]
async fn a_capture_that_did_not_end_cannot_be_sealed() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.world.set_capture_time(Duration::from_secs(1));
    let (hypervisor, memory) = (&lab.ports.hypervisor, &lab.ports.memory);
    for ends_with_the_vm in [false, true] {
        let id = MemoryId::generate();
        let sink = memory.begin("/vm".as_ref(), id, None).await.unwrap();
        assert!(matches!(hypervisor.start_capture(vm).await, Err(HypervisorError::WrongState(_))), "not prepared");
        hypervisor.prepare_capture(vm, sink).await.unwrap();
        hypervisor.pause(vm).await.unwrap();
        hypervisor.start_capture(vm).await.unwrap();
        assert_eq!(lab.world.observed(vm).unwrap().capture, Capture::Active);
        if ends_with_the_vm {
            lab.world.kill_instance(vm);
            assert!(matches!(hypervisor.finish_capture(vm, &quiet()).await, Err(HypervisorError::Gone)));
        } else {
            hypervisor.cancel_capture(vm).await.unwrap();
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        let sealed = memory.seal("/vm".as_ref(), id, "10.0.2").await;
        assert!(matches!(sealed, Err(MemoryError::Damaged { .. })), "{sealed:?}");
        memory.remove("/vm".as_ref(), id).await.unwrap();
    }
    assert_eq!(lab.world.orphans(["/vm/system.qcow2", "/vm/data.qcow2"]).len(), 0);
}

#[tokio::test]
async fn spoiled_memory_costs_the_new_instance_and_nothing_else() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let (state, _) = capture(&lab, vm, MemoryId::generate()).await;
    let state = state.unwrap();
    lab.ports.hypervisor.retire(vm).await.unwrap();
    lab.world.spoil_memory(&state.path);
    let spec = lab.spec(&[&lab.bases[0]], &[&lab.bases[1]], StartMode::Restore);
    lab.launch(&spec).await.unwrap();
    let source = lab.ports.memory.open(&state).await.unwrap().stream;
    assert!(lab.ports.hypervisor.load_memory(spec.instance, source.into(), PATIENCE).await.is_err());
    assert_eq!(lab.world.run_state(spec.instance), RunState::Gone);
    lab.world.lose_file(&state.path);
    assert!(matches!(lab.ports.memory.open(&state).await, Err(MemoryError::Damaged { .. })));
}
