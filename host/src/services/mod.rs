//! The gRPC services: each call is read, handed to the engine, and answered. Nothing is decided here.

mod backups;
mod checkpoints;
mod events;
mod guests;
mod host;
mod images;
mod integrity;
mod operations;
mod peer;
mod preview;
mod read_disk;
mod respond;
mod transfers;
mod vms;

use stillpoint_common::Failure;
use stillpoint_proto::convert::failure;
use tonic::Status;

pub(crate) use self::{
    backups::Backups, checkpoints::Checkpoints, events::Events, guests::Guests, host::HostInfo, images::Images,
    operations::Operations, transfers::Transfers, vms::VirtualMachines,
};

/// A refusal as the status of a call. For `map_err`.
#[expect(clippy::needless_pass_by_value, reason = "map_err hands over the failure")]
fn refuse(failure: Failure) -> Status {
    failure::status(&failure)
}
