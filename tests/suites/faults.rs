//! Every call of a port that an operation makes fails before its effect, fails after it, finds no space, never answers
//! (before or after its effect), or panics: one at a time, each in a world of its own. And again during the recovery of
//! a service that had died.
//!
//! What is asserted after each is in `trial`. How many cases ran is printed, and a matrix that has shrunk fails.

use stillpoint_sim::{Call, Fault, FaultPlan};
use stillpoint_tests::trial::{Act, End, Trial, calls_of, with_fault};

/// The faults of a call. One that only looks has no effect, so that before and after are the same.
fn faults_of(call: Call) -> &'static [Fault] {
    use Fault::{FailAfter, FailBefore, Hang, HangAfter, NoSpace, Panic};
    let takes_space = [
        Call::CreateOverlay,
        Call::Merge,
        Call::MergeOffline,
        Call::Stream,
        Call::StreamOffline,
        Call::Flatten,
        Call::FinishCapture,
    ];
    if takes_space.contains(&call) {
        &[FailBefore, FailAfter, NoSpace, Hang, HangAfter, Panic]
    } else if call == Call::Commit {
        &[FailBefore, FailAfter, Hang, HangAfter, Panic]
    } else if call.changes() {
        &[FailBefore, FailAfter, Hang, Panic]
    } else if [Call::Observe, Call::Stat, Call::OpenMemory].contains(&call) {
        &[FailBefore, Hang]
    } else {
        &[FailBefore]
    }
}

fn ran(what: &str, act: Act, cases: usize, at_least: usize) {
    println!("{what}: {act:?}: {cases} cases");
    assert!(cases >= at_least, "{what}: {act:?}: only {cases} cases");
}

async fn fail_everywhere(act: Act, at_least: usize) {
    let mut cases = 0;
    let before = Trial::new(act).await;
    for (point, call) in (1..).zip(calls_of(&before).await) {
        for fault in faults_of(call) {
            with_fault(&before, point, *fault).await;
            cases += 1;
        }
    }
    ran("one fault", act, cases, at_least);
}

/// How many points of the recoveries are passed over for one that is tried: all of them would take minutes.
const STRIDE: usize = 11;

async fn fail_in_recovery(act: Act, at_least: usize) {
    let mut cases = 0;
    let before = Trial::new(act).await;
    for (point, _) in (1..).zip(calls_of(&before).await).filter(|(_, call)| *call == Call::Commit) {
        let dead = async || {
            let mut trial = before.fork().await;
            trial.host.world.set_faults(FaultPlan::none().at_point(point, Fault::CrashAfter));
            (trial.act().await == End::Died).then_some(trial)
        };
        let Some(mut undisturbed) = dead().await else { continue };
        undisturbed.recovered().await;
        let calls = undisturbed.host.world.calls();
        for (at, call) in (1..).zip(calls).skip(point as usize % STRIDE).step_by(STRIDE) {
            for fault in faults_of(call) {
                let mut trial = dead().await.expect("it died before");
                let what =
                    format!("{act:?}, dead after call {point}, then {fault:?} at call {at} of the recovery ({call})");
                if !trial.recovered_under(FaultPlan::none().at_point(at, *fault)).await {
                    trial.recovered().await;
                }
                trial.check(&what).await;
                cases += 1;
            }
        }
    }
    ran("a fault in the recovery", act, cases, at_least);
}

macro_rules! fault_tests {
    ($($act:ident $once:literal $again:literal $name:ident;)*) => {
        /// No act is forgotten here. With each stands how many cases of it there must be, of both kinds.
        #[test]
        fn every_act_is_tried() {
            assert_eq!([$(Act::$act),*], *Act::ALL);
        }

        mod one_fault {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::fail_everywhere(super::Act::$act, $once).await;
            })*
        }

        mod a_fault_in_the_recovery {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::fail_in_recovery(super::Act::$act, $again).await;
            })*
        }
    };
}

fault_tests! {
    CreateProduction 95 17 of_a_production_checkpoint;
    CreateStandard 109 18 of_a_standard_checkpoint;
    CreateFallback 163 32 of_a_standard_checkpoint_in_the_place_of_a_production_one;
    CreateOffline 54 4 of_a_checkpoint_of_a_vm_that_is_off;
    ApplyStandard 137 44 of_a_standard_apply;
    ApplyProduction 110 42 of_a_production_apply;
    ApplyWhileOff 124 41 of_an_apply_to_a_vm_that_is_off;
    Revert 137 44 of_a_revert;
    DeleteLeaf 96 33 of_the_deletion_of_a_leaf;
    DeleteMiddle 115 42 of_the_deletion_of_a_middle_checkpoint;
    DeleteParentOfNow 156 81 of_the_deletion_of_the_parent_of_now;
    MergeUp 80 30 of_a_merge_upwards;
    DeleteBranchPoint 66 14 of_the_deletion_of_a_branch_point;
    DeleteMiddleWhileOff 107 36 of_the_deletion_of_a_middle_checkpoint_while_off;
    DeleteParentOfNowWhileOff 100 32 of_the_deletion_of_the_parent_of_now_while_off;
    DeleteSubtree 60 20 of_the_deletion_of_a_subtree;
    DeleteSubtreeWhileRunning 60 20 of_the_deletion_of_a_subtree_of_a_running_vm;
    DeleteMany 60 10 of_the_deletion_of_two_checkpoints_at_once;
    DeleteMemory 20 5 of_the_deletion_of_a_memory;
    Export 78 11 of_an_export;
    Start 68 7 of_a_start;
    TurnOff 51 7 of_a_stop;
    ShutDown 56 7 of_a_shutdown;
    Pause 48 7 of_a_pause;
    Resume 48 7 of_a_resume;
    Rename 17 0 of_a_new_name;
    Change 18 0 of_a_change;
    DeleteVm 11 0 of_the_end_of_a_vm;
    Save 50 7 of_a_save;
    StartSaved 60 7 of_a_start_from_saved;
    DiscardSaved 20 2 of_a_saved_state_that_is_given_up;
    CreateSaved 50 4 of_a_checkpoint_of_a_saved_vm;
    CreateQuiesced 100 18 of_a_quiet_guest_with_its_memory;
    ApplyToSaved 100 30 of_an_apply_to_saved;
    ApplyOverSaved 100 30 of_an_apply_over_a_saved_vm;
    ApplyKeepingNow 200 40 of_an_apply_that_keeps_now;
}
