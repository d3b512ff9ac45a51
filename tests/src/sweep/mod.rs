//! A deed done to a VM whose guest is nobody, by a real service on real images, which dies at one call of a port after the
//! other. Which calls there are is learned from the deed itself.

mod deeds;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use stillpoint_cli::{client::Client, view::Operation};
use stillpoint_common::{CheckpointId, OperationId, PowerState, VmId};

use crate::{audit::quiet, service::Service};

type Swept<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Calls that only look: to die at one is to have died after the last that changed something.
const LOOKS: &[&str] = &[
    "get",
    "scan",
    "observe",
    "process",
    "stat",
    "look",
    "look_at",
    "space",
    "users",
    "missing",
    "overlays_of",
    "beside",
    "allocated",
    "merge_growth",
    "extents",
    "host",
    "capabilities",
    "describe",
    "beat",
    "values",
    "memory.open",
    "memory.reach",
    "memory.unneeded",
    "descriptions.find",
    "descriptions.names",
    "exports.files",
    "exports.is_sealed",
    "endpoints.find",
    "tpm.take",
];

/// How long the service may take to come to a point, or an operation to its end.
const LIMIT: Duration = Duration::from_secs(60);
/// How long what is done may take to be written down in all places.
const SOON: Duration = Duration::from_secs(1);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// A checkpoint of a VM that is off.
    Create,
    /// The first of two checkpoints comes back.
    Apply,
    /// A checkpoint that nothing lies on goes.
    DeleteLeaf,
    /// The first of two goes: its layer takes in that of the second.
    DeleteMiddle,
    /// A checkpoint goes with what came after it.
    DeleteSubtree,
    /// Two go at once.
    DeleteMany,
    /// The layer of Now goes into the one below.
    MergeDown,
    /// The layer below goes up into that of Now, which is the larger one.
    MergeUp,
    /// A checkpoint is copied out.
    Export,
    /// The VM is started.
    Start,
    /// The VM is turned off.
    Stop,
    /// A production checkpoint that nobody in the guest can make: a standard one instead.
    CreateFallback,
    /// A checkpoint with memory comes back while the VM runs.
    ApplyStandard,
    /// The machine is put to sleep.
    Save,
    /// It goes on.
    Wake,
    /// What was saved is given up.
    Discard,
    /// A checkpoint gives up its memory.
    DeleteMemory,
}

impl Deed {
    /// Those of a VM that is off.
    pub const OFF: &'static [Self] = &[
        Self::Create,
        Self::Apply,
        Self::DeleteLeaf,
        Self::DeleteMiddle,
        Self::DeleteSubtree,
        Self::DeleteMany,
        Self::MergeDown,
        Self::MergeUp,
        Self::Export,
    ];
    /// Those with a process.
    pub const ON: &'static [Self] = &[
        Self::Start,
        Self::Stop,
        Self::CreateFallback,
        Self::ApplyStandard,
        Self::Save,
        Self::Wake,
        Self::Discard,
        Self::DeleteMemory,
    ];

    /// What the VM is before it, and when it was done.
    const fn power(self) -> (PowerState, PowerState) {
        use PowerState::{Off, Running, Saved};
        match self {
            Self::Create | Self::Apply | Self::DeleteLeaf | Self::DeleteMiddle | Self::DeleteSubtree => (Off, Off),
            Self::DeleteMany | Self::MergeDown | Self::MergeUp | Self::Export => (Off, Off),
            Self::Start => (Off, Running),
            Self::Stop => (Running, Off),
            Self::CreateFallback | Self::ApplyStandard | Self::DeleteMemory => (Running, Running),
            Self::Save => (Running, Saved),
            Self::Wake => (Saved, Running),
            Self::Discard => (Saved, Off),
        }
    }
}

impl Deed {
    /// Which of the VM's checkpoints go by it.
    fn takes(self, checkpoints: &[CheckpointId]) -> &[CheckpointId] {
        match self {
            Self::DeleteLeaf | Self::MergeUp => &checkpoints[1..2],
            Self::DeleteMiddle | Self::MergeDown => &checkpoints[..1],
            Self::DeleteSubtree | Self::DeleteMany => checkpoints,
            Self::Create | Self::CreateFallback | Self::Apply | Self::ApplyStandard | Self::DeleteMemory => &[],
            Self::Export | Self::Start | Self::Stop | Self::Save | Self::Wake | Self::Discard => &[],
        }
    }
}

/// A service that can be struck, and how many VMs it has had.
pub struct Sweep {
    folder: PathBuf,
    service: Service,
    fail_point: PathBuf,
    client: Client,
    vms: u32,
}

/// A VM before the deed.
struct Before {
    vm: VmId,
    folder: PathBuf,
    /// Oldest first.
    checkpoints: Vec<CheckpointId>,
    /// What each holds, and Now.
    contents: BTreeMap<CheckpointId, String>,
    now: String,
    operations: BTreeSet<OperationId>,
}

impl Sweep {
    /// A service below this folder, whose path must be short.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn new(folder: &Path) -> Swept<Self> {
        let fail_point = folder.join("fail-point");
        let environment = vec![("STILLPOINT_FAIL_POINT".to_owned(), fail_point.display().to_string())];
        let service = Service::start_with(folder, environment).await?;
        let client = service.client().await?;
        Ok(Self { folder: folder.to_owned(), service, fail_point, client, vms: 0 })
    }

    /// The points of a deed that nothing happens to: before and after each call that may change something.
    ///
    /// # Errors
    /// If it is not done.
    pub async fn points(&mut self, deed: Deed) -> Swept<Vec<String>> {
        let trace = self.fail_point.with_extension("trace");
        let before = self.prepare(deed).await?;
        fs::write(&self.fail_point, "trace")?;
        let operation = self.begin(deed, &before).await?;
        self.client.wait(&operation.id).await?;
        fs::remove_file(&self.fail_point)?;
        quiet(&self.client, &before.vm).await?;
        let calls = fs::read_to_string(&trace)?;
        fs::remove_file(&trace)?;
        self.check(deed, &before, true, "undisturbed").await?;
        self.forget(&before).await?;
        let (mut counted, mut points) = (BTreeMap::<&str, u32>::new(), Vec::new());
        for call in calls.lines().filter(|call| !LOOKS.contains(call)) {
            let nth = counted.entry(call).and_modify(|nth| *nth += 1).or_insert(1);
            points.extend(["before", "after"].map(|moment| format!("{call} {nth} {moment}")));
        }
        Ok(points)
    }

    /// Does it, and the service dies at this point. Answers false if it did not come to it.
    ///
    /// # Errors
    /// If something cannot be asked.
    ///
    /// # Panics
    /// If something does not hold that must.
    pub async fn strike(&mut self, deed: Deed, point: &str) -> Swept<bool> {
        let before = self.prepare(deed).await?;
        fs::write(&self.fail_point, point)?;
        let begun = self.begin(deed, &before).await;
        let died = match &begun {
            Err(_) => self.service.ended(LIMIT).await.is_ok(),
            Ok(operation) => tokio::select! {
                ended = self.service.ended(LIMIT) => ended.is_ok(),
                // The point may come right after its end.
                done = self.client.wait(&operation.id) => {
                    let within = if done.is_err() { LIMIT } else { SOON };
                    self.service.ended(within).await.is_ok()
                }
            },
        };
        fs::remove_file(&self.fail_point)?;
        if died {
            self.service.start_again().await?;
        }
        quiet(&self.client, &before.vm).await?;
        let known = self.client.list_operations(Some(&before.vm), false, 20).await?;
        // It may have died before it had answered.
        let is_it = |known: &&Operation| !before.operations.contains(&known.id) && known.kind != "COLLECT_LAYERS";
        let done = known.iter().find(is_it).is_some_and(|asked| asked.done && asked.refusal().is_none());
        self.check(deed, &before, done, point).await?;
        self.forget(&before).await?;
        Ok(died)
    }
}
