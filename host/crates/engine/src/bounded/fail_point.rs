//! For tests only: at a call of a port the process ends itself, as if it were killed there, or waits.
//!
//! The file that `STILLPOINT_FAIL_POINT` names holds one line, `CALL NTH before` or `CALL NTH after`, with ` wait` behind
//! it to wait. It is read at each call, so that a test chooses the next point while the service runs; calls are counted
//! since the line was read first. Who waits says so with a file of the same name and the ending `.reached`, and goes on
//! when the line has changed. With the one word `trace` in it, the calls that are made are written to a file of the same
//! name and the ending `.trace`, one a line, in their order.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

/// When a call is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Before,
    After,
}

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    Die,
    Wait,
}

/// The line that was read last, and how many calls it has counted. Held for a comparison, never across an await.
static COUNTED: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

/// What asks for the calls to be written down.
const TRACE: &str = "trace";

/// Ends the process or waits, if this is the point.
pub(super) async fn reach(call: &str, moment: Moment) {
    let Some(file) = std::env::var_os("STILLPOINT_FAIL_POINT") else { return };
    let line = fs::read_to_string(&file).unwrap_or_default();
    if line.trim() == TRACE && moment == Moment::Before {
        trace(&file, call);
    }
    match struck(&line, call, moment) {
        // No destructor runs and nothing is flushed: to all others it is as if we had been killed.
        Some(Strike::Die) => std::process::abort(),
        Some(Strike::Wait) => wait(&file, &line).await,
        None => {}
    }
}

fn struck(line: &str, call: &str, moment: Moment) -> Option<Strike> {
    let (named, nth, when, strike) = match line.split_whitespace().collect::<Vec<_>>()[..] {
        [named, nth, when] => (named, nth, when, Strike::Die),
        [named, nth, when, "wait"] => (named, nth, when, Strike::Wait),
        _ => return None,
    };
    let is_now = matches!((when, moment), ("before", Moment::Before) | ("after", Moment::After));
    if named != call || !is_now {
        return None;
    }
    let mut counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    if counted.0 != line {
        *counted = (line.to_owned(), 0);
    }
    counted.1 += 1;
    (nth.parse() == Ok(counted.1)).then_some(strike)
}

fn trace(file: &OsStr, call: &str) {
    let mut path = file.to_owned();
    path.push(".trace");
    let opened = fs::OpenOptions::new().create(true).append(true).open(path);
    // A trace that is not written is missed by the test that wants it.
    let _ = opened.and_then(|mut trace| trace.write_all(format!("{call}\n").as_bytes()));
}

async fn wait(file: &OsStr, line: &str) {
    let mut reached = file.to_owned();
    reached.push(".reached");
    if fs::write(&reached, line).is_err() {
        return; // nobody would know
    }
    while fs::read_to_string(file).is_ok_and(|now| now == line) {
        sleep(Duration::from_millis(5)).await;
    }
    let _ = fs::remove_file(&reached);
}
