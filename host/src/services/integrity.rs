//! What the engine found out about files, as messages.

use std::path::Path;

use stillpoint_engine::{LeftFile, Rebuilt, TakenVm};
use stillpoint_proto::{convert::names, v1 as pb};

pub(super) fn rebuilt(rebuilt: Rebuilt) -> pb::RebuildCatalogueResponse {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let taken = |taken: TakenVm| pb::RebuiltVm {
        vm: names::vm(&taken.vm),
        file: text(&taken.file),
        checkpoints: count(taken.checkpoints),
        layers: count(taken.layers),
        running: taken.running,
        notes: taken.notes,
    };
    let left = |left: LeftFile| pb::LeftDescription { file: text(&left.file), why: left.why };
    pb::RebuildCatalogueResponse {
        taken: rebuilt.taken.into_iter().map(taken).collect(),
        left: rebuilt.left.into_iter().map(left).collect(),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
