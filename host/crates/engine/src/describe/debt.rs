//! Which description files are not in line with the catalogue. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use stillpoint_common::{Checkpoint, CheckpointId, LayerId};

use crate::forest::Forest;

/// What of a VM's description files is owed. Whatever is owed, the VM's own file is too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<String>", into = "Option<String>")]
pub(crate) enum Debt {
    /// All files.
    All,
    /// No more than the VM's own file.
    Own,
    /// The file of a checkpoint, which is to go if there is no such checkpoint.
    Checkpoint(CheckpointId),
    /// The files of the checkpoints that read through this layer.
    Layer(LayerId),
}

impl Debt {
    /// The end of its key.
    pub(crate) fn key(self) -> String {
        Option::<String>::from(self).unwrap_or_else(|| "vm".to_owned())
    }

    /// The checkpoint whose file may have to go.
    pub(crate) const fn checkpoint(self) -> Option<CheckpointId> {
        match self {
            Self::Checkpoint(id) => Some(id),
            Self::All | Self::Own | Self::Layer(_) => None,
        }
    }
}

impl From<Debt> for Option<String> {
    fn from(debt: Debt) -> Self {
        match debt {
            Debt::All => None,
            Debt::Own => Some("own".to_owned()),
            Debt::Checkpoint(id) => Some(id.to_string()),
            Debt::Layer(id) => Some(format!("layer/{id}")),
        }
    }
}

impl From<Option<String>> for Debt {
    /// A word that is not understood stands for all files: too much is written then, and nothing stays wrong.
    fn from(word: Option<String>) -> Self {
        let Some(word) = word else { return Self::All };
        let layer = || word.strip_prefix("layer/")?.parse().ok().map(Self::Layer);
        let checkpoint = || word.parse().ok().map(Self::Checkpoint);
        if word == "own" { Self::Own } else { checkpoint().or_else(layer).unwrap_or(Self::All) }
    }
}

/// Which of these checkpoints have a file that is to be written.
pub(super) fn owed<'a>(debts: &[Debt], checkpoints: &'a [Checkpoint], forest: &Forest) -> Vec<&'a Checkpoint> {
    let changed = debts.iter().filter_map(|debt| match debt {
        Debt::Layer(id) => Some(*id),
        Debt::All | Debt::Own | Debt::Checkpoint(_) => None,
    });
    let above = forest.above(&changed.collect());
    let all = debts.contains(&Debt::All);
    let own: BTreeSet<CheckpointId> = debts.iter().filter_map(|debt| debt.checkpoint()).collect();
    let is_owed = |checkpoint: &&Checkpoint| {
        all || own.contains(&checkpoint.id) || checkpoint.disks.values().any(|head| above.contains(head))
    };
    checkpoints.iter().filter(is_owed).collect()
}
