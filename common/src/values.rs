//! Keys with values that a host and its guest tell each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 512;
/// The longest value, in bytes.
pub const MAX_VALUE: usize = 2048;
/// The most values of one side.
pub const MAX_VALUES: usize = 128;
/// The most bytes of keys and values of one side, together.
pub const MAX_BYTES: usize = 64 * 1024;

/// Values by their keys: never too many, never too long.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyValues(BTreeMap<String, String>);

/// A value that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The key is empty.
    #[error("the key is empty")]
    NoKey,
    /// The key is too long.
    #[error("the key has {0} bytes, more than {MAX_KEY}")]
    LongKey(usize),
    /// The value is too long.
    #[error("the value of {0:?} has {1} bytes, more than {MAX_VALUE}")]
    LongValue(String, usize),
    /// Something in it would do things to a terminal.
    #[error("the key or value of {0:?} has control characters in it")]
    Control(String),
    /// There are too many.
    #[error("there are {MAX_VALUES} values already, or {MAX_BYTES} bytes of them")]
    TooMany,
}

impl KeyValues {
    /// Sets a value, in the place of the one that the key had.
    ///
    /// # Errors
    /// It is out of bounds; then nothing has changed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ValueError> {
        if key.is_empty() {
            return Err(ValueError::NoKey);
        }
        if key.len() > MAX_KEY {
            return Err(ValueError::LongKey(key.len()));
        }
        if value.len() > MAX_VALUE {
            return Err(ValueError::LongValue(key.to_owned(), value.len()));
        }
        let breaks = |c: char| matches!(c, '\n' | '\t');
        if key.chars().any(char::is_control) || value.chars().any(|c| c.is_control() && !breaks(c)) {
            return Err(ValueError::Control(key.to_owned()));
        }
        let others = self.0.iter().filter(|(known, _)| *known != key);
        let (count, bytes) = others.fold((1, key.len() + value.len()), |(count, bytes), (key, value)| {
            (count + 1, bytes + key.len() + value.len())
        });
        if count > MAX_VALUES || bytes > MAX_BYTES {
            return Err(ValueError::TooMany);
        }
        self.0.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// Forgets a key. Whether it was there.
    pub fn unset(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Those of a list that can be kept, as far as there is room: what a stranger says is never trusted.
    pub fn kept<'a>(told: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut kept = Self::default();
        for (key, value) in told.into_iter().take(MAX_VALUES) {
            // What cannot be kept is left out.
            let _ = kept.set(key, value);
        }
        kept
    }

    /// Names this state: another one has another name.
    #[must_use]
    pub fn revision(&self) -> String {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut take = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        for (key, value) in &self.0 {
            // A byte that is in no text ends each.
            key.bytes().chain([0xff]).chain(value.bytes()).chain([0xff]).for_each(&mut take);
        }
        format!("{}-{hash:016x}", self.0.len())
    }
}

/// What a guest tells its host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToldValues {
    /// What was set in the guest.
    pub set: KeyValues,
    /// What its agent says by itself.
    pub intrinsic: KeyValues,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_within_bounds_and_nothing_changes_otherwise() {
        let mut values = KeyValues::default();
        values.set("role", "web").unwrap();
        values.set("role", "db\n2").unwrap();
        assert_eq!(values.iter().collect::<Vec<_>>(), [("role", "db\n2")]);
        assert_eq!(values.set("", "x"), Err(ValueError::NoKey));
        assert_eq!(values.set(&"k".repeat(513), "x"), Err(ValueError::LongKey(513)));
        values.set(&"k".repeat(512), &"v".repeat(2048)).unwrap();
        assert!(matches!(values.set("a", &"v".repeat(2049)), Err(ValueError::LongValue(_, 2049))));
        for (key, value) in [("a\n", "x"), ("a", "\u{1b}[2J"), ("a\0", "")] {
            assert!(matches!(values.set(key, value), Err(ValueError::Control(_))), "{key:?} {value:?}");
        }
        assert!(values.unset("role") && !values.unset("role"));
        assert_eq!(values.iter().count(), 1);
    }

    #[test]
    fn there_are_never_too_many_and_those_that_are_there_can_be_changed() {
        let mut values = KeyValues::default();
        (0..MAX_VALUES).for_each(|at| values.set(&format!("k{at}"), "v").unwrap());
        assert_eq!(values.set("more", ""), Err(ValueError::TooMany));
        values.set("k7", "another").unwrap();
        let mut large = KeyValues::default();
        (0..31).for_each(|at| large.set(&format!("{at}"), &"v".repeat(2048)).unwrap());
        assert_eq!(large.set("31", &"v".repeat(2048)), Err(ValueError::TooMany));
        let told: Vec<_> = (0..500).map(|at| (format!("k{at}"), "v".to_owned())).collect();
        let told = told.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        assert_eq!(KeyValues::kept(told.chain([("\u{7}", "bell")])).iter().count(), MAX_VALUES);
    }

    #[test]
    fn each_state_has_a_name_of_its_own() {
        let of = |pairs: &[(&str, &str)]| KeyValues::kept(pairs.iter().copied()).revision();
        let all = [of(&[]), of(&[("a", "b")]), of(&[("ab", "")]), of(&[("a", "c")]), of(&[("a", "b"), ("c", "")])];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
        assert_eq!(of(&[("a", "b")]), of(&[("a", "b")]));
    }
}
