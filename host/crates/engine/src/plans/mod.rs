//! The plans: what each operation does, step by step.

mod apply;
mod automatic;
mod collect;
mod create;
mod critical;
mod delete;
mod devices;
mod disks;
mod execute;
mod export;
mod forget_memory;
mod hazards;
mod power;
mod room;
mod settle;

pub(crate) use self::{
    critical::{describe as describe_critical, find as find_critical},
    disks::chain_files,
    execute::{collection_is_due, execute, recover},
    settle::{release_hold, settle},
};
