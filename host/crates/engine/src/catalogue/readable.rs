//! Which type a record has, by its key.

use stillpoint_common::{
    Backup, Checkpoint, CheckpointId, Event, Failure, InstanceId, Layer, OperationId, Reason, ReferencePoint, Restore,
    Vm, VmId,
};

use super::{Standstill, keys, record::decode};
use crate::{describe::Debt, failing::FailureRecord, job::Job, points::Tracked};

/// Makes sure that this version can read a stored record.
///
/// # Errors
/// `CATALOGUE_DAMAGED`, with the key and what is wrong.
pub fn readable(key: &str, value: &[u8]) -> Result<(), Failure> {
    let kind = key.split('/').next().unwrap_or_default();
    match kind {
        "vm" => decode::<Vm>(key, value).map(drop),
        "checkpoint" => decode::<Checkpoint>(key, value).map(drop),
        "layer" | "leftover" => decode::<Layer>(key, value).map(drop),
        "file" => decode::<VmId>(key, value).map(drop),
        "job" => decode::<Job>(key, value).map(drop),
        "open" | "request" => decode::<OperationId>(key, value).map(drop),
        "hold" => decode::<InstanceId>(key, value).map(drop),
        "standstill" => decode::<Standstill>(key, value).map(drop),
        "restore" => decode::<Restore>(key, value).map(drop),
        "failure" => decode::<FailureRecord>(key, value).map(drop),
        "event" => decode::<Event>(key, value).map(drop),
        keys::FORGOTTEN_EVENTS => decode::<String>(key, value).map(drop),
        "leftover-memory" => decode::<CheckpointId>(key, value).map(drop),
        "reference-point" => decode::<ReferencePoint>(key, value).map(drop),
        "backup" => decode::<Backup>(key, value).map(drop),
        "tracked" => decode::<Tracked>(key, value).map(drop),
        "describe" => decode::<Debt>(key, value).map(drop),
        _ => Err(Failure::new(Reason::CatalogueDamaged, format!("the record {key} is of no kind that is known"))),
    }
}
