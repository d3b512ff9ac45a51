//! Looking whether files, processes and descriptions are what the catalogue says. Says what it finds, and does nothing
//! about it.

mod decide;
mod look;

pub(crate) use self::{decide::users_of, look::check_vm};
