//! Versions of QEMU and machine types whose streams we know.

use super::StreamError;

/// Machine types that we know the streams of, and after which their number follows.
const MACHINES: [&str; 2] = ["pc-q35-", "pc-i440fx-"];

/// A version of QEMU that we read streams of: 7.2 or newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion {
    /// 10 of 10.0.2.
    pub major: u32,
    /// 0 of 10.0.2.
    pub minor: u32,
}

impl QemuVersion {
    const OLDEST: Self = Self { major: 7, minor: 2 };

    /// Reads what QEMU says of itself: `10.0.2`, perhaps with more words.
    ///
    /// # Errors
    /// [`StreamError::Qemu`] for an older one and for other words.
    pub fn supported(text: &str) -> Result<Self, StreamError> {
        let number = text.split([' ', '(']).next().unwrap_or_default();
        let mut parts = number.split('.').map(|part| part.parse().ok());
        match (parts.next().flatten(), parts.next().flatten()) {
            (Some(major), Some(minor)) if Self::OLDEST <= (Self { major, minor }) => Ok(Self { major, minor }),
            (_, _) => Err(StreamError::Qemu(text.to_owned())),
        }
    }
}

/// A PC with a number: without one it is another machine after each update of QEMU.
pub(super) fn check_machine(name: &str) -> Result<(), StreamError> {
    let number = MACHINES.iter().find_map(|family| name.strip_prefix(family));
    let numbered = number.is_some_and(|number| number.starts_with(|first: char| first.is_ascii_digit()));
    if numbered { Ok(()) } else { Err(StreamError::Machine(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_7_2_on_are_known_and_others_are_named() {
        for good in ["7.2.22", "7.2", "8.0.0", "10.0.2 (Debian 1:10.0.2)", "11.1.50"] {
            assert!(QemuVersion::supported(good).is_ok(), "{good}");
        }
        for bad in ["7.1.9", "2.12.0", "", "ten", "7"] {
            let error = QemuVersion::supported(bad).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn numbered_pcs_are_known_and_other_machines_are_named() {
        for good in ["pc-q35-7.2", "pc-q35-10.0", "pc-i440fx-9.2"] {
            assert_eq!(check_machine(good), Ok(()));
        }
        for bad in ["q35", "pc", "microvm", "virt-9.2", "pc-q35-", ""] {
            assert_eq!(check_machine(bad), Err(StreamError::Machine(bad.to_owned())));
        }
    }
}
