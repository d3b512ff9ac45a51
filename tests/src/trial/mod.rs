//! Trials: something is done to a simulated VM, something goes wrong, and afterwards all must hold that always holds.
//!
//! A trial knows what was there before and what was asked, not how the engine does it. So every operation, every fault
//! and every moment is held to the same: no guest is held past its lease, a VM that ran runs (unless it was to stop),
//! every acknowledged write is there, every older checkpoint reads as it did, what was answered as done is done, no file
//! is missing, and none is left over once its collection has been.

mod act;
mod check;
mod client;

use std::{collections::BTreeMap, time::Duration};

use stillpoint_common::{CheckpointId, CheckpointPolicy, DiskName, Reason};
use stillpoint_engine::{Engine, Request, VmChange};
use stillpoint_sim::{Call, Content, Fault, FaultPlan};

pub use self::act::Act;
use self::client::{Told, ask};
use crate::sim_host::{SimHost, config};

/// The longest time a guest may be held.
pub const LEASE: Duration = Duration::from_secs(10);
/// How long, in simulated time, a VM may be at work on what a fault has left.
const QUIET: Duration = Duration::from_secs(3600);

/// A VM with checkpoints, about to have something done to it.
///
/// ```text
/// production (1,0) ── standard (2,0) ── Now (3,3)           numbers: blocks 1 and 2 of both disks; the TPM keeps the first
///                                    └─ leaf (4,4)          if the act needs a branch
/// ```
pub struct Trial {
    /// The world with its engine.
    pub host: SimHost,
    act: Act,
    production: Option<CheckpointId>,
    standard: Option<CheckpointId>,
    leaf: Option<CheckpointId>,
    contents: BTreeMap<CheckpointId, BTreeMap<DiskName, Content>>,
    told: Told,
}

/// How an act came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client has its answer, or knows that there will be none.
    Answered,
    /// The service has died.
    Died,
}

impl Trial {
    /// The VM as it is before the act.
    ///
    /// # Panics
    /// If it cannot be made.
    pub async fn new(act: Act) -> Self {
        planned_defects_are_no_news();
        let host = SimHost::running_with_tpm().await;
        let (contents, told) = (BTreeMap::new(), Told::default());
        let mut trial = Self { host, act, production: None, standard: None, leaf: None, contents, told };
        if act.needs_checkpoints() {
            trial.make_checkpoints().await;
        }
        trial.set(3, 3);
        if act.begins_off() {
            trial.host.turn_off().await;
        }
        if act.begins_saved() {
            trial.host.run(Request::Save).await.expect("it can be saved");
        }
        if act == Act::Resume {
            trial.host.run(Request::Pause).await.expect("it can be paused");
        }
        act.script(&trial.host);
        for view in trial.host.checkpoints().await {
            let content = trial.host.content(&view);
            trial.contents.insert(view.checkpoint.id, content);
        }
        trial.host.world.set_faults(FaultPlan::none());
        trial
    }

    /// The same, in a world of its own, under a service that has just been started and is quiet.
    ///
    /// # Panics
    /// If that cannot be.
    pub async fn fork(&self) -> Self {
        let world = self.host.world.fork();
        let engine = Engine::open(world.restart(), config()).await.expect("the store opens");
        let (contents, told) = (self.contents.clone(), Told::default());
        let (act, production, standard, leaf) = (self.act, self.production, self.standard, self.leaf);
        let fork = Self { host: SimHost { world, engine }, act, production, standard, leaf, contents, told };
        fork.quiet().await;
        fork.host.world.set_faults(FaultPlan::none());
        fork
    }

    async fn make_checkpoints(&mut self) {
        self.production = Some(self.make(CheckpointPolicy::ProductionOnly).await);
        self.set(2, 0);
        if self.act.needs_large_parent() {
            (20..24).for_each(|block| self.host.write(block, 2));
        }
        let standard = self.make(CheckpointPolicy::Standard).await;
        self.standard = Some(standard);
        if self.act.needs_branch() {
            self.set(4, 4);
            self.leaf = Some(self.make(CheckpointPolicy::Standard).await);
            self.host.run(Request::Apply(standard.into())).await.expect("it works");
        }
    }

    async fn make(&self, policy: CheckpointPolicy) -> CheckpointId {
        self.host.create(policy).await.expect("nothing is wrong yet").id
    }

    fn set(&self, first: u64, second: u64) {
        self.host.write(1, first);
        assert!(self.host.world.write_tpm(&self.host.vm(), first), "the VM has a TPM");
        if second > 0 {
            self.host.write(2, second);
        }
    }

    /// Does it, until the client is answered or the service dies.
    pub async fn act(&mut self) -> End {
        let (tell, told) = tokio::sync::watch::channel(Told::default());
        let (engine, wish) = (self.host.engine.clone(), self.act.wish(self));
        // A task of its own: a defect of the engine may strike the client's own call.
        let client = tokio::spawn(ask(engine, self.host.vm(), wish, tell));
        let end = tokio::select! {
            _ = client => End::Answered,
            () = self.host.world.crashed() => End::Died,
        };
        self.told = told.borrow().clone();
        end
    }

    /// A new process of the service, and its recovery to the end, whatever it does. A guest that the dead one has left held
    /// is let go before anything else is done.
    ///
    /// # Panics
    /// If something else was done first.
    pub async fn recovered(&mut self) {
        self.host.world.set_faults(FaultPlan::none());
        self.host.restart().await;
        self.quiet().await;
        let mut first = self.host.world.changes_while_held();
        // The end of a session lets the guest go, too; and one that is paused as well has to run for that.
        first.retain(|call| !matches!(call, Call::Thaw | Call::Finish | Call::Resume | Call::Commit));
        assert_eq!(first, [], "{:?}: done by the recovery while the guest was held", self.act);
    }

    /// A new process of the service with this plan of faults. False if it died or did not start.
    pub async fn recovered_under(&mut self, faults: FaultPlan) -> bool {
        let ports = self.host.world.restart();
        self.host.world.set_faults(faults);
        let opened = tokio::spawn(Engine::open(ports, config()));
        let world = self.host.world.clone();
        let started = tokio::select! {
            opened = opened => match opened {
                Ok(Ok(engine)) => engine,
                Ok(Err(_)) | Err(_) => return false,
            },
            () = world.crashed() => return false,
        };
        self.host.engine = started;
        tokio::select! {
            () = self.quiet() => true,
            () = world.crashed() => false,
        }
    }

    /// Waits until nothing is at work on the VM.
    ///
    /// # Panics
    /// If something is at work for too long.
    pub async fn quiet(&self) {
        let until = tokio::time::Instant::now() + QUIET;
        let mut wait = Duration::from_millis(50);
        while tokio::time::Instant::now() < until {
            let (engine, vm) = (self.host.engine.clone(), self.host.vm());
            // A task of its own: a defect of the engine may strike the question.
            // What is quiet takes a change at once.
            let asked = tokio::spawn(async move {
                engine.idle(&vm).await?;
                engine.update_vm(&vm, VmChange::default()).await.map(drop)
            });
            match tokio::time::timeout_at(until, asked).await {
                Ok(Ok(Ok(()))) => return,
                Ok(Ok(Err(gone))) if gone.reason == Reason::VmNotFound => return,
                Ok(Ok(Err(_)) | Err(_)) | Err(_) => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(10));
        }
        panic!("still at work: {:?}", self.host.engine.operations().await);
    }
}

/// Which calls of its ports the engine makes for an act, from the request until the VM is quiet: point 1 is the first.
///
/// # Panics
/// If the act fails although nothing goes wrong.
pub async fn calls_of(before: &Trial) -> Vec<Call> {
    let (act, mut trial) = (before.act, before.fork().await);
    assert_eq!(trial.act().await, End::Answered);
    trial.quiet().await;
    let calls = trial.host.world.calls();
    assert!(trial.told.is_done(), "{act:?} without a fault: {:?}", trial.told);
    trial.check(&format!("{act:?} without a fault")).await;
    calls
}

/// Does an act with one fault, and asserts what must hold, first as it is then and again after a restart.
pub async fn with_fault(before: &Trial, point: u64, fault: Fault) {
    let what = format!("{:?}, {fault:?} at call {point}", before.act);
    let mut trial = before.fork().await;
    trial.host.world.set_faults(FaultPlan::none().at_point(point, fault));
    let world = trial.host.world.clone();
    let died = match trial.act().await {
        End::Died => true,
        End::Answered => tokio::select! {
            () = trial.quiet() => false,
            () = world.crashed() => true,
        },
    };
    if died {
        trial.recovered().await;
    }
    trial.check(&what).await;
}

/// Thousands of planned panics would hide one that is not.
fn planned_defects_are_no_news() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let planned =
                panic.payload().downcast_ref::<String>().is_some_and(|text| text.ends_with("a planned defect"));
            if !planned {
                usual(panic);
            }
        }));
    });
}
