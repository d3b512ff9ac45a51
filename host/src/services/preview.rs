//! What a deletion would do, as a message.

use stillpoint_common::{LayerFile, MergeDirection, VmId};
use stillpoint_engine::{DeletePreview, Doomed, PlannedMerge};
use stillpoint_proto::{
    convert::{finding, request, time},
    v1 as pb,
};

pub(super) fn doomed(asked: request::PreviewDelete) -> Doomed {
    match asked {
        request::PreviewDelete::These(ids) => Doomed::These(ids),
        request::PreviewDelete::Subtree(root) => Doomed::Subtree(root),
    }
}

pub(super) fn preview(vm: &VmId, preview: &DeletePreview) -> pb::DeletePreview {
    let files = |files: &[LayerFile]| files.iter().map(path).collect();
    pb::DeletePreview {
        checkpoints: finding::checkpoints(vm, &preview.checkpoints),
        merges: preview.merges.iter().map(merge).collect(),
        removed_files: files(&preview.removed),
        kept_files: files(&preview.kept),
        move_bytes: preview.merges.iter().map(|merge| merge.bytes).fold(0, u64::saturating_add),
        needed_bytes: preview.space_needed,
        freed_bytes: preview.freed,
        memory_bytes: preview.memory_bytes,
        estimated_time: preview.takes.map(time::duration),
    }
}

fn merge(merge: &PlannedMerge) -> pb::MergePreview {
    pb::MergePreview {
        disk: merge.disk.to_string(),
        from: path(&merge.from),
        into: path(&merge.into),
        bytes: merge.bytes,
        grows_bytes: merge.grows,
        direction: direction(merge.direction).into(),
    }
}

const fn direction(direction: MergeDirection) -> pb::MergeDirection {
    match direction {
        MergeDirection::Down => pb::MergeDirection::Down,
        MergeDirection::Up => pb::MergeDirection::Up,
    }
}

fn path(file: &LayerFile) -> String {
    file.path.display().to_string()
}
