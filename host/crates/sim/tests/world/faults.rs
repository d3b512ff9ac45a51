//! Faults strike where they are planned, and a dead service does nothing any more.

use std::time::Duration;

use crate::lab::{Lab, layer, quiet};
use stillpoint_common::OperationId;
use stillpoint_engine::ports::{ExportError, HypervisorError, HypervisorEventKind, Put, RunState, Txn};
use stillpoint_sim::{Call, Fault, FaultPlan};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(3600);

fn put(key: &str) -> Txn {
    Txn { guards: vec![], writes: vec![Put::Set(key.to_owned(), vec![])] }
}

#[tokio::test(start_paused = true)]
async fn each_fault_has_the_effect_and_the_answer_that_it_promises() {
    for fault in Fault::ALL.iter().filter(|fault| **fault != Fault::Panic) {
        let lab = Lab::new();
        let vm = lab.running().await;
        lab.world.set_faults(FaultPlan::none().at(Call::Pause, 1, *fault));
        let answer = timeout(LONG, lab.ports.hypervisor.pause(vm)).await.ok();
        let (answers, acts, dies) = match fault {
            Fault::FailBefore | Fault::NoSpace => (true, false, false),
            Fault::FailAfter => (true, true, false),
            Fault::Hang => (false, false, false),
            Fault::HangAfter => (false, true, false),
            Fault::CrashBefore => (false, false, true),
            Fault::CrashAfter => (false, true, true),
            Fault::Panic => unreachable!("it would end the test"),
        };
        assert_eq!(answer.is_some(), answers, "{fault:?}");
        assert!(answer.is_none_or(|answer| answer.is_err()), "{fault:?}");
        assert_eq!(lab.world.run_state(vm) == RunState::Paused, acts, "{fault:?}");
        assert_eq!(timeout(LONG, lab.world.crashed()).await.is_ok(), dies, "{fault:?}");
        assert_eq!(lab.world.faults_struck(), 1);
    }
}

#[tokio::test]
#[should_panic(expected = "hypervisor.pause: a planned defect")]
async fn a_defect_of_an_adapter_is_a_panic() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.world.set_faults(FaultPlan::none().at(Call::Pause, 1, Fault::Panic));
    let _ = lab.ports.hypervisor.pause(vm).await;
}

#[tokio::test]
async fn a_fault_strikes_its_call_and_no_other() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let plan = FaultPlan::none().at_point(2, Fault::FailBefore).at(Call::Pause, 3, Fault::NoSpace);
    lab.world.set_faults(plan.every(Call::Resume, Fault::FailAfter));
    let hypervisor = &lab.ports.hypervisor;
    hypervisor.pause(vm).await.unwrap();
    assert!(matches!(hypervisor.observe(vm).await, Err(HypervisorError::Refused { .. })));
    hypervisor.observe(vm).await.unwrap();
    hypervisor.pause(vm).await.unwrap();
    assert!(matches!(hypervisor.pause(vm).await, Err(HypervisorError::NoSpace { .. })));
    assert!(hypervisor.resume(vm).await.is_err());
    assert!(hypervisor.resume(vm).await.is_err());
    let calls = [Call::Pause, Call::Observe, Call::Observe, Call::Pause, Call::Pause, Call::Resume, Call::Resume];
    assert_eq!(lab.world.calls(), calls);
    assert_eq!(lab.world.points(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_write_to_the_store_is_done_or_not_when_the_service_dies_at_it() {
    for (fault, kept) in [(Fault::CrashBefore, 1), (Fault::CrashAfter, 2)] {
        let lab = Lab::new();
        let store = lab.ports.store.clone();
        lab.world.set_faults(FaultPlan::none().at_write(2, fault));
        let service = tokio::spawn(async move {
            for key in ["a", "b", "c"] {
                store.commit(put(key)).await.expect("a commit");
            }
        });
        lab.world.crashed().await;
        service.abort();
        let ports = lab.world.restart();
        assert_eq!(ports.store.scan("", None, 10).await.unwrap().len(), kept, "{fault:?}");
        ports.store.commit(put("d")).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn files_and_instances_outlive_the_service_and_its_old_ports_do_nothing() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.write(1, 1);
    lab.world.crash();
    assert!(timeout(LONG, lab.ports.hypervisor.retire(vm)).await.is_err());
    lab.write(2, 2);
    let ports = lab.world.restart();
    assert!(timeout(LONG, lab.ports.hypervisor.retire(vm)).await.is_err(), "old ports stay dead");
    let observed = ports.hypervisor.observe(vm).await.unwrap();
    assert_eq!(observed.run, RunState::Running);
    assert_eq!((lab.reads("/vm/system.qcow2", 1), lab.reads("/vm/system.qcow2", 2)), (1, 2));
    lab.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_call_under_way_when_the_service_dies_has_no_effect_later() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.world.set_latency(Call::Retire, Duration::from_secs(5));
    let hypervisor = lab.ports.hypervisor.clone();
    let retiring = tokio::spawn(async move { hypervisor.retire(vm).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    lab.world.crash();
    tokio::time::sleep(LONG).await;
    assert!(!retiring.is_finished());
    assert_eq!(lab.world.run_state(vm), RunState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_merge_goes_on_in_the_hypervisor_when_the_service_has_died() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let middle = lab.cut(vm, "/vm/middle.qcow2", &lab.bases[0]).await;
    (0..40).for_each(|block| lab.write(block, 1));
    let head = lab.cut(vm, "/vm/head.qcow2", &middle).await;
    lab.world.set_latency(Call::Merge, Duration::from_secs(1));
    let (hypervisor, merge) = (lab.ports.hypervisor.clone(), lab.merge_of(&middle, &lab.bases[0]));
    tokio::spawn(async move { hypervisor.merge(vm, &merge, &quiet()).await });
    tokio::time::sleep(Duration::from_millis(2500)).await;
    lab.world.crash();
    let ports = lab.world.restart();
    let observed = ports.hypervisor.observe(vm).await.unwrap();
    assert_eq!(observed.chains[&lab.disk], [head.id, lab.bases[0].id]);
    lab.world.assert_sound();
}

#[tokio::test]
async fn what_happens_to_an_instance_is_told() {
    let lab = Lab::new();
    let mut events = lab.ports.hypervisor.events();
    let vm = lab.running().await;
    lab.world.shut_guest_down(&lab.vm);
    lab.world.kill_instance(vm);
    let mut told = vec![];
    while let Ok(event) = events.try_recv() {
        told.push(event.kind);
    }
    let expected = [HypervisorEventKind::AgentChannel(true), HypervisorEventKind::ShutDown, HypervisorEventKind::Gone];
    assert_eq!(told, expected);
    assert_eq!(lab.ports.hypervisor.observe(vm).await.unwrap().run, RunState::Gone);
    assert!(matches!(lab.ports.hypervisor.pause(vm).await, Err(HypervisorError::Gone)));
}

#[tokio::test]
async fn an_export_is_there_whole_or_not_at_all() {
    let lab = Lab::new();
    let exports = &lab.ports.exports;
    let (target, operation) = ("/out/web".as_ref(), OperationId::generate());
    assert!(matches!(exports.stage(target, operation).await, Err(ExportError::TargetUnusable { .. })));
    lab.world.add_folder("/out");
    let staged = exports.stage(target, operation).await.unwrap();
    assert_eq!(staged, exports.staging_folder(target, operation));
    let flatten = stillpoint_engine::ports::Flatten {
        layers: vec![lab.bases[0].clone()],
        target: staged.join("system.qcow2"),
        format: layer("/").format,
    };
    lab.ports.images.flatten(&flatten, &quiet()).await.unwrap();
    let known = ["/vm/system.qcow2", "/vm/data.qcow2"];
    assert_eq!(lab.world.orphans(known).len(), 2, "the folder and the file in it");
    let files = exports.seal(&staged, target, serde_json::json!({"vm": "web"})).await.unwrap();
    assert_eq!(exports.seal(&staged, target, serde_json::json!({})).await.unwrap(), files);
    assert_eq!(files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["system.qcow2", "manifest.json"]);
    assert_eq!(exports.files(target).await.unwrap(), files);
    assert_eq!(lab.world.orphans(known).len(), 0);
    assert!(matches!(exports.stage(target, operation).await, Err(ExportError::TargetExists { .. })));

    let other = exports.stage("/out/other".as_ref(), operation).await.unwrap();
    exports.discard(&other).await.unwrap();
    assert_eq!(lab.world.orphans(known).len(), 0);
}
