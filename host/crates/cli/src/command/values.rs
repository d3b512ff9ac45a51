//! What host and guest tell each other: `stillpoint guest list|get|set|unset`.

use stillpoint_common::VmId;

use super::Context;
use crate::{
    CliError,
    output::{Answer, table::table, warn},
    view::{GuestValues, Value},
};

pub(super) async fn list(context: &Context, vm: &VmId) -> Result<Answer, CliError> {
    let values = context.client.guest_values(vm).await?;
    if !values.unreachable.is_empty() {
        warn(&format!("what the guest tells is not known: {}", values.unreachable));
    }
    let row = |from: &'static str| move |it: &Value| [from.to_owned(), it.key.clone(), it.value.clone()];
    let rows = values.host.iter().map(row("HOST")).chain(values.guest.iter().map(row("GUEST")));
    let rows: Vec<_> = rows.chain(values.intrinsic.iter().map(row("INTRINSIC"))).collect();
    let text = if rows.is_empty() { "There are no values.".to_owned() } else { table(["from", "key", "value"], rows) };
    Answer::new(text, &values)
}

/// The value of one key: what the guest tells, or else what the host does.
pub(super) async fn get(context: &Context, vm: &VmId, key: &str) -> Result<Answer, CliError> {
    let values = context.client.guest_values(vm).await?;
    let GuestValues { host, guest, intrinsic, unreachable } = &values;
    let all = guest.iter().map(|it| ("GUEST", it));
    let mut all = all.chain(intrinsic.iter().map(|it| ("INTRINSIC", it))).chain(host.iter().map(|it| ("HOST", it)));
    match all.find(|(_, it)| it.key == key) {
        Some((from, it)) => {
            Answer::new(it.value.clone(), &serde_json::json!({"from": from, "key": it.key, "value": it.value}))
        }
        None => {
            let why = if unreachable.is_empty() { String::new() } else { format!("; {unreachable}") };
            let advice = "`stillpoint guest list VM` lists what there is.";
            Err(CliError::usage(format!("there is no value of {key:?}{why}"), advice))
        }
    }
}

pub(super) async fn set(context: &Context, vm: &VmId, values: &[(String, String)]) -> Result<Answer, CliError> {
    answer(vm, context.client.set_guest_values(vm, values, &[]).await?)
}

pub(super) async fn unset(context: &Context, vm: &VmId, keys: &[String]) -> Result<Answer, CliError> {
    answer(vm, context.client.set_guest_values(vm, &[], keys).await?)
}

fn answer(vm: &VmId, (values, given): (Vec<Value>, bool)) -> Result<Answer, CliError> {
    let said = match given {
        true => format!("the guest of {vm} has it"),
        false => format!("it is kept, and the guest of {vm} will have it when its agent answers"),
    };
    Answer::new(said, &serde_json::json!({"host": values, "given": given}))
}
