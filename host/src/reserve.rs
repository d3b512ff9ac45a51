//! Watching over the reserve of the catalogue: in the health service, in what `GetHost` says, and in the log.

use std::{sync::Arc, time::Duration};

use stillpoint_engine::Engine;
use stillpoint_store::{RedbStore, ReserveState};
use tonic_health::{ServingStatus, server::HealthReporter};

/// The name that the health service knows it by.
const HEALTH: &str = "stillpoint.journal-reserve";
/// How often to look, also whether one that was given up can be held again.
const LOOK: Duration = Duration::from_secs(10);

/// What stands in the way, in words; `None` if the reserve is held, or none is wanted.
pub(crate) fn problem(state: &ReserveState) -> Option<String> {
    if state.held || state.bytes == 0 {
        return None;
    }
    let mib = |bytes: u64| bytes >> 20;
    let free = state.free.map(|free| format!(" ({} MiB are free)", mib(free))).unwrap_or_default();
    Some(format!(
        "the file system of the catalogue is full{free}: its reserve {} is given up; free {} MiB there",
        state.path.display(),
        mib(state.bytes.saturating_mul(2)),
    ))
}

/// Tells health how the reserve stands, for as long as the service runs.
pub(crate) async fn watch(store: Arc<RedbStore>, engine: Engine, health: HealthReporter) {
    let mut known: Option<Option<String>> = None;
    loop {
        let problem = problem(&store.reserve().await);
        if known.as_ref() != Some(&problem) {
            let status = if problem.is_some() { ServingStatus::NotServing } else { ServingStatus::Serving };
            health.set_service_status(HEALTH, status).await;
            let was_held = known.take().is_none_or(|before| before.is_none());
            let text = match (&problem, was_held) {
                (Some(problem), true) => Some(problem.as_str()),
                (None, false) => Some("there is space again: the reserve of the catalogue is held"),
                (Some(_), false) | (None, true) => None,
            };
            if let Some(text) = text {
                tracing::warn!("{text}");
                if let Err(failure) = engine.tell_of_host(text).await {
                    tracing::warn!(%failure, "this is not in the event log");
                }
            }
        }
        known = Some(problem);
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reserve_that_is_wanted_and_not_held_is_a_problem() {
        let held =
            ReserveState { path: "/s/catalogue.reserve".into(), bytes: 16 << 20, held: true, free: Some(3 << 20) };
        assert_eq!(problem(&held), None);
        assert_eq!(problem(&ReserveState { held: false, bytes: 0, ..held.clone() }), None);
        let says = problem(&ReserveState { held: false, ..held }).unwrap_or_default();
        assert!(says.contains("(3 MiB are free)") && says.contains("free 32 MiB there"), "{says}");
    }
}
