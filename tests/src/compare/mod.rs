//! What the product costs, measured against the floor: the same QMP commands sent by a minimal script to an identical
//! guest, in the same run, turn by turn. A measure is a module with a row in [`MEASURES`].

mod control_plane;
mod crowd;
mod engine_overhead;
pub mod figures;
mod files;
mod growth;
mod merge;
mod pair;
mod production_freeze_window;
mod script;
mod standard_apply;
mod standard_pause;
mod twin;
mod writer;

use std::{error::Error, future::Future, pin::Pin};

use figures::Case;

/// What goes wrong while measuring ends the run, and is for a person.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

type Cases = Pin<Box<dyn Future<Output = Outcome<Vec<Case>>>>>;

/// Something that is measured.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    /// What it is called on the command line and in the output.
    pub name: &'static str,
    /// What a person reads above its table.
    pub title: &'static str,
    /// How often each case is measured if nobody says otherwise.
    pub runs: usize,
    run: fn(Effort) -> Cases,
}

/// How much work a measure may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// How often each case is measured.
    pub runs: usize,
    /// Ends a case early, after its first run, rather than let it take longer than it should on a slow machine.
    pub bounded: bool,
}

impl Measure {
    /// Measures every case as often as asked, or else as often as is usual and as there is time for.
    ///
    /// # Errors
    /// If a guest cannot be had, or either side fails at what is measured.
    pub async fn run(&self, runs: Option<usize>) -> Outcome<Vec<Case>> {
        (self.run)(Effort { runs: runs.unwrap_or(self.runs), bounded: runs.is_none() }).await
    }
}

/// Every measure there is.
pub const MEASURES: &[Measure] = &[
    Measure {
        name: standard_pause::NAME,
        title: "How long a standard checkpoint pauses a VM whose memory is half full (QEMU's own STOP and RESUME)",
        runs: 3,
        run: |effort| Box::pin(standard_pause::run(effort)),
    },
    Measure {
        name: standard_apply::NAME,
        title: "From the request until a VM that is off runs at a standard checkpoint, and until all of its memory is in",
        runs: 3,
        run: |effort| Box::pin(standard_apply::run(effort)),
    },
    Measure {
        name: production_freeze_window::NAME,
        title: "The longest gap between two durable writes in the guest around a production checkpoint",
        runs: 15,
        run: |effort| Box::pin(production_freeze_window::run(effort.runs)),
    },
    Measure {
        name: merge::NAME,
        title: "Merging a layer of 512 MiB into the one below while the VM runs, against the same `block-commit`",
        runs: 3,
        run: |effort| Box::pin(merge::run(effort.runs)),
    },
    Measure {
        name: engine_overhead::NAME,
        title: "What the engine and its journal cost for one production checkpoint; the floor is the limit, 10 ms",
        runs: 100,
        run: |effort| Box::pin(engine_overhead::run(effort.runs)),
    },
    Measure {
        name: control_plane::NAME,
        title: "5,000 VMs with 20 checkpoints each; the floor is the limit (99th percentiles of each run's calls)",
        runs: 5,
        run: |effort| Box::pin(control_plane::run(effort.runs)),
    },
    Measure {
        name: growth::NAME,
        title: "A whole production checkpoint, by the number of those before it and of disks",
        runs: 2,
        run: |effort| Box::pin(growth::run(effort.runs)),
    },
];

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// One JSON object a case instead of a table.
    pub json: bool,
    /// How often each case is measured; each measure has its own default.
    pub runs: Option<usize>,
    /// Names of measures, each of which exists; never empty.
    pub measures: Vec<&'static str>,
}

impl Wanted {
    /// Reads `[--json] [--runs N] [MEASURE…]`; without a name, every measure is wanted.
    ///
    /// # Errors
    /// A sentence that says what there is to choose from.
    pub fn read(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let (mut wanted, mut words) = (Self::default(), words.into_iter());
        while let Some(word) = words.next() {
            match word.as_str() {
                "--json" => wanted.json = true,
                "--runs" => wanted.runs = Some(runs(words.next())?),
                name => wanted.measures.push(known(name)?),
            }
        }
        if wanted.measures.is_empty() {
            wanted.measures = MEASURES.iter().map(|measure| measure.name).collect();
        }
        Ok(wanted)
    }
}

fn runs(word: Option<String>) -> Result<usize, String> {
    let number = word.as_deref().and_then(|word| word.parse().ok()).filter(|runs| (1..=1000).contains(runs));
    number.ok_or_else(|| "--runs needs a number from 1 to 1000".to_owned())
}

fn known(name: &str) -> Result<&'static str, String> {
    let found = MEASURES.iter().map(|measure| measure.name).find(|known| *known == name);
    found.ok_or_else(|| {
        let names: Vec<_> = MEASURES.iter().map(|measure| measure.name).collect();
        format!(
            "no measure is called `{name}`; there are: {}\nuse: cargo compare [--json] [--runs N] [MEASURE…]",
            names.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Wanted, String> {
        Wanted::read(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn without_names_everything_is_measured() {
        let all = read(&["--json"]).unwrap();
        assert_eq!((all.json, all.runs, all.measures.len()), (true, None, MEASURES.len()));
        let one = read(&["standard_pause", "--runs", "2"]).unwrap();
        assert_eq!(one, Wanted { json: false, runs: Some(2), measures: vec!["standard_pause"] });
    }

    #[test]
    fn an_unknown_measure_is_answered_with_the_known_ones() {
        let problem = read(&["standart_pause"]).unwrap_err();
        assert!(problem.contains("`standart_pause`") && problem.contains("production_freeze_window"), "{problem}");
        assert!(read(&["--runs", "none"]).is_err() && read(&["--runs"]).is_err() && read(&["--runs", "0"]).is_err());
    }
}
