//! How the story looks on the terminal: numbered parts, what is typed and its output, ✓ for what was proven.
//! Colour only on a terminal, and not with `NO_COLOR`.

use std::{fmt::Display, io::Write as _, path::Path, time::Duration};

use anstyle::{AnsiColor, Style};
use tokio::time::Instant;

use super::{Told, error::DemoError};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Tells the story and counts what was proven.
pub(super) struct Teller {
    begun: Instant,
    part_begun: Instant,
    parts: usize,
    proofs: usize,
}

impl Teller {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { begun: now, part_begun: now, parts: 0, proofs: 0 }
    }

    /// Begins the next part; says how long the one before took.
    pub(super) fn part(&mut self, title: &str) {
        self.end_part();
        self.parts += 1;
        line(&format!("\n{BOLD}{}. {title}{BOLD:#}", self.parts));
    }

    fn end_part(&mut self) {
        if self.parts > 0 {
            line(&format!("   {DIM}({}){DIM:#}", duration(self.part_begun.elapsed())));
        }
        self.part_begun = Instant::now();
    }

    /// A sentence that needs no proof: what was done, and why.
    pub(super) fn say(&self, text: &str) {
        line(&format!("   {text}"));
    }

    /// What is typed.
    pub(super) fn typed(&self, command: &str) {
        line(&format!("   {BOLD}${BOLD:#} {command}"));
    }

    /// What a command printed.
    pub(super) fn printed(&self, text: &str) {
        for printed in text.lines() {
            line(&format!("     {DIM}{printed}{DIM:#}"));
        }
    }

    /// A sentence that ends with what was seen, and holds if that was expected.
    pub(super) fn same<T: PartialEq<U> + Display, U: Display>(&mut self, claim: &str, seen: T, expected: U) -> Told {
        let holds = seen == expected;
        self.holds(&format!("{claim}: {seen}"), holds, expected, seen)
    }

    /// A sentence that holds or not; what was expected and seen is said if not.
    pub(super) fn holds(&mut self, claim: &str, holds: bool, expected: impl Display, seen: impl Display) -> Told {
        if !holds {
            let (claim, expected, seen) = (claim.to_owned(), expected.to_string(), seen.to_string());
            return Err(DemoError::NotSo { claim, expected, seen });
        }
        let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
        line(&format!("   {green}✓{green:#} {claim}"));
        self.proofs += 1;
        Ok(())
    }

    /// The last words of a story that held.
    pub(super) fn all_is_so(&mut self) {
        self.end_part();
        let took = duration(self.begun.elapsed());
        line(&format!("\n{BOLD}All of it is so: {} proofs in {took}.{BOLD:#}", self.proofs));
    }

    /// The last words of one that did not.
    pub(super) fn failed(&self, error: &DemoError) {
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        let mut lines = error.to_string();
        if let Some(end) = lines.find('\n') {
            lines.insert_str(end, &format!("{red:#}"));
        }
        line(&format!("\n   {red}✗ {lines}{red:#}"));
        line(&format!("   {DIM}(after {}){DIM:#}", duration(self.begun.elapsed())));
    }

    /// Where to look for more.
    pub(super) fn logs_kept(&self, kept: std::io::Result<impl AsRef<Path>>) {
        match kept {
            Ok(folder) => {
                line(&format!("\n   logs of the service, of QEMU and of the guest: {}", folder.as_ref().display()))
            }
            Err(error) => line(&format!("\n   the logs could not be kept: {error}")),
        }
    }
}

/// `62 ms`, `1.2 s`
pub(super) fn duration(time: Duration) -> String {
    milliseconds(time.as_secs_f64() * 1000.0)
}

/// `0.4 ms`, `62 ms`, `1.2 s`
pub(super) fn milliseconds(ms: f64) -> String {
    match ms {
        ..9.95 => format!("{ms:.1} ms"),
        ..999.5 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}

fn line(text: &str) {
    // A reader that went away must not keep the demo from cleaning up.
    let _ = writeln!(anstream::stdout(), "{text}");
}
