//! Resource names: `vms/{vm}`, `vms/{vm}/checkpoints/{checkpoint}`, `vms/{vm}/guest`,
//! `vms/{vm}/referencePoints/{reference_point}`, `vms/{vm}/backups/{backup}`, `operations/{operation}`.

use std::{fmt::Display, str::FromStr};

use stillpoint_common::{BackupId, CheckpointId, Failure, OperationId, ReferencePointId, VmId};

/// `vms/{vm}`
#[must_use]
pub fn vm(vm: &VmId) -> String {
    format!("vms/{vm}")
}

/// `vms/{vm}/checkpoints/{checkpoint}`
#[must_use]
pub fn checkpoint(vm: &VmId, checkpoint: CheckpointId) -> String {
    format!("vms/{vm}/checkpoints/{checkpoint}")
}

/// `vms/{vm}/referencePoints/{reference_point}`
#[must_use]
pub fn reference_point(vm: &VmId, point: ReferencePointId) -> String {
    format!("vms/{vm}/referencePoints/{point}")
}

/// `vms/{vm}/backups/{backup}`
#[must_use]
pub fn backup(vm: &VmId, backup: BackupId) -> String {
    format!("vms/{vm}/backups/{backup}")
}

/// `vms/{vm}/guest`
#[must_use]
pub fn guest(vm: &VmId) -> String {
    format!("vms/{vm}/guest")
}

/// `operations/{operation}`
#[must_use]
pub fn operation(operation: OperationId) -> String {
    format!("operations/{operation}")
}

/// Reads `vms/{vm}`.
///
/// # Errors
/// The text is something else; the failure names `field`.
pub fn parse_vm(text: &str, field: &str) -> Result<VmId, Failure> {
    match parts(text)[..] {
        ["vms", vm] => part(vm, text, field),
        _ => Err(shape(text, field, "vms/{vm}")),
    }
}

/// Reads `vms/{vm}/checkpoints/{checkpoint}`.
///
/// # Errors
/// The text is something else; the failure names `field`.
pub fn parse_checkpoint(text: &str, field: &str) -> Result<(VmId, CheckpointId), Failure> {
    match parts(text)[..] {
        ["vms", vm, "checkpoints", checkpoint] => Ok((part(vm, text, field)?, part(checkpoint, text, field)?)),
        _ => Err(shape(text, field, "vms/{vm}/checkpoints/{checkpoint}")),
    }
}

/// Reads `vms/{vm}/referencePoints/{reference_point}`.
///
/// # Errors
/// The text is something else; the failure names `field`.
pub fn parse_reference_point(text: &str, field: &str) -> Result<(VmId, ReferencePointId), Failure> {
    match parts(text)[..] {
        ["vms", vm, "referencePoints", point] => Ok((part(vm, text, field)?, part(point, text, field)?)),
        _ => Err(shape(text, field, "vms/{vm}/referencePoints/{reference_point}")),
    }
}

/// Reads `vms/{vm}/backups/{backup}`.
///
/// # Errors
/// The text is something else; the failure names `field`.
pub fn parse_backup(text: &str, field: &str) -> Result<(VmId, BackupId), Failure> {
    match parts(text)[..] {
        ["vms", vm, "backups", backup] => Ok((part(vm, text, field)?, part(backup, text, field)?)),
        _ => Err(shape(text, field, "vms/{vm}/backups/{backup}")),
    }
}

/// Reads `vms/{vm}/guest`.
///
/// # Errors
/// The text is something else; the failure names `field`.
pub fn parse_guest(text: &str, field: &str) -> Result<VmId, Failure> {
    match parts(text)[..] {
        ["vms", vm, "guest"] => part(vm, text, field),
        _ => Err(shape(text, field, "vms/{vm}/guest")),
    }
}

/// Reads `operations/{operation}`.
///
/// # Errors
/// The text is something else; the failure names `field`.
pub fn parse_operation(text: &str, field: &str) -> Result<OperationId, Failure> {
    match parts(text)[..] {
        ["operations", operation] => part(operation, text, field),
        _ => Err(shape(text, field, "operations/{operation}")),
    }
}

fn parts(text: &str) -> Vec<&str> {
    text.splitn(6, '/').collect()
}

fn part<T: FromStr<Err: Display>>(part: &str, whole: &str, field: &str) -> Result<T, Failure> {
    part.parse().map_err(|problem| Failure::field(field, format!("{:?}: {problem}", quoted(whole))))
}

fn shape(text: &str, field: &str, expected: &str) -> Failure {
    Failure::field(field, format!("must look like {expected}, not {:?}", quoted(text)))
}

/// As much of what a client sent as a message should repeat.
pub(crate) fn quoted(text: &str) -> String {
    const LIMIT: usize = 200;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    text.chars().take(LIMIT).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_another_shape_is_refused_and_the_field_is_named() {
        for text in ["", "vms", "vms/", "vms/web/", "vms/web/checkpoints", "vms/Web", "web", "/vms/web", "vms/../web"] {
            let failure = parse_vm(text, "name").unwrap_err();
            assert_eq!(failure.field.as_deref(), Some("name"), "{text}");
            assert!(failure.message.starts_with("name: "), "{}", failure.message);
        }
        let failure = parse_checkpoint("vms/web/checkpoints/first", "name").unwrap_err();
        assert!(failure.message.contains("expected a UUID"), "{}", failure.message);
        assert!(parse_checkpoint("vms/web", "name").unwrap_err().message.contains("vms/{vm}/checkpoints/{checkpoint}"));
        assert!(parse_guest("vms/web/host", "name").is_err());
        assert!(parse_operation("operations/7", "name").is_err());
    }

    #[test]
    fn a_very_long_name_is_not_repeated_in_full() {
        let failure = parse_vm(&"x".repeat(100_000), "name").unwrap_err();
        assert!(failure.message.len() < 400);
    }
}
