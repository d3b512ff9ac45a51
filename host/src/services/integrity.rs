//! What the engine found out about files, as messages.

use std::path::Path;

use stillpoint_common::VmId;
use stillpoint_engine::{LayerView, LeftFile, Rebuilt, Reconnect, Reconnected, TakenVm};
use stillpoint_proto::{
    convert::{finding, names, request, time},
    v1 as pb,
};

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

pub(super) fn reconnect(asked: request::ReconnectLayers) -> (VmId, Reconnect) {
    let what = match asked.what {
        request::Reconnected::Layer(layer) => Reconnected::Layer(layer),
        request::Reconnected::Disk(disk) => Reconnected::Disk(disk),
    };
    (asked.vm, Reconnect { what, path: asked.path, accept_changed: asked.accept_changed })
}

pub(super) fn layers(vm: &VmId, views: Vec<LayerView>) -> Vec<pb::Layer> {
    views.into_iter().map(|view| layer(vm, view)).collect()
}

fn layer(vm: &VmId, view: LayerView) -> pb::Layer {
    let backing = view.backing.as_ref();
    pb::Layer {
        layer: view.layer.file.id.to_string(),
        disk: view.layer.disk.to_string(),
        path: text(&view.layer.file.path),
        format: view.layer.file.format.driver().to_owned(),
        backing_layer: backing.map(|backing| backing.id.to_string()).unwrap_or_default(),
        backing_path: backing.map(|backing| text(&backing.path)).unwrap_or_default(),
        virtual_bytes: view.layer.virtual_size,
        allocated_bytes: view.allocated.unwrap_or_default(),
        checkpoints: finding::checkpoints(vm, &view.checkpoints),
        now: view.now,
        frozen: view.layer.frozen.is_some(),
        missing: view.missing,
        problems: view.wrong,
        create_time: view.layer.made.map(time::timestamp),
        file_system: view.room.as_ref().map(|room| text(&room.mounted_on)).unwrap_or_default(),
        free_bytes: view.room.map(|room| room.free),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
