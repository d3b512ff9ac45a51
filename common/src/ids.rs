//! Ids. Each is its own type, so that none is ever taken for another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what} id: expected {expected}")]
pub struct IdError {
    what: &'static str,
    text: String,
    expected: &'static str,
}

macro_rules! uuid_id {
    ($name:ident, $what:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, later in order than every id made before it.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id that stands for these bits.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The bits of the id.
            #[must_use]
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let uuid = Uuid::try_parse(text);
                uuid.map(Self).map_err(|_| IdError { what: $what, text: text.to_owned(), expected: "a UUID" })
            }
        }
    };
}

uuid_id!(CheckpointId, "checkpoint", "Names one checkpoint, for ever.");
uuid_id!(OperationId, "operation", "Names one operation, for ever.");
uuid_id!(
    MemoryId,
    "memory state",
    "Names one memory state: a checkpoint's, which has the checkpoint's id, or a saved VM's."
);
uuid_id!(BackupId, "backup", "Names one backup session, for ever.");
uuid_id!(ReferencePointId, "reference point", "Names one reference point, for ever.");
uuid_id!(SessionId, "quiesce session", "Names one quiesce session, from prepare to finish.");

impl From<CheckpointId> for MemoryId {
    fn from(checkpoint: CheckpointId) -> Self {
        Self(checkpoint.0)
    }
}

macro_rules! hex_id {
    ($name:ident, $what:literal, $bytes:literal, $expected:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// A new id, different from every other.
            #[must_use]
            pub fn generate() -> Self {
                let mut bytes = [0; $bytes];
                bytes.copy_from_slice(&Uuid::new_v4().as_bytes()[16 - $bytes..]);
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = || IdError { what: $what, text: text.to_owned(), expected: $expected };
                if text.len() != 2 * $bytes || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
                    return Err(wrong());
                }
                let mut bytes = [0; $bytes];
                for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
                    *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
                }
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

hex_id!(
    LayerId,
    "layer",
    12,
    "24 lower-case hexadecimal digits",
    "Names one layer. Short enough to be part of a QEMU node name, so that a running VM tells which layer is where."
);
hex_id!(
    InstanceId,
    "instance",
    8,
    "16 lower-case hexadecimal digits",
    "Names one QEMU process of a VM. A start or an apply makes a new one; a reboot of the guest does not."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text() {
        let layer = LayerId::generate();
        assert_eq!(layer.to_string().parse(), Ok(layer));
        let instance = InstanceId::generate();
        assert_eq!(instance.to_string().parse(), Ok(instance));
        let checkpoint = CheckpointId::generate();
        assert_eq!(checkpoint.to_string().parse(), Ok(checkpoint));
    }

    #[test]
    fn a_text_that_is_no_id_is_refused_and_quoted() {
        for text in ["", "zz", "00112233445566778899aabbc", "00112233445566778899AABB", "é0112233445566778899aab"] {
            let error = text.parse::<LayerId>().unwrap_err();
            assert!(error.to_string().contains("24 lower-case hexadecimal digits"), "{error}");
        }
        assert!("web".parse::<CheckpointId>().is_err());
    }

    #[test]
    fn ids_of_checkpoints_sort_by_time() {
        let ids: Vec<_> = (0..100).map(|_| CheckpointId::generate()).collect();
        assert!(ids.is_sorted());
    }
}
