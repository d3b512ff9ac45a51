//! What goes wrong on a developer's machine, as a sentence that says what to do about it.

use std::fmt;
use std::io;
use std::path::Path;

/// A sentence for the person at the terminal. Nothing decides by it, so it has no kinds.
#[derive(Debug)]
pub(crate) struct Problem(String);

/// The result of a step that may stop the run with a sentence.
pub(crate) type Outcome<T = ()> = Result<T, Problem>;

impl Problem {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// For `map_err`: the file that an I/O error is about, and the error.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self(format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
