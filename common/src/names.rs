//! Names that people give. Checked once, where they come in; a value of these types is always good.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a name is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing but white space.
    #[error("must not be empty or blank")]
    Blank,
    /// Longer than allowed.
    #[error("is {length} characters long, at most {limit} are allowed")]
    TooLong {
        /// How long it is.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A character that may not stand there.
    #[error("must be lower-case letters, digits and '-', and start with a letter; {found:?} is not")]
    Characters {
        /// The name as it came.
        found: String,
    },
    /// A character that may not stand in a label.
    #[error("must be letters, digits and any of '-_./='; {found:?} is not")]
    Label {
        /// The label as it came.
        found: String,
    },
    /// A line break or another control character.
    #[error("must not contain control characters")]
    Control,
}

fn slug(text: &str, limit: usize) -> Result<String, NameError> {
    if text.trim().is_empty() {
        return Err(NameError::Blank);
    }
    if text.len() > limit {
        return Err(NameError::TooLong { length: text.chars().count(), limit });
    }
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.chars().all(inner) {
        return Err(NameError::Characters { found: text.to_owned() });
    }
    Ok(text.to_owned())
}

fn title(text: &str) -> Result<String, NameError> {
    const LIMIT: usize = 100;
    let text = text.trim();
    let length = text.chars().count();
    if length == 0 {
        return Err(NameError::Blank);
    }
    if length > LIMIT {
        return Err(NameError::TooLong { length, limit: LIMIT });
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    Ok(text.to_owned())
}

fn label(text: &str) -> Result<String, NameError> {
    const LIMIT: usize = 63;
    if text.trim().is_empty() {
        return Err(NameError::Blank);
    }
    let length = text.chars().count();
    if length > LIMIT {
        return Err(NameError::TooLong { length, limit: LIMIT });
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '=');
    match text.chars().find(|c| !fits(*c)) {
        Some(_) => Err(NameError::Label { found: text.to_owned() }),
        None => Ok(text.to_owned()),
    }
}

/// Text of several lines, or none.
fn prose(text: &str) -> Result<String, NameError> {
    const LIMIT: usize = 4_096;
    let length = text.chars().count();
    if length > LIMIT {
        return Err(NameError::TooLong { length, limit: LIMIT });
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(NameError::Control);
    }
    Ok(text.trim_end().to_owned())
}

macro_rules! name {
    ($(#[$more:meta])* $name:ident, $check:expr, $doc:literal) => {
        #[doc = $doc]
        $(#[$more])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<String, NameError> = $check;
                check(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(VmId, |text| slug(text, 63), "The name of a VM, unique on its host: `web1`. It never changes.");
name!(DiskName, |text| slug(text, 20), "The name of a disk, unique in its VM: `system`.");
name!(CheckpointName, title, "What people call a checkpoint. Not blank, at most 100 characters; need not be unique.");
name!(
    Label,
    label,
    "A word to choose VMs by: `web`, `site=north`. Letters, digits and `-_./=`, at most 63 characters."
);
name!(
    #[derive(Default)]
    Notes,
    prose,
    "Free text of people's, at most 4,096 characters; may be empty."
);

impl DiskName {
    /// The name of the firmware's variables among the disks of a VM.
    #[must_use]
    pub fn uefi_variables() -> Self {
        Self(crate::UEFI_VARIABLES.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_name_may_be_anything_that_can_be_read() {
        assert_eq!("  before the upgrade ".parse::<CheckpointName>().unwrap().as_str(), "before the upgrade");
        assert_eq!("é".repeat(100).parse::<CheckpointName>().map(|n| n.as_str().chars().count()), Ok(100));
        assert_eq!(" \t".parse::<CheckpointName>(), Err(NameError::Blank));
        assert_eq!("x".repeat(101).parse::<CheckpointName>(), Err(NameError::TooLong { length: 101, limit: 100 }));
        assert_eq!("a\nb".parse::<CheckpointName>(), Err(NameError::Control));
    }

    #[test]
    fn a_label_is_one_word() {
        assert!(["web", "site=north", "a.b/c-d_e", "42"].iter().all(|label| label.parse::<Label>().is_ok()));
        assert!(["", "two words", "a,b", "*"].iter().all(|label| label.parse::<Label>().is_err()));
    }

    #[test]
    fn notes_may_have_lines_and_may_be_empty() {
        assert_eq!("one\n\ttwo\n".parse::<Notes>().unwrap().as_str(), "one\n\ttwo");
        assert_eq!("".parse::<Notes>(), Ok(Notes::default()));
        assert_eq!("x".repeat(4097).parse::<Notes>(), Err(NameError::TooLong { length: 4097, limit: 4096 }));
        assert_eq!("a\u{1b}[2J".parse::<Notes>(), Err(NameError::Control), "no terminal is written to by a note");
    }

    #[test]
    fn a_vm_name_is_fit_for_a_path_and_a_resource_name() {
        assert!("web-1".parse::<VmId>().is_ok());
        for bad in ["", "1web", "Web", "a/b", "..", "a b", "a_b", "é"] {
            assert!(bad.parse::<VmId>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(64).parse::<VmId>().is_err());
    }
}
