//! Stories told to real image files of a VM that is off, and to a running guest.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use stillpoint_tests::model::{
    Model, Step, engine_ground::EngineGround, guest_ground::GuestGround, how_many, stories, tell, told_again,
};

/// How a story that has failed is made.
const SEEDS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/guest_model.seeds");
/// How many stories are told of image files.
const STORIES: u32 = 12;

async fn told(story: &[Step]) -> Result<(), String> {
    let mut ground = EngineGround::real_images().await.map_err(|error| error.to_string())?;
    tell(&mut Model::new(false), &mut ground, story).await?;
    ground.assert_sound().await;
    Ok(())
}

#[test]
fn real_images_of_a_vm_that_is_off_read_as_the_model_says() {
    let steps = std::cell::Cell::new(0);
    let config = Config {
        cases: how_many(STORIES),
        max_shrink_iters: 40,
        failure_persistence: told_again(SEEDS),
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&stories(24, false), |story| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        steps.set(steps.get() + story.len());
        runtime.expect("a runtime").block_on(told(&story)).map_err(TestCaseError::fail)
    });
    println!("{} steps", steps.get());
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
    assert!(steps.get() > 60, "only {} steps", steps.get());
}

/// How many stories are told to the running guest, and how many steps each has at most.
const TO_A_GUEST: u32 = 14;
const LONGEST: usize = 7;

#[test]
fn a_running_guest_and_all_its_checkpoints_read_as_the_model_says() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let ground = runtime.block_on(GuestGround::boot()).expect("the guest boots");
    let (ground, steps) = (std::cell::RefCell::new(ground), std::cell::Cell::new(0));
    let config = Config {
        cases: how_many(TO_A_GUEST),
        max_shrink_iters: 12,
        failure_persistence: told_again(SEEDS),
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&stories(LONGEST, true), |story| {
        steps.set(steps.get() + story.len());
        let mut ground = ground.borrow_mut();
        let told = runtime.block_on(async {
            ground.tell(&story).await?;
            ground.assert_sound().await.map_err(|error| error.to_string())
        });
        told.map_err(|failed| TestCaseError::fail(format!("{story:?}: {failed}")))
    });
    println!("{} steps", steps.get());
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
    assert!(steps.get() > 24, "only {} steps", steps.get());
    // It ends the service, which needs the runtime.
    let _within = runtime.enter();
    drop(ground);
}
