//! The service dies at every call that changes something; and at every write of its journal, and again at every write of
//! the recovery.
//!
//! After each: the VM runs with every acknowledged write, every older checkpoint reads as it did, the new one is whole
//! or gone, no file is left over or missing, and no guest was held past its lease.

use std::{collections::BTreeMap, time::Duration};

use stillpoint_common::{CheckpointId, CheckpointPolicy, DiskName, PowerState};
use stillpoint_engine::{NewCheckpoint, Request, StopMode, VmChange};
use stillpoint_sim::{Call, Content, Fault, FaultPlan, WriterScript};
use stillpoint_tests::sim_host::SimHost;

const LEASE: Duration = Duration::from_secs(10);

/// What is done when the service dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    CreateProduction,
    CreateStandard,
    ApplyStandard,
    ApplyProduction,
    DeleteMiddle,
    DeleteParentOfNow,
    Export,
    Start,
    TurnOff,
}

/// A VM with a production and a standard checkpoint, at work on what comes next.
struct Before {
    host: SimHost,
    production: CheckpointId,
    standard: CheckpointId,
    contents: BTreeMap<CheckpointId, BTreeMap<DiskName, Content>>,
}

impl Before {
    async fn new(act: Act) -> Self {
        let host = SimHost::running().await;
        let production = host.create(CheckpointPolicy::ProductionOnly).await.expect("it works").id;
        host.write(1, 2);
        let standard = host.create(CheckpointPolicy::Standard).await.expect("it works").id;
        host.write(1, 3);
        host.write(2, 3);
        if act == Act::Start {
            host.turn_off().await;
        }
        if act == Act::CreateProduction {
            host.world.script_guest(&host.vm(), |guest| *guest = guest.clone().writer("db", WriterScript::Holds));
        }
        let contents = host.checkpoints().await.iter().map(|view| (view.checkpoint.id, host.content(view))).collect();
        Self { host, production, standard, contents }
    }

    fn request(&self, act: Act) -> Request {
        let create =
            |policy| Request::CreateCheckpoint(NewCheckpoint { policy: Some(policy), ..NewCheckpoint::default() });
        match act {
            Act::CreateProduction => create(CheckpointPolicy::ProductionOnly),
            Act::CreateStandard => create(CheckpointPolicy::Standard),
            Act::ApplyStandard => Request::Apply(self.standard),
            Act::ApplyProduction => Request::Apply(self.production),
            Act::DeleteMiddle => Request::DeleteCheckpoint(self.production),
            Act::DeleteParentOfNow => Request::DeleteCheckpoint(self.standard),
            Act::Export => Request::Export {
                checkpoint: self.standard,
                folder: "/exports/one".into(),
                format: stillpoint_common::DiskFormat::Qcow2,
            },
            Act::Start => Request::Start,
            Act::TurnOff => Request::Stop(StopMode::TurnOff),
        }
    }

    /// Does it, until it is done or the service dies. Answers whether it died.
    async fn act(&self, act: Act) -> bool {
        let vm = self.host.vm();
        let submitted = self.host.engine.submit(&vm, self.request(act), None);
        let done = async {
            if let Ok(operation) = submitted.await {
                let _ = self.host.end_of(&operation).await;
            }
        };
        tokio::select! {
            () = done => false,
            () = self.host.world.crashed() => true,
        }
    }

    /// Waits until the recovery is over, whatever it does.
    async fn recovered(&mut self) {
        self.host.restart().await;
        self.quiet().await;
    }

    /// Waits until the VM takes a change, which it does only when nothing is at work on it.
    async fn quiet(&self) {
        for _ in 0..10_000 {
            if self.host.engine.update_vm(&self.host.vm(), VmChange::default()).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("still at work: {:?}", self.host.engine.operations().await);
    }

    async fn check(&self, act: Act, what: &str) {
        let host = &self.host;
        host.world.assert_sound();
        let present: BTreeMap<_, _> =
            host.checkpoints().await.into_iter().map(|view| (view.checkpoint.id, view)).collect();
        for (id, content) in &self.contents {
            match present.get(id) {
                Some(view) => assert_eq!(host.content(view), *content, "{what}: a checkpoint has changed"),
                None => assert!(self.may_go(act, *id), "{what}: a checkpoint is lost"),
            }
        }
        let power = host.engine.vm(&host.vm()).await.expect("it works").power;
        self.check_now(act, power, what).await;
        let referenced = host.referenced().await;
        let orphans: Vec<_> = host.world.orphans(&referenced).into_iter().collect();
        assert!(orphans.is_empty(), "{what}: left over: {orphans:?}");
        assert_eq!(host.world.missing(&referenced), [].into(), "{what}: missing");
        tokio::time::sleep(LEASE).await;
        assert!(host.world.never_held_longer_than(LEASE), "{what}: held too long");
    }

    async fn check_now(&self, act: Act, power: PowerState, what: &str) {
        match (act, power) {
            (Act::ApplyProduction | Act::TurnOff | Act::Start, PowerState::Off) => {
                self.host.run(Request::Start).await.expect("it works");
            }
            (_, PowerState::Running) => {}
            (_, other) => panic!("{what}: the VM is {other:?}"),
        }
        let now = (self.host.read(1), self.host.read(2));
        let allowed: &[(u64, u64)] = match act {
            Act::ApplyStandard => &[(3, 3), (2, 0)],
            Act::ApplyProduction => &[(3, 3), (1, 0)],
            Act::CreateProduction
            | Act::CreateStandard
            | Act::DeleteMiddle
            | Act::DeleteParentOfNow
            | Act::Export
            | Act::Start
            | Act::TurnOff => &[(3, 3)],
        };
        assert!(allowed.contains(&now), "{what}: Now reads {now:?}");
        self.host.write(9, 9);
        assert_eq!(self.host.read(9), 9, "{what}: the VM can write");
    }

    fn may_go(&self, act: Act, id: CheckpointId) -> bool {
        match act {
            Act::DeleteMiddle => id == self.production,
            Act::DeleteParentOfNow => id == self.standard,
            Act::CreateProduction
            | Act::CreateStandard
            | Act::ApplyStandard
            | Act::ApplyProduction
            | Act::Export
            | Act::Start
            | Act::TurnOff => false,
        }
    }
}

/// Points of an act at which something changes: those that `wanted` names.
async fn points(act: Act, wanted: impl Fn(Call) -> bool) -> Vec<u64> {
    let before = Before::new(act).await;
    before.host.world.set_faults(FaultPlan::none());
    assert!(!before.act(act).await);
    before.quiet().await;
    let calls = before.host.world.calls();
    let changing = calls.iter().enumerate().filter(|(_, call)| wanted(**call));
    changing.map(|(at, _)| at as u64 + 1).collect()
}

async fn die_everywhere(act: Act) {
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        for point in points(act, Call::changes).await {
            let what = format!("{act:?}, {fault:?} at call {point}");
            let mut before = Before::new(act).await;
            before.host.world.set_faults(FaultPlan::none().at_point(point, fault));
            before.act(act).await;
            before.recovered().await;
            before.check(act, &what).await;
        }
    }
}

async fn die_again_in_recovery(act: Act) {
    for point in points(act, |call| call == Call::Commit).await {
        for again in 1..1000 {
            let what = format!("{act:?}, dead after call {point} and after write {again} of the recovery");
            let mut before = Before::new(act).await;
            before.host.world.set_faults(FaultPlan::none().at_point(point, Fault::CrashAfter));
            before.act(act).await;
            let ports = before.host.world.restart();
            before.host.world.set_faults(FaultPlan::none().at_write(again, Fault::CrashAfter));
            let opened = stillpoint_engine::Engine::open(ports, stillpoint_tests::sim_host::config());
            let died = tokio::select! {
                engine = opened => {
                    before.host.engine = engine.expect("it works");
                    tokio::select! {
                        () = before.quiet() => false,
                        () = before.host.world.crashed() => true,
                    }
                }
                () = before.host.world.crashed() => true,
            };
            before.host.world.set_faults(FaultPlan::none());
            if died {
                before.recovered().await;
            }
            before.check(act, &what).await;
            if !died {
                break;
            }
        }
    }
}

macro_rules! crash_tests {
    ($($name:ident $again:ident $act:ident;)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            die_everywhere(Act::$act).await;
        }

        #[tokio::test(start_paused = true)]
        async fn $again() {
            die_again_in_recovery(Act::$act).await;
        }
    )*};
}

crash_tests! {
    dying_while_a_production_checkpoint_is_made dying_twice_over_a_production_checkpoint CreateProduction;
    dying_while_a_standard_checkpoint_is_made dying_twice_over_a_standard_checkpoint CreateStandard;
    dying_while_a_standard_checkpoint_is_applied dying_twice_over_a_standard_apply ApplyStandard;
    dying_while_a_production_checkpoint_is_applied dying_twice_over_a_production_apply ApplyProduction;
    dying_while_a_middle_checkpoint_is_deleted dying_twice_over_a_middle_deletion DeleteMiddle;
    dying_while_the_parent_of_now_is_deleted dying_twice_over_the_deletion_of_the_parent_of_now DeleteParentOfNow;
    dying_while_a_checkpoint_is_exported dying_twice_over_an_export Export;
    dying_while_a_vm_is_started dying_twice_over_a_start Start;
    dying_while_a_vm_is_turned_off dying_twice_over_a_stop TurnOff;
}
