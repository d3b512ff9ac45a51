//! The service dies at every call of a port that changes something, before it and after it; and at every write of its
//! journal, and again at every write of the recovery.
//!
//! What is asserted after each is in `trial`, the same for all. How many cases ran is printed, and a matrix that has
//! shrunk fails.

use stillpoint_sim::{Call, Fault, FaultPlan};
use stillpoint_tests::trial::{Act, End, Trial, calls_of, with_fault};

/// Points of an act at which it makes a call that `wanted` names.
async fn points(before: &Trial, wanted: impl Fn(Call) -> bool) -> Vec<u64> {
    let calls = calls_of(before).await;
    (1..).zip(calls).filter(|(_, call)| wanted(*call)).map(|(point, _)| point).collect()
}

fn ran(what: &str, act: Act, cases: usize, at_least: usize) {
    println!("{what}: {act:?}: {cases} cases");
    assert!(cases >= at_least, "{what}: {act:?}: only {cases} cases");
}

async fn die_everywhere(act: Act, at_least: usize) {
    let before = Trial::new(act).await;
    let points = points(&before, Call::changes).await;
    for &point in &points {
        with_fault(&before, point, Fault::CrashBefore).await;
        with_fault(&before, point, Fault::CrashAfter).await;
    }
    ran("dying once", act, 2 * points.len(), at_least);
}

async fn die_again_in_recovery(act: Act, at_least: usize) {
    let mut cases = 0;
    let before = Trial::new(act).await;
    for point in points(&before, |call| call == Call::Commit).await {
        for again in 1.. {
            let mut trial = before.fork().await;
            trial.host.world.set_faults(FaultPlan::none().at_point(point, Fault::CrashAfter));
            if trial.act().await == End::Answered {
                break; // it was the write of somebody who only looked
            }
            let survived = trial.recovered_under(FaultPlan::none().at_write(again, Fault::CrashAfter)).await;
            if !survived {
                trial.recovered().await;
            }
            cases += 1;
            trial.check(&format!("{act:?}, dead after call {point} and after write {again} of the recovery")).await;
            if survived {
                break;
            }
        }
    }
    ran("dying twice", act, cases, at_least);
}

macro_rules! crash_tests {
    ($($act:ident $once:literal $again:literal $name:ident;)*) => {
        /// No act is forgotten here. With each stands how many cases of it there must be, of both kinds.
        #[test]
        fn every_act_is_tried() {
            assert_eq!([$(Act::$act),*], *Act::ALL);
        }

        mod dying_once {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::die_everywhere(super::Act::$act, $once).await;
            })*
        }

        mod dying_twice {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::die_again_in_recovery(super::Act::$act, $again).await;
            })*
        }
    };
}

crash_tests! {
    CreateProduction 25 16 while_a_production_checkpoint_is_made;
    CreateStandard 30 16 while_a_standard_checkpoint_is_made;
    CreateFallback 47 21 while_a_standard_checkpoint_is_made_in_the_place_of_a_production_one;
    CreateOffline 11 9 while_a_checkpoint_of_a_vm_that_is_off_is_made;
    ApplyStandard 34 56 while_a_standard_checkpoint_is_applied;
    ApplyProduction 27 56 while_a_production_checkpoint_is_applied;
    ApplyWhileOff 30 56 while_a_checkpoint_is_applied_to_a_vm_that_is_off;
    Revert 34 56 while_a_vm_is_reverted;
    DeleteLeaf 22 45 while_a_leaf_is_deleted;
    DeleteMiddle 25 45 while_a_middle_checkpoint_is_deleted;
    DeleteParentOfNow 42 90 while_the_parent_of_now_is_deleted;
    MergeUp 20 40 while_the_layers_below_now_are_merged_up_into_its_own;
    DeleteBranchPoint 11 16 while_a_branch_point_is_deleted;
    DeleteMiddleWhileOff 28 45 while_a_middle_checkpoint_of_a_vm_that_is_off_is_deleted;
    DeleteParentOfNowWhileOff 25 45 while_the_parent_of_a_now_that_is_off_is_deleted;
    DeleteSubtree 20 20 while_a_subtree_is_deleted;
    DeleteSubtreeWhileRunning 20 20 while_a_subtree_of_a_running_vm_is_deleted;
    DeleteMany 10 10 while_two_checkpoints_are_deleted_at_once;
    DeleteMemory 5 5 while_the_memory_of_a_checkpoint_is_deleted;
    Export 17 9 while_a_checkpoint_is_exported;
    Start 13 13 while_a_vm_is_started;
    TurnOff 11 9 while_a_vm_is_turned_off;
    ShutDown 13 9 while_a_guest_is_shut_down;
    Pause 8 6 while_a_vm_is_paused;
    Resume 8 6 while_a_vm_is_resumed;
    Rename 3 1 while_a_checkpoint_is_renamed;
    Change 3 1 while_a_vm_is_changed;
    DeleteVm 1 0 while_a_vm_is_forgotten;
    Save 15 9 while_a_vm_is_saved;
    StartSaved 15 9 while_a_saved_vm_is_started;
    DiscardSaved 5 2 while_a_saved_state_is_given_up;
    CreateSaved 11 9 while_a_checkpoint_of_a_saved_vm_is_made;
    CreateQuiesced 30 16 while_a_quiet_guest_is_kept_with_its_memory;
    ApplyToSaved 27 40 while_a_checkpoint_is_applied_to_saved;
    ApplyOverSaved 30 40 while_a_saved_vm_is_brought_back;
    ApplyKeepingNow 50 60 while_what_is_now_is_kept_and_a_checkpoint_applied;
}
