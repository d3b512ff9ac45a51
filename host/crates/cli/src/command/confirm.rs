//! Asking before something is lost.

use std::io::{self, IsTerminal as _, Write as _};

use crate::{CliError, args::Consent};

/// Refuses at once where it would be needed to ask and nobody is there: a script is never held up.
pub(crate) fn can_ask(consent: Consent) -> Result<(), CliError> {
    if consent.yes || (io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(());
    }
    Err(CliError::usage(
        "this has to be confirmed, and there is no terminal to ask on",
        "Add --yes to agree beforehand.",
    ))
}

/// Asks, unless the answer was given beforehand.
pub(crate) fn ask(consent: Consent, question: &str) -> Result<(), CliError> {
    can_ask(consent)?;
    if consent.yes {
        return Ok(());
    }
    let failed = |source| CliError::Io { what: "cannot ask".to_owned(), source };
    let mut terminal = anstream::stderr();
    write!(terminal, "{question} [y/N] ").and_then(|()| terminal.flush()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CliError::NotConfirmed),
    }
}
