//! How answers look. Answers go to standard output, everything else to standard error.

pub(crate) mod follow;
pub(crate) mod phases;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod tree;

use std::io::{self, Write as _};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::{Value, json};

use crate::CliError;

/// What a command answers, for a person and for a program.
#[derive(Debug)]
pub(crate) struct Answer {
    text: String,
    json: Value,
    code: u8,
}

impl Answer {
    /// The same answer twice: as text, and as the document that `--json` prints.
    pub(crate) fn new(text: impl Into<String>, document: &impl Serialize) -> Result<Self, CliError> {
        let json = serde_json::to_value(document);
        let json =
            json.map_err(|error| CliError::Io { what: "cannot print the answer".into(), source: error.into() })?;
        Ok(Self { text: text.into(), json, code: 0 })
    }

    /// An answer that the program ends with another code for.
    pub(crate) fn ends_with(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The code that the program ends with.
    pub(crate) const fn code(&self) -> u8 {
        self.code
    }
}

/// How the user wants to see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// As JSON.
    pub(crate) json: bool,
}

impl Output {
    /// Prints an answer. A reader that went away is no error.
    pub(crate) fn answer(self, answer: &Answer) -> io::Result<()> {
        let text = if self.json { format!("{:#}", answer.json) } else { answer.text.clone() };
        if text.is_empty() {
            return Ok(());
        }
        match writeln!(anstream::stdout(), "{}", text.trim_end()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Prints one of many answers, on a line of its own.
    pub(crate) fn line(self, text: &str, document: &impl Serialize) -> io::Result<()> {
        let json = || serde_json::to_string(document).map_err(io::Error::from);
        let text = if self.json { json()? } else { text.to_owned() };
        writeln!(anstream::stdout(), "{text}")
    }

    /// Prints why it was not done, and what to do.
    pub(crate) fn error(self, error: &CliError) {
        if self.json {
            let (reason, field, advice) = (error.reason(), error.field(), error.advice());
            let message = error.to_string();
            let document = json!({"error": {"reason": reason, "message": message, "advice": advice, "field": field}});
            // Nobody is left to tell if this fails.
            let _ = writeln!(anstream::stdout(), "{document:#}");
            return;
        }
        say("error", AnsiColor::Red, &error.to_string());
        if let Some(reason) = error.reason() {
            note(&format!("reason: {reason}"));
        }
        if let Some(advice) = error.advice() {
            note(&format!("what to do: {advice}"));
        }
    }
}

/// Prints what the user should know although it went well.
pub(crate) fn warn(text: &str) {
    say("warning", AnsiColor::Yellow, text);
}

/// Prints a line beside the answer.
pub(crate) fn note(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(anstream::stderr(), "{text}");
}

fn say(what: &str, color: AnsiColor, text: &str) {
    let style = Style::new().bold().fg_color(Some(color.into()));
    note(&format!("{style}{what}:{style:#} {text}"));
}
