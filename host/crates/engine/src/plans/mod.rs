//! The plans: what each operation does, step by step.

mod apply;
mod automatic;
mod backup;
mod collect;
mod create;
mod critical;
mod delete;
mod detached;
mod devices;
mod discard;
mod disks;
mod execute;
mod export;
mod forget_memory;
mod hazards;
mod held;
mod import;
mod machine;
mod power;
mod room;
mod save;
mod settle;
mod unsupported;
mod wake;

pub(crate) use self::{
    apply::landing,
    create::kind_of,
    critical::{describe as describe_critical, find as find_critical},
    delete::mark_gone,
    disks::{chain_files, verify_layers},
    execute::{collection_is_due, execute, recover},
    held::release as release_memory,
    settle::{note_panic, release_hold, settle, without_process},
};
