//! Advice, and the question that hazards put before an apply.

use super::confirm;
use crate::{
    CliError,
    args::Consent,
    output::{table::section, text, warn},
    view::{Advice, Checkpoint, Hazard, ObservedService},
};

/// What is advised, why, and what could happen.
pub(super) fn advice(advice: &Advice) -> String {
    let reasons = advice.reasons.iter().map(|reason| format!("  {}", reason.text)).collect::<Vec<_>>().join("\n");
    let services = advice.services.iter();
    let services = services.map(|it: &ObservedService| [it.service.clone(), text::word(it.role), it.evidence.clone()]);
    let services = section("Seen in the guest", ["service", "role", "by"], services);
    format!("{}\n{reasons}{}{services}", text::word(advice.policy), hazards(&advice.hazards))
}

/// A table of hazards; nothing if there are none.
pub(super) fn hazards(hazards: &[Hazard]) -> String {
    let rows = hazards.iter().map(|hazard| [hazard.service.clone(), hazard.consequence.clone()]);
    section("Hazards", ["service", "what could happen after an apply"], rows)
}

/// Tells the hazards of a checkpoint before it is applied. `--yes` alone does not agree to them.
pub(super) fn ask(checkpoint: &Checkpoint, consent: Consent, accepted: bool) -> Result<(), CliError> {
    for hazard in &checkpoint.hazards {
        warn(&format!("{} ran in the guest: {}", hazard.service, hazard.consequence));
    }
    match (checkpoint.hazards.is_empty() || accepted, consent.yes) {
        (true, _) => Ok(()),
        (false, true) => Err(CliError::usage(
            "the checkpoint has hazards, and nobody can be asked about them",
            "Add --accept-hazards beside --yes if they are known and dealt with.",
        )),
        (false, false) => confirm::ask(consent, "Apply it all the same?"),
    }
}
