//! Stories told to the engine on the simulated world, beside a model that knows nothing but bytes.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use stillpoint_tests::model::{Model, Step, engine_ground::EngineGround, how_many, stories, tell, told_again};

/// A VM that is off writes nothing.
fn makes_sense(model: &Model, step: Step) -> bool {
    model.is_on() || !matches!(step, Step::Write(..))
}

async fn told(story: &[Step]) -> Result<(), String> {
    let (mut ground, mut model) = (EngineGround::simulated().await, Model::new(true));
    for step in story {
        if makes_sense(&model, *step) {
            tell(&mut model, &mut ground, &[*step]).await?;
        }
    }
    tell(&mut model, &mut ground, &[Step::Restart]).await?;
    ground.assert_sound().await;
    Ok(())
}

/// How a story that has failed is made.
const SEEDS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/model.seeds");
/// How many stories are told in each test, and how many steps these have at least.
const STORIES: u32 = 120;
const STEPS: usize = 1_000;

fn tell_many(power: bool) {
    let steps = std::cell::Cell::new(0);
    let config = Config { cases: how_many(STORIES), failure_persistence: told_again(SEEDS), ..Config::default() };
    let outcome = TestRunner::new(config).run(&stories(24, power), |story| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        steps.set(steps.get() + story.len());
        runtime.expect("a runtime").block_on(told(&story)).map_err(TestCaseError::fail)
    });
    println!("{} steps", steps.get());
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
    assert!(steps.get() > STEPS, "only {} steps", steps.get());
}

#[test]
fn whatever_the_story_of_a_running_vm_every_checkpoint_and_now_read_as_the_model_says() {
    tell_many(false);
}

#[test]
fn whatever_the_story_of_a_vm_that_is_turned_off_and_on_all_read_as_the_model_says() {
    tell_many(true);
}
