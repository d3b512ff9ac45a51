//! The service dies at calls of its ports that follow each other evenly, for each deed; at every one of them if
//! `STILLPOINT_STRIDE` is 1. On real images and real processes, in which no guest runs.

use std::env;

use stillpoint_tests::sweep::{Deed, Sweep};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// One of so many points is tried, of each deed.
async fn everywhere(deeds: &[Deed], one_of: usize, at_least: usize) -> Tested {
    let stride = env::var("STILLPOINT_STRIDE").ok().and_then(|stride| stride.parse().ok()).unwrap_or(one_of);
    let folder = tempfile::Builder::new().prefix("sp-").tempdir()?;
    let mut sweep = Sweep::new(folder.path()).await?;
    let (mut died, mut missed) = (0, Vec::new());
    for (number, deed) in deeds.iter().enumerate() {
        let points = sweep.points(*deed).await?;
        for point in points.iter().skip(number % stride).step_by(stride) {
            match sweep.strike(*deed, point).await? {
                true => died += 1,
                false => missed.push(format!("{deed:?}, {point}")),
            }
        }
    }
    println!("died {died} times; not come to: {missed:?}");
    // What looks around in between calls now more often, now less.
    assert!(died >= at_least && missed.len() * 3 <= died, "died {died} times; not come to: {missed:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_dies_all_over_what_is_done_to_a_vm_that_is_off() -> Tested {
    everywhere(Deed::OFF, 19, 10).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_dies_all_over_what_is_done_to_a_vm_with_a_process() -> Tested {
    everywhere(Deed::ON, 37, 5).await
}
