//! Phases in words: `paused 14 ms`.

use crate::view::Phase;

use super::text;

/// `paused 14 ms, captured 1.2 s`; empty without phases.
pub(crate) fn line(phases: &[Phase]) -> String {
    phases.iter().map(phase).collect::<Vec<_>>().join(", ")
}

/// `paused 14 ms`
pub(crate) fn phase(phase: &Phase) -> String {
    format!("{} {}", past(&phase.name), text::took(phase.took_ms))
}

/// What was done in a phase, where we have a word for it; else its name.
fn past(name: &str) -> &str {
    match name {
        "attach" => "attached",
        "clock" => "set the clock in",
        "overlays" => "made overlays in",
        "seal" => "sealed in",
        "shutdown" => "shut down in",
        "capture" => "captured",
        "collect" => "collected",
        "copy" => "copied",
        "copy-memory" => "copied memory in",
        "cut" => "cut in",
        "finish" => "finished",
        "freeze" => "froze in",
        "launch" => "launched",
        "load" => "loaded",
        "merge" => "merged",
        "merge-pause" => "paused for the end of the merge",
        "pause" => "paused",
        "prepare" => "prepared",
        "publish" => "published",
        "restore" => "restored",
        "resume" => "resumed",
        "start" => "started",
        "stop" => "stopped",
        "thaw" => "thawed in",
        "verify" => "verified",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_read_as_a_sentence() {
        let phases = [("freeze", 38.2), ("cut", 3.0), ("thaw", 0.42), ("moon-landing", 2500.0)];
        let phases = phases.map(|(name, took_ms)| Phase { name: name.into(), took_ms });
        assert_eq!(line(&phases), "froze in 38 ms, cut in 3.0 ms, thawed in 0.4 ms, moon-landing 2.5 s");
    }
}
