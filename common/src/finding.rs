//! Findings: what a look at the files of VMs, at their processes and at the catalogue found to be wrong.

use std::path::PathBuf;

use serde::Serialize;

use crate::{CheckpointId, VmId};

macro_rules! findings {
    ($($variant:ident, $code:literal, $advice:literal;)*) => {
        /// What kind of thing is wrong. Stable: a name is never reused for another meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum FindingKind {
            $(#[doc = $advice] #[serde(rename = $code)] $variant,)*
        }

        impl FindingKind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name: `LAYER_MISSING`.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What to do about it. Stillpoint does none of it by itself.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

findings! {
    LayerMissing, "LAYER_MISSING", "Put the file back; if it was moved, say where it is with `stillpoint vm reconnect`; if it is lost, delete the checkpoints that are MISSING.";
    LayerReplaced, "LAYER_REPLACED", "Find out who put another file there and put the right one back. If the new one is a true copy, `stillpoint vm reconnect` takes it.";
    LayerRewritten, "LAYER_REWRITTEN", "Somebody wrote to a layer that must not change: what reads through it may be damaged. Restore the file from a copy; `stillpoint vm reconnect` takes it as it is at your risk.";
    BackingDiffers, "BACKING_DIFFERS", "Find out who changed it. `qemu-img rebase -u` writes the right name back; the file it should name must be the right one.";
    BackingIsItself, "BACKING_IS_ITSELF", "The file would read itself for ever: it is used by nothing until `qemu-img rebase -u` has written the right name back.";
    BackingCycle, "BACKING_CYCLE", "The files name each other in a circle: they are used by nothing until `qemu-img rebase -u` has written the right name back.";
    LayerUnreadable, "LAYER_UNREADABLE", "Look at the file, its rights and the disk it lies on; `qemu-img check` says more.";
    MemoryMissing, "MEMORY_MISSING", "Put the file back. Without it the checkpoint cannot be applied; it can be deleted.";
    MemoryDamaged, "MEMORY_DAMAGED", "The memory of this checkpoint cannot be used. Restore the file from a copy, or delete the checkpoint.";
    ForeignUser, "FOREIGN_USER", "End that process: two writers of one image destroy it.";
    UnknownLayer, "UNKNOWN_LAYER", "Left by a crash, or made by somebody else: if nobody needs it, remove it by hand.";
    UnknownFile, "UNKNOWN_FILE", "Left by a crash: if nothing of Stillpoint is at work, it can be removed by hand.";
    UnfinishedExport, "UNFINISHED_EXPORT", "Left by a crash in the middle of an export: it can be removed by hand.";
    DescriptionDiffers, "DESCRIPTION_DIFFERS", "The next operation on the VM writes it again, unless its checkpoint location cannot be written.";
    ProcessDiffers, "PROCESS_DIFFERS", "Shut the guest down: the next start uses the layers that the catalogue has.";
    ProcessSilent, "PROCESS_SILENT", "Its log may say why. `stillpoint vm stop VM --turn-off` ends it.";
    RecordUnreadable, "RECORD_UNREADABLE", "The catalogue is damaged: see `stillpoint host rebuild`.";
    Busy, "BUSY", "It was not looked for leftovers, since files come and go during an operation: check again when it has ended.";
}

impl FindingKind {
    /// Nothing is wrong; it is said so that nobody wonders.
    #[must_use]
    pub const fn is_note(self) -> bool {
        match self {
            Self::Busy => true,
            Self::LayerMissing
            | Self::LayerReplaced
            | Self::LayerRewritten
            | Self::BackingDiffers
            | Self::BackingIsItself
            | Self::BackingCycle
            | Self::LayerUnreadable
            | Self::MemoryMissing
            | Self::MemoryDamaged
            | Self::ForeignUser
            | Self::UnknownLayer
            | Self::UnknownFile
            | Self::UnfinishedExport
            | Self::DescriptionDiffers
            | Self::ProcessDiffers
            | Self::ProcessSilent
            | Self::RecordUnreadable => false,
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// Whose it is, if anybody's.
    pub vm: Option<VmId>,
    /// The file, if it is about one.
    pub path: Option<PathBuf>,
    /// What is wrong, for a person.
    pub message: String,
    /// Checkpoints that cannot be used because of it.
    pub checkpoints: Vec<CheckpointId>,
    /// Now cannot be used because of it.
    pub now: bool,
}
