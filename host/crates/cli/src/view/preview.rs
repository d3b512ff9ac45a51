//! What a deletion would do.

use serde::Serialize;
use stillpoint_common::{CheckpointId, Failure};
use stillpoint_proto::{
    convert::{names, time},
    v1 as pb,
};

/// What a deletion would do to the layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeletePreview {
    /// Checkpoints that go.
    pub checkpoints: Vec<CheckpointId>,
    /// Merges, in their order.
    pub merges: Vec<MergePreview>,
    /// Files of layers that are removed without a merge.
    pub removed_files: Vec<String>,
    /// Files of layers that stay, unseen, until one lies on them.
    pub kept_files: Vec<String>,
    /// Bytes to move in all merges together.
    pub move_bytes: u64,
    /// Bytes that must be free for it at one time, at most.
    pub needed_bytes: u64,
    /// Bytes of disks that are free again afterwards, at least.
    pub freed_bytes: u64,
    /// Bytes of memory states that go.
    pub memory_bytes: u64,
    /// How long the merges will take; `null`: not known yet.
    pub estimated_time_ms: Option<f64>,
}

/// A merge of two neighbouring layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MergePreview {
    /// Name of the disk.
    pub disk: String,
    /// The file whose data moves, and which then goes.
    pub from: String,
    /// The file that takes the data.
    pub into: String,
    /// Bytes to move.
    pub bytes: u64,
    /// Bytes by which the receiving file grows, at most.
    pub grows_bytes: u64,
    /// `DOWN` or `UP`; `null` if this version does not know it.
    pub direction: Option<&'static str>,
}

impl TryFrom<pb::DeletePreview> for DeletePreview {
    type Error = Failure;

    fn try_from(preview: pb::DeletePreview) -> Result<Self, Failure> {
        let id = |name: &String| names::parse_checkpoint(name, "checkpoints").map(|(_, id)| id);
        let estimated = preview.estimated_time.as_ref().and_then(time::parse_duration);
        Ok(Self {
            checkpoints: preview.checkpoints.iter().map(id).collect::<Result<_, _>>()?,
            merges: preview.merges.into_iter().map(MergePreview::from).collect(),
            removed_files: preview.removed_files,
            kept_files: preview.kept_files,
            move_bytes: preview.move_bytes,
            needed_bytes: preview.needed_bytes,
            freed_bytes: preview.freed_bytes,
            memory_bytes: preview.memory_bytes,
            estimated_time_ms: estimated.map(|estimated| estimated.as_secs_f64() * 1000.0),
        })
    }
}

impl From<pb::MergePreview> for MergePreview {
    fn from(merge: pb::MergePreview) -> Self {
        let direction = match merge.direction() {
            pb::MergeDirection::Unspecified => None,
            pb::MergeDirection::Down => Some("DOWN"),
            pb::MergeDirection::Up => Some("UP"),
        };
        let pb::MergePreview { disk, from, into, bytes, grows_bytes, .. } = merge;
        Self { disk, from, into, bytes, grows_bytes, direction }
    }
}
