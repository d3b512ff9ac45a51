//! What the agent in a guest does for the host, and how it stands with it.

use jiff::Timestamp;
use stillpoint_common::VmId;

use super::Context;
use crate::{
    CliError,
    output::{Answer, table::table, text},
};

pub(super) async fn list(context: &Context, vm: &VmId) -> Result<Answer, CliError> {
    let contact = context.client.guest_contact(vm).await?;
    let rows = contact.services.iter().map(|it| [text::word(it.service), text::word(it.state), it.detail.clone()]);
    let heard = match contact.last_heard_time {
        Some(time) => {
            format!("\n\nlast heard {} ({})", text::time(Some(time)), text::age(Some(time), Timestamp::now()))
        }
        None => String::new(),
    };
    Answer::new(format!("{}{heard}", table(["service", "state", ""], rows)), &contact)
}
