//! What ran, how it ended and how long it took.

use std::time::{Duration, Instant};

use crate::problem::{Outcome, Problem};

/// How a step ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It did what it should.
    Passed,
    /// It could not run here, for this reason. Never counted as passed.
    NotRun(&'static str),
    /// It found something, or broke.
    Failed(Problem),
}

/// The steps so far. One that fails does not keep the next from running.
#[derive(Debug, Default)]
pub(crate) struct Report {
    steps: Vec<(&'static str, End, Duration)>,
}

impl Report {
    /// Runs a step and notes how it went; tells whether the ones that build on it can go on.
    pub(crate) fn step(&mut self, name: &'static str, act: impl FnOnce() -> Outcome<End>) -> bool {
        eprintln!("\n== {name}");
        let begun = Instant::now();
        let end = act().unwrap_or_else(End::Failed);
        let passed = matches!(end, End::Passed);
        self.steps.push((name, end, begun.elapsed()));
        passed
    }

    /// Prints the steps. It is a problem if one failed, or if one that the caller asked for by name could not run.
    pub(crate) fn close(self, named: bool) -> Outcome {
        eprintln!("\nWhat ran, and how long it took");
        let mut bad = Vec::new();
        for (name, end, took) in &self.steps {
            let (word, why) = match end {
                End::Passed => ("ok", String::new()),
                End::NotRun(why) => ("NOT RUN", format!("  {why}")),
                End::Failed(problem) => ("FAILED", format!("  {problem}")),
            };
            eprintln!("  {name:<10} {word:<8} {:>7.1} s{}", took.as_secs_f64(), why.trim_end());
            if matches!(end, End::Failed(_)) || (named && matches!(end, End::NotRun(_))) {
                bad.push(*name);
            }
        }
        if bad.is_empty() { Ok(()) } else { Err(Problem::new(format!("not passed: {}", bad.join(", ")))) }
    }
}
