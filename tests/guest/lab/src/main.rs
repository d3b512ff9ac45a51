//! `stillpoint-lab`: what the tests run inside their guest.
//!
//! It observes the product from the inside, so it shares no code with it: a command channel of its own
//! ([`serve`]), and workloads that keep their state in memory or on disk and can be asked about it
//! ([`ask`]) at any time, also while a file system is frozen under them.
//!
//! ```text
//! stillpoint-lab serve                                    answer the host's commands, for ever
//! stillpoint-lab value   NAME TEXT                        keep TEXT in memory only
//! stillpoint-lab memory  NAME MIB SEED [DIRTY_MIB_PER_S]  keep MIB of random memory, rewrite some of it
//! stillpoint-lab counter NAME FILE [PERIOD_MS [BYTES]]    count into FILE, write + fsync each time
//! stillpoint-lab ask     NAME WORDS…                      ask a running workload
//! stillpoint-lab fill    FILE MIB SEED                    write random data and fsync
//! stillpoint-lab check   FILE MIB SEED                    is it still what `fill` wrote?
//! stillpoint-lab label   DEVICE                           type and label of its file system
//! stillpoint-lab clock                                    wall clock and boot clock in nanoseconds
//! ```

mod ask;
mod clock;
mod counter;
mod fill;
mod label;
mod memory;
mod pattern;
mod port;
mod serve;
mod value;

use std::process::ExitCode;

/// What every subcommand ends with: text for standard output, or a sentence about what went wrong.
type Outcome = Result<String, String>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("stillpoint-lab: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Outcome {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve"] => serve::serve(),
        ["value", name, text] => value::keep(name, text),
        ["memory", name, mib, seed, rest @ ..] => {
            memory::keep(name, number(mib)?, number(seed)?, optional(rest, 0, 0)?)
        }
        ["counter", name, file, rest @ ..] => {
            counter::count(name, file, optional(rest, 0, 10)?, optional(rest, 1, 4096)?)
        }
        ["ask", name, question @ ..] => ask::ask(name, &question.join(" ")),
        ["fill", file, mib, seed] => fill::fill(file, number(mib)?, number(seed)?),
        ["check", file, mib, seed] => fill::check(file, number(mib)?, number(seed)?),
        ["clock"] => clock::now(),
        ["label", device] => label::read(device),
        _ => {
            Err("use: serve | value | memory | counter | ask | fill | check | clock | label (see the program's documentation)"
                .into())
        }
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("`{word}` is not a number"))
}

fn optional(words: &[&str], at: usize, default: u64) -> Result<u64, String> {
    words.get(at).map_or(Ok(default), |word| number(word))
}
