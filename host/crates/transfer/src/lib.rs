//! Exports to folders, and imports from them.
//!
//! ```text
//!  stage:   <parent>/.<name>.<operation>.partial/     disks and memory are written here
//!  seal:    … + manifest.json, all synced, renamed to <parent>/<name>/
//! ```
//!
//! Until the rename nothing exists under the target's name; a folder without `manifest.json` is not an export.

mod copy;
mod folder;
mod source;

pub use folder::FolderExports;
