//! The only place where wire becomes domain and back.
//!
//! - [`names`]: resource names, `vms/{vm}/checkpoints/{checkpoint}`.
//! - [`spec`], [`medium`], [`settings`], [`policy`], [`time`]: the parts that messages share, both ways.
//! - [`request`]: what clients ask, checked; a wrong field is refused with its path.
//! - [`vm`], [`checkpoint`], [`backup`], [`guest`], [`advice`], [`operation`]: what clients are answered.
//! - [`critical`]: VMs that stand still by themselves.
//! - `event`: what happened
//! - [`failure`]: refusals, both ways; [`finding`]: what a check found.
//! - [`writer`]: what is known of writers, both ways.
//! - [`page`]: pages of a list.
//! - [`status_line`]: the state of a VM in words.
//!
//! Nothing here decides: a message says the same as the value it was made of.

pub mod advice;
pub mod backup;
pub mod checkpoint;
pub mod contact;
pub mod critical;
pub mod event;
pub mod failure;
pub mod finding;
pub mod guest;
pub mod medium;
pub mod names;
pub mod operation;
pub mod page;
pub mod policy;
pub mod request;
pub mod settings;
pub mod spec;
pub mod status_line;
pub mod time;
pub mod vm;
pub mod writer;

use stillpoint_common::Failure;

/// The value of an enum field that this version knows, [`Failure`] for any other.
pub(crate) fn known<E: TryFrom<i32>>(value: i32, field: &str) -> Result<E, Failure> {
    E::try_from(value).map_err(|_| Failure::field(field, format!("{value} is not a value that this service knows")))
}

/// `field` inside `parent`, where `parent` may be empty.
pub(crate) fn inside(parent: &str, field: &str) -> String {
    if parent.is_empty() { field.to_owned() } else { format!("{parent}.{field}") }
}
