//! A VM and its checkpoints as bytes, and stories that are told to a real one beside it.
//!
//! The model knows nothing of layers: a checkpoint is a copy. Whatever the story, the real one must read the same.

pub mod engine_ground;
pub mod guest_ground;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{FailurePersistence, FileFailurePersistence},
};
use stillpoint_common::{CheckpointId, Failure};

/// What blocks read as; those not named are zero.
pub type Blocks = BTreeMap<u64, u64>;

/// How many blocks of the disk are used.
pub const BLOCKS: u64 = 4;

/// How many stories to tell: so many, or so many times as many as the environment says in `STILLPOINT_STORIES_TIMES`.
#[must_use]
pub fn how_many(stories: u32) -> u32 {
    let times = std::env::var("STILLPOINT_STORIES_TIMES").ok().and_then(|times| times.parse().ok());
    stories.saturating_mul(times.unwrap_or(1))
}

/// A story that has failed is told first when its test is run again, also by the same run: what has failed once is no
/// accident before it has passed. `file` keeps how it is made.
#[must_use]
pub fn told_again(file: &'static str) -> Option<Box<dyn FailurePersistence>> {
    Some(Box::new(FileFailurePersistence::Direct(file)))
}

/// One sentence of a story. A number chooses among the checkpoints that are there then, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A block is written.
    Write(u64, u64),
    /// A checkpoint without memory is made.
    Create,
    /// A checkpoint with memory is made.
    CreateWithMemory,
    /// The VM goes back to a checkpoint.
    Apply(usize),
    /// The VM goes back to where it came from.
    Revert,
    /// A checkpoint is deleted.
    Delete(usize),
    /// Two checkpoints are deleted at once.
    DeleteTwo(usize, usize),
    /// A checkpoint is deleted with all that came after it.
    DeleteSubtree(usize),
    /// The memory of a checkpoint is deleted.
    DeleteMemory(usize),
    /// A checkpoint is copied out.
    Export(usize),
    /// The service is started anew.
    Restart,
    /// The VM is turned off if it is on, started if it is off.
    Power,
}

/// Stories of at most so many steps. With `power` the VM is turned off and on in them.
pub fn stories(longest: usize, power: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..BLOCKS, 1..200_u64).prop_map(|(block, value)| Step::Write(block, value)),
        3 => Just(Step::Create),
        2 => Just(Step::CreateWithMemory),
        2 => any::<u8>().prop_map(|n| Step::Apply(n.into())),
        1 => Just(Step::Revert),
        3 => any::<u8>().prop_map(|n| Step::Delete(n.into())),
        1 => any::<(u8, u8)>().prop_map(|(n, m)| Step::DeleteTwo(n.into(), m.into())),
        1 => any::<u8>().prop_map(|n| Step::DeleteSubtree(n.into())),
        1 => any::<u8>().prop_map(|n| Step::DeleteMemory(n.into())),
        1 => any::<u8>().prop_map(|n| Step::Export(n.into())),
        1 => Just(Step::Restart),
        1 => Just(if power { Step::Power } else { Step::Restart }),
    ];
    vec(step, 1..=longest)
}

/// What stories are told to: a VM with one engine or service behind it.
pub trait Ground {
    /// Now is written to.
    fn write(&mut self, block: u64, value: u64) -> impl Future<Output = Result<(), Failure>>;
    /// Makes a checkpoint.
    fn create(&mut self, memory: bool) -> impl Future<Output = Result<CheckpointId, Failure>>;
    /// Goes back to a checkpoint.
    fn apply(&mut self, id: CheckpointId) -> impl Future<Output = Result<(), Failure>>;
    /// Goes back to where Now came from.
    fn revert(&mut self) -> impl Future<Output = Result<(), Failure>>;
    /// Deletes a checkpoint.
    fn delete(&mut self, id: CheckpointId) -> impl Future<Output = Result<(), Failure>>;
    /// Deletes checkpoints, all at once.
    fn delete_all(&mut self, ids: BTreeSet<CheckpointId>) -> impl Future<Output = Result<(), Failure>>;
    /// Deletes a checkpoint and all that came after it.
    fn delete_subtree(&mut self, id: CheckpointId) -> impl Future<Output = Result<(), Failure>>;
    /// Deletes the memory of a checkpoint.
    fn delete_memory(&mut self, id: CheckpointId) -> impl Future<Output = Result<(), Failure>>;
    /// Copies a checkpoint out, and reads what was copied.
    fn export(&mut self, id: CheckpointId) -> impl Future<Output = Result<Blocks, Failure>>;
    /// Starts the service anew.
    fn restart(&mut self) -> impl Future<Output = Result<(), Failure>>;
    /// Turns the VM on or off.
    fn power(&mut self, on: bool) -> impl Future<Output = Result<(), Failure>>;
    /// All checkpoints with what they came from, oldest first.
    fn checkpoints(&mut self) -> impl Future<Output = Result<Vec<(CheckpointId, Option<CheckpointId>)>, Failure>>;
    /// What a checkpoint reads as, as far as that can be seen without applying it.
    fn read(&mut self, id: CheckpointId) -> impl Future<Output = Result<Option<Blocks>, Failure>>;
    /// What Now reads as, if that can be seen.
    fn now(&mut self) -> impl Future<Output = Result<Option<Blocks>, Failure>>;
}

#[derive(Debug, Clone)]
struct Point {
    id: CheckpointId,
    parent: Option<CheckpointId>,
    blocks: Blocks,
    memory: bool,
}

/// A VM and its checkpoints as bytes.
#[derive(Debug, Clone, Default)]
pub struct Model {
    now: Blocks,
    parent: Option<CheckpointId>,
    points: Vec<Point>,
    on: bool,
}

impl Model {
    /// A VM whose disk is empty.
    #[must_use]
    pub fn new(on: bool) -> Self {
        Self { on, ..Self::default() }
    }

    fn choose(&self, n: usize) -> Option<&Point> {
        (!self.points.is_empty()).then(|| &self.points[n % self.points.len()])
    }

    fn goes_back(&mut self, point: &Point) {
        (self.now, self.parent, self.on) = (point.blocks.clone(), Some(point.id), point.memory);
    }

    fn forgets(&mut self, gone: &Point) {
        self.points.retain(|point| point.id != gone.id);
        let parents = self.points.iter_mut().map(|point| &mut point.parent).chain([&mut self.parent]);
        parents.filter(|parent| **parent == Some(gone.id)).for_each(|parent| *parent = gone.parent);
    }

    /// A point and all that came after it.
    fn below(&self, root: Point) -> Vec<CheckpointId> {
        let mut found = vec![root.id];
        for point in &self.points {
            // Points stand in the order in which they were made.
            if point.parent.is_some_and(|parent| found.contains(&parent)) {
                found.push(point.id);
            }
        }
        found
    }

    /// Tells one step to both. A step that makes no sense now is passed over.
    ///
    /// # Errors
    /// What the real one refused, in which a story fails that should not.
    pub async fn tell(&mut self, ground: &mut impl Ground, step: Step) -> Result<(), Failure> {
        match step {
            Step::Write(block, value) => {
                ground.write(block, value).await?;
                self.now.insert(block, value);
            }
            Step::Create => self.create(ground, false).await?,
            Step::CreateWithMemory => self.create(ground, self.on).await?,
            Step::Apply(n) => {
                let Some(point) = self.choose(n).cloned() else { return Ok(()) };
                ground.apply(point.id).await?;
                self.goes_back(&point);
            }
            Step::Revert => {
                let of_now = |point: &&Point| Some(point.id) == self.parent;
                let Some(point) = self.points.iter().find(of_now).cloned() else { return Ok(()) };
                ground.revert().await?;
                self.goes_back(&point);
            }
            Step::Delete(n) => {
                let Some(point) = self.choose(n).cloned() else { return Ok(()) };
                ground.delete(point.id).await?;
                self.forgets(&point);
            }
            Step::DeleteTwo(n, m) => {
                let (Some(one), Some(other)) = (self.choose(n).cloned(), self.choose(m).cloned()) else {
                    return Ok(());
                };
                ground.delete_all([one.id, other.id].into()).await?;
                // What the first one leaves to others, it leaves to the other one too.
                self.forgets(&one);
                let other = self.points.iter().find(|point| point.id == other.id).cloned();
                other.iter().for_each(|other| self.forgets(other));
            }
            Step::DeleteSubtree(n) => {
                let Some(point) = self.choose(n).cloned() else { return Ok(()) };
                ground.delete_subtree(point.id).await?;
                for gone in self.below(point) {
                    let gone = self.points.iter().find(|point| point.id == gone).cloned();
                    gone.iter().for_each(|gone| self.forgets(gone));
                }
            }
            Step::DeleteMemory(n) => {
                let Some(point) = self.choose(n).cloned().filter(|point| point.memory) else { return Ok(()) };
                ground.delete_memory(point.id).await?;
                let known = self.points.iter_mut().filter(|known| known.id == point.id);
                known.for_each(|known| known.memory = false);
            }
            Step::Export(n) => {
                let Some(point) = self.choose(n).cloned() else { return Ok(()) };
                assert_eq!(ground.export(point.id).await?, point.blocks, "the export of {}", point.id);
            }
            Step::Restart => ground.restart().await?,
            Step::Power => {
                ground.power(!self.on).await?;
                self.on = !self.on;
            }
        }
        Ok(())
    }

    async fn create(&mut self, ground: &mut impl Ground, memory: bool) -> Result<(), Failure> {
        let id = ground.create(memory).await?;
        self.points.push(Point { id, parent: self.parent, blocks: self.now.clone(), memory });
        self.parent = Some(id);
        Ok(())
    }

    /// Asserts that the real one is as the model is.
    ///
    /// # Errors
    /// If it cannot be asked.
    ///
    /// # Panics
    /// If it differs.
    pub async fn compare(&self, ground: &mut impl Ground) -> Result<(), Failure> {
        let tree: Vec<_> = self.points.iter().map(|point| (point.id, point.parent)).collect();
        assert_eq!(ground.checkpoints().await?, tree, "the tree");
        for point in &self.points {
            if let Some(blocks) = ground.read(point.id).await? {
                assert_eq!(blocks, point.blocks, "checkpoint {}", point.id);
            }
        }
        if let Some(now) = ground.now().await? {
            assert_eq!(now, self.now, "Now");
        }
        Ok(())
    }

    /// Goes back to each checkpoint, one after the other, and compares what Now reads as then.
    ///
    /// # Errors
    /// If that is refused.
    pub async fn visit_all(&mut self, ground: &mut impl Ground) -> Result<(), Failure> {
        for point in self.points.clone() {
            ground.apply(point.id).await?;
            self.goes_back(&point);
            self.compare(ground).await?;
        }
        Ok(())
    }

    /// A checkpoint was deleted by somebody else than a step.
    pub fn knows_deleted(&mut self, id: CheckpointId) {
        let gone = self.points.iter().find(|point| point.id == id).cloned();
        gone.iter().for_each(|gone| self.forgets(gone));
    }

    /// Whether the VM is on.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.on
    }
}

/// Tells a whole story, comparing after each step.
///
/// # Errors
/// What was refused, and at which step.
pub async fn tell(model: &mut Model, ground: &mut impl Ground, story: &[Step]) -> Result<(), String> {
    for (at, step) in story.iter().enumerate() {
        let told = async {
            model.tell(ground, *step).await?;
            model.compare(ground).await
        };
        told.await.map_err(|failure| format!("step {at}, {step:?}: {failure}"))?;
    }
    Ok(())
}
