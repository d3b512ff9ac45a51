//! Choosing some of a VM's checkpoints.

use stillpoint_common::VmId;
use stillpoint_proto::convert::names;

use super::Context;
use crate::{
    CliError,
    args::{FilterFlags, KindArg},
    view::Checkpoint,
};

/// Those of a VM's checkpoints that are meant, oldest first.
pub(super) async fn checkpoints(
    context: &Context,
    vm: &VmId,
    flags: &FilterFlags,
) -> Result<Vec<Checkpoint>, CliError> {
    let mut terms = terms(flags);
    if let Some(parent) = &flags.children_of {
        let parent = context.client.find_checkpoint(vm, parent).await?;
        terms.push(format!("parent = {}", names::checkpoint(vm, parent.id)));
    }
    let mut found = context.client.filter_checkpoints(vm, &terms.join(" AND ")).await?;
    if let Some(child) = &flags.parent_of {
        let child = context.client.find_checkpoint(vm, child).await?;
        found.retain(|checkpoint| Some(checkpoint.id) == child.parent);
    }
    Ok(found)
}

/// What the service can be told at once.
fn terms(flags: &FilterFlags) -> Vec<String> {
    let kind = flags.kind.map(|kind| match kind {
        KindArg::Production => "kind = PRODUCTION".to_owned(),
        KindArg::Standard => "kind = STANDARD".to_owned(),
    });
    let name = flags.name.as_ref().map(|pattern| format!("name = \"{pattern}\""));
    let older = flags.older_than.as_ref().map(|age| format!("age > {age}"));
    let younger = flags.younger_than.as_ref().map(|age| format!("age < {age}"));
    let automatic = flags.automatic.then(|| "automatic = true".to_owned());
    let expired = flags.expired.then(|| "expired = true".to_owned());
    [kind, name, older, younger, automatic, expired].into_iter().flatten().collect()
}
