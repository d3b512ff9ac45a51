//! `cargo compare [--json] [--runs N] [MEASURE…]`: what the product costs, against the floor.

use std::process::ExitCode;

use stillpoint_tests::compare::{MEASURES, Outcome, Wanted, figures::table};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let wanted = match Wanted::read(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let measured = tokio::select! {
        measured = measure(&wanted) => measured,
        // What was begun ends with it: a machine left behind would take its share of whatever is measured next.
        () = asked_to_end() => Err("it was asked to end".into()),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("cannot measure: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C, or SIGTERM. One that cannot be heard ends us as it always does.
async fn asked_to_end() {
    let heard = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = heard(SignalKind::interrupt()) => {}
        () = heard(SignalKind::terminate()) => {}
    }
}

async fn measure(wanted: &Wanted) -> Outcome {
    let chosen = MEASURES.iter().filter(|measure| wanted.measures.contains(&measure.name));
    for measure in chosen {
        say_load(measure.name, "begins");
        let cases = measure.run(wanted.runs).await?;
        say_load(measure.name, "has ended");
        if wanted.json {
            cases.iter().for_each(|case| println!("{}", case.json()));
        } else {
            println!("{}\n", table(measure.title, &cases));
        }
    }
    Ok(())
}

/// Figures taken on a busy machine are to be read with care.
fn say_load(name: &str, what: &str) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<_> = load.split(' ').take(2).collect();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    eprintln!("{name} {what}; load of the last 1 and 5 minutes: {} on {cpus} CPUs", load.join(" "));
}
