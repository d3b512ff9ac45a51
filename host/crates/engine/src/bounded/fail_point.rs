//! For tests only: the process ends itself at a call of a port, as if it were killed there.
//!
//! The file that `STILLPOINT_FAIL_POINT` names holds one line, `CALL NTH before` or `CALL NTH after`. It is read at each
//! call, so that a test chooses the next point while the service runs; calls are counted since the line was read first.

use std::{
    fs,
    sync::{Mutex, PoisonError},
};

/// When a call is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Before,
    After,
}

/// The line that was read last, and how many calls it has counted. Held for a comparison, never across an await.
static COUNTED: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

/// Ends the process if this is the point.
pub(super) fn reach(call: &str, moment: Moment) {
    let Some(file) = std::env::var_os("STILLPOINT_FAIL_POINT") else { return };
    let line = fs::read_to_string(file).unwrap_or_default();
    let [named, nth, when] = line.split_whitespace().collect::<Vec<_>>()[..] else { return };
    let struck = matches!((when, moment), ("before", Moment::Before) | ("after", Moment::After));
    if named != call || !struck {
        return;
    }
    let mut counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    if counted.0 != line {
        *counted = (line.clone(), 0);
    }
    counted.1 += 1;
    if nth.parse() == Ok(counted.1) {
        // No destructor runs and nothing is flushed: to all others it is as if we had been killed.
        std::process::abort();
    }
}
