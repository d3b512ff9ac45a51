//! Requests of `Backups` that are about sessions.

use std::{ops::Range, time::Duration};

use stillpoint_common::{
    AskedConsistency, BackupId, BackupType, Consistency, DiskName, Failure, ReferencePointId, VmId,
};
use uuid::Uuid;

use super::request_id;
use crate::{
    convert::{
        known,
        names::{parse_backup, parse_reference_point, parse_vm},
        time, writer,
    },
    v1 as pb,
};

/// The shortest and the longest lease, and what it is if nobody says more.
const LEASES: (Duration, Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(24 * 3600), Duration::from_secs(600));

/// A backup session to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartBackup {
    /// Of which VM.
    pub vm: VmId,
    /// What it means for the history of the guest's applications.
    pub backup_type: BackupType,
    /// What the guest is asked for, and the least that is taken.
    pub asked: AskedConsistency,
    /// How long it lasts without a call of its client.
    pub lease: Duration,
    /// The point that it builds on.
    pub from_point: Option<ReferencePointId>,
    /// Names the request, if the caller wants it done once.
    pub request_id: Option<Uuid>,
}

/// Reads a `StartBackupRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn start_backup(request: &pb::StartBackupRequest) -> Result<StartBackup, Failure> {
    let vm = match &request.vms[..] {
        [vm] => parse_vm(vm, "vms")?,
        [] => return Err(Failure::field("vms", "must name a VM")),
        _ => {
            return Err(Failure::field(
                "vms",
                "must name one VM: a backup of several in one session is not possible yet",
            ));
        }
    };
    Ok(StartBackup {
        backup_type: writer::backup_type(known(request.backup_type, "backup_type")?),
        asked: asked(request)?,
        lease: lease(request.lease.as_ref())?,
        from_point: from_point(&vm, &request.from_point)?,
        request_id: request_id(&request.request_id)?,
        vm,
    })
}

fn asked(request: &pb::StartBackupRequest) -> Result<AskedConsistency, Failure> {
    let (wanted, least) = ("consistency", "least_consistency");
    let wanted = level(request.consistency, wanted)?.unwrap_or(Consistency::Application);
    let usual = if wanted == Consistency::Crash { Consistency::Crash } else { Consistency::FileSystem };
    let asked = AskedConsistency { wanted, least: level(request.least_consistency, least)?.unwrap_or(usual) };
    match asked.is_met_by(wanted) {
        true => Ok(asked),
        false => {
            Err(Failure::field("least_consistency", format!("must not be more than consistency, which is {wanted}")))
        }
    }
}

/// `None` for UNSPECIFIED.
fn level(value: i32, field: &str) -> Result<Option<Consistency>, Failure> {
    match known(value, field)? {
        pb::Consistency::Unspecified => Ok(None),
        pb::Consistency::Application => Ok(Some(Consistency::Application)),
        pb::Consistency::FileSystem => Ok(Some(Consistency::FileSystem)),
        pb::Consistency::Crash => Ok(Some(Consistency::Crash)),
        pb::Consistency::Memory | pb::Consistency::Offline => {
            Err(Failure::field(field, "must be APPLICATION, FILE_SYSTEM or CRASH"))
        }
    }
}

fn lease(lease: Option<&prost_types::Duration>) -> Result<Duration, Failure> {
    let (shortest, longest, usual) = LEASES;
    let Some(lease) = lease else { return Ok(usual) };
    let lease = time::parse_duration(lease).filter(|lease| (shortest..=longest).contains(lease));
    lease.ok_or_else(|| Failure::field("lease", "must be between 10 seconds and 24 hours"))
}

fn from_point(vm: &VmId, text: &str) -> Result<Option<ReferencePointId>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let (of, point) = parse_reference_point(text, "from_point")?;
    let other = || Failure::field("from_point", format!("is of VM {of}, and the backup of VM {vm}"));
    (of == *vm).then_some(Some(point)).ok_or_else(other)
}

/// Reads a `GetBackupRequest`.
///
/// # Errors
/// The field that is wrong.
pub fn get_backup(request: &pb::GetBackupRequest) -> Result<(VmId, BackupId), Failure> {
    parse_backup(&request.name, "name")
}

/// Reads a `ListBackupsRequest`.
///
/// # Errors
/// The field that is wrong.
pub fn list_backups(request: &pb::ListBackupsRequest) -> Result<VmId, Failure> {
    parse_vm(&request.parent, "parent")
}

/// Reads a `RenewBackupRequest`.
///
/// # Errors
/// The field that is wrong.
pub fn renew_backup(request: &pb::RenewBackupRequest) -> Result<(VmId, BackupId), Failure> {
    parse_backup(&request.name, "name")
}

/// Reads a `CompleteBackupRequest`: which session, and whether the point that it builds on goes.
///
/// # Errors
/// The field that is wrong.
pub fn complete_backup(request: &pb::CompleteBackupRequest) -> Result<(VmId, BackupId, bool), Failure> {
    parse_backup(&request.name, "name").map(|(vm, backup)| (vm, backup, request.replace_from_point))
}

/// Reads an `AbortBackupRequest`.
///
/// # Errors
/// The field that is wrong.
pub fn abort_backup(request: &pb::AbortBackupRequest) -> Result<(VmId, BackupId), Failure> {
    parse_backup(&request.name, "name")
}

/// Bytes of a disk of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadDisk {
    /// Whose.
    pub vm: VmId,
    /// Of which session.
    pub backup: BackupId,
    /// Which disk.
    pub disk: DiskName,
    /// Which bytes of it; up to `u64::MAX` if to its end.
    pub bytes: Range<u64>,
}

/// Reads a `ReadDiskRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn read_disk(request: &pb::ReadDiskRequest) -> Result<ReadDisk, Failure> {
    let (vm, backup, disk) = disk_of(&request.backup, &request.disk)?;
    let start = request.offset_bytes;
    let end = match request.length_bytes {
        0 => u64::MAX,
        length => start.saturating_add(length),
    };
    Ok(ReadDisk { vm, backup, disk, bytes: start..end })
}

/// Reads an `OpenDiskRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn open_disk(request: &pb::OpenDiskRequest) -> Result<(VmId, BackupId, DiskName), Failure> {
    disk_of(&request.backup, &request.disk)
}

fn disk_of(backup: &str, disk: &str) -> Result<(VmId, BackupId, DiskName), Failure> {
    let (vm, backup) = parse_backup(backup, "backup")?;
    let disk = disk.parse().map_err(|problem| Failure::field("disk", problem))?;
    Ok((vm, backup, disk))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> pb::StartBackupRequest {
        pb::StartBackupRequest { vms: vec!["vms/web".to_owned()], ..pb::StartBackupRequest::default() }
    }

    #[test]
    fn what_a_backup_asks_for_is_read_and_what_cannot_be_names_its_field() {
        use pb::Consistency as C;
        let with = |consistency: C, least: C| pb::StartBackupRequest {
            consistency: consistency.into(),
            least_consistency: least.into(),
            ..request()
        };
        let asked = |request| start_backup(&request).map(|read| (read.asked.wanted, read.asked.least));
        assert_eq!(asked(request()), Ok((Consistency::Application, Consistency::FileSystem)));
        assert_eq!(asked(with(C::Crash, C::Unspecified)), Ok((Consistency::Crash, Consistency::Crash)));
        assert_eq!(asked(with(C::Application, C::Crash)), Ok((Consistency::Application, Consistency::Crash)));
        let read = start_backup(&request()).unwrap();
        assert_eq!((read.lease, read.backup_type), (Duration::from_secs(600), BackupType::Copy));
        let two = vec!["vms/web".to_owned(), "vms/db".to_owned()];
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let other = "vms/db/referencePoints/01900000-0000-7000-8000-000000000001".to_owned();
        for (wrong, field) in [
            (pb::StartBackupRequest { vms: two, ..request() }, "vms"),
            (pb::StartBackupRequest { vms: vec![], ..request() }, "vms"),
            (with(C::Memory, C::Unspecified), "consistency"),
            (with(C::Crash, C::FileSystem), "least_consistency"),
            (with(C::Application, C::Offline), "least_consistency"),
            (pb::StartBackupRequest { lease: seconds(9), ..request() }, "lease"),
            (pb::StartBackupRequest { lease: seconds(86401), ..request() }, "lease"),
            (pb::StartBackupRequest { from_point: other, ..request() }, "from_point"),
        ] {
            let refused = start_backup(&wrong).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some(field), "{refused}");
        }
    }
}
