//! Live disk operations: overlays beside the running disks, and the switch to them.

use std::collections::BTreeSet;

use serde_json::json;
use stillpoint_common::LayerId;
use stillpoint_engine::ports::{HypervisorError, Overlay};

use crate::{
    attached::{Attached, refused},
    graph::Layers,
    nodes::{self, Access},
    qmp::commands::{BlockdevAdd, BlockdevDel, QueryBlockGraph, Transaction},
};

/// Opens overlays without their backing files: the switch lays them on the running heads.
pub(crate) async fn attach(at: &Attached, overlays: &[Overlay]) -> Result<(), HypervisorError> {
    let nodes = node_names(at).await?;
    for overlay in overlays {
        let layer = &overlay.file;
        let unsayable = |message| refused("blockdev-add", message);
        if !nodes.contains(&nodes::file_node(layer.id)) {
            let node = nodes::file(layer, Access::Write).map_err(unsayable)?;
            at.run(&BlockdevAdd { node }).await?;
        }
        if !nodes.contains(&nodes::format_node(layer.id)) {
            at.run(&BlockdevAdd { node: nodes::format(layer, None, Access::Write) }).await?;
        }
    }
    Ok(())
}

/// Closes layers that are open and in no chain.
pub(crate) async fn detach(at: &Attached, layers: &[LayerId]) -> Result<(), HypervisorError> {
    let graph = at.run(&QueryBlockGraph {}).await?;
    let in_chains = Layers::of(&graph);
    let nodes: BTreeSet<_> = graph.nodes.into_iter().map(|node| node.name).collect();
    for layer in layers.iter().filter(|layer| !in_chains.in_use(**layer)) {
        for name in [nodes::format_node(*layer), nodes::file_node(*layer)] {
            if nodes.contains(&name) {
                at.run(&BlockdevDel { node_name: &name }).await?;
            }
        }
    }
    Ok(())
}

/// Makes the overlays the heads of their disks in one QMP transaction, and nothing else: it may run while a guest is
/// held. Only if QEMU refuses do we look whether it is done already.
pub(crate) async fn switch(at: &Attached, overlays: &[Overlay]) -> Result<(), HypervisorError> {
    let action = |overlay: &Overlay| {
        let (node, overlay) = (nodes::format_node(overlay.backing), nodes::format_node(overlay.file.id));
        json!({"type": "blockdev-snapshot", "data": {"node": node, "overlay": overlay}})
    };
    if overlays.is_empty() {
        return Ok(());
    }
    match at.drain(&Transaction { actions: overlays.iter().map(action).collect() }).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let layers = at.layers().await?;
            let done = |overlay: &Overlay| {
                let chain = layers.chains.get(&overlay.disk);
                chain.is_some_and(|chain| chain.starts_with(&[overlay.file.id, overlay.backing]))
            };
            if overlays.iter().all(done) { Ok(()) } else { Err(error) }
        }
    }
}

async fn node_names(at: &Attached) -> Result<BTreeSet<String>, HypervisorError> {
    Ok(at.run(&QueryBlockGraph {}).await?.nodes.into_iter().map(|node| node.name).collect())
}
