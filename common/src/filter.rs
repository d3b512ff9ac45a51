//! Choosing checkpoints and VMs: by pattern of the name, kind, age.

use std::{fmt, time::Duration};

use jiff::Timestamp;

use crate::{Checkpoint, CheckpointId, Kind};

/// A pattern of a name: `*` stands for any characters, `?` for one. Without either it is the name itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern that is written so.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether a name is meant by it. Takes no longer than the product of both lengths.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name): (Vec<char>, Vec<char>) = (self.0.chars().collect(), name.chars().collect());
        // Which beginnings of the name the pattern so far stands for.
        let mut reached = vec![false; name.len() + 1];
        reached[0] = true;
        for part in pattern {
            let before = std::mem::replace(&mut reached, vec![false; name.len() + 1]);
            for end in 0..=name.len() {
                reached[end] = match part {
                    '*' => before[end] || (end > 0 && reached[end - 1]),
                    one => end > 0 && before[end - 1] && (one == '?' || one == name[end - 1]),
                };
            }
        }
        reached[name.len()]
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Which checkpoints of a VM are meant: those for which everything that is given is true. Nothing given: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointFilter {
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Called so.
    pub name: Option<Pattern>,
    /// Older than this.
    pub older_than: Option<Duration>,
    /// Younger than this.
    pub younger_than: Option<Duration>,
    /// Made automatically, or not.
    pub automatic: Option<bool>,
    /// Kept for as long as they were to be kept, or not.
    pub expired: Option<bool>,
    /// That came right after this one.
    pub parent: Option<CheckpointId>,
}

impl CheckpointFilter {
    /// Whether this one is meant.
    #[must_use]
    pub fn admits(&self, checkpoint: &Checkpoint, now: Timestamp) -> bool {
        let age = Duration::try_from(now.duration_since(checkpoint.created)).unwrap_or_default();
        self.kind.is_none_or(|kind| kind == checkpoint.kind)
            && self.name.as_ref().is_none_or(|name| name.matches(checkpoint.name.as_str()))
            && self.older_than.is_none_or(|limit| age > limit)
            && self.younger_than.is_none_or(|limit| age < limit)
            && self.automatic.is_none_or(|automatic| automatic == checkpoint.remarks.automatic)
            && self.expired.is_none_or(|expired| expired == checkpoint.remarks.has_expired(now))
            && self.parent.is_none_or(|parent| Some(parent) == checkpoint.parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_the_whole_name() {
        let cases = [
            ("web1", "web1", true),
            ("web1", "web10", false),
            ("web*", "web10", true),
            ("*1*", "web10", true),
            ("w?b", "web", true),
            ("w?b", "wb", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("**é?", "caféx", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Pattern::new(pattern).matches(name), expected, "{pattern:?} and {name:?}");
        }
    }

    #[test]
    fn a_malicious_pattern_is_no_danger() {
        assert!(!Pattern::new("*a".repeat(100)).matches(&"a".repeat(99)));
    }
}
