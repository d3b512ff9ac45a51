//! The TPM of a VM: whether it has one, and what a checkpoint keeps of it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Whether a VM has a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Tpm {
    /// None.
    #[default]
    Absent,
    /// A TPM 2.0, which is emulated.
    V2,
}

/// What a TPM keeps when it has no power, of one instant: its keys, its NV memory, its counters. Empty: it has never had
/// power.
///
/// These are secrets: they are written to the catalogue and to description files, and nowhere else.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TpmState(Vec<u8>);

impl TpmState {
    /// More than any TPM can have: libtpms has 128 KiB of NV memory at most.
    pub const MOST_BYTES: usize = 256 * 1024;

    /// These bytes.
    ///
    /// # Errors
    /// If there are more than a TPM can have.
    pub fn new(bytes: Vec<u8>) -> Result<Self, String> {
        match bytes.len() {
            0..=Self::MOST_BYTES => Ok(Self(bytes)),
            more => Err(format!("{more} bytes are more than the state of a TPM can have")),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TpmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TpmState({} bytes)", self.0.len())
    }
}

impl Serialize for TpmState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for TpmState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = from_hexadecimal(&text).ok_or_else(|| D::Error::custom("the state of a TPM is hexadecimal"))?;
        Self::new(bytes).map_err(D::Error::custom)
    }
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes.filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_written_as_text_and_read_back_and_never_printed() {
        let state = TpmState::new(vec![0, 15, 16, 255]).unwrap();
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(text, "\"000f10ff\"");
        assert_eq!(serde_json::from_str::<TpmState>(&text).unwrap(), state);
        assert_eq!(format!("{state:?}"), "TpmState(4 bytes)");
        for wrong in ["\"0\"", "\"0g\"", "\"+1\"", "7"] {
            assert!(serde_json::from_str::<TpmState>(wrong).is_err(), "{wrong}");
        }
        assert!(TpmState::new(vec![0; TpmState::MOST_BYTES + 1]).is_err());
    }
}
