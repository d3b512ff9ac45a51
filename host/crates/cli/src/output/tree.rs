//! The tree of a VM's checkpoints, with Now as a child of its parent.

use anstyle::Style;
use jiff::Timestamp;
use stillpoint_common::CheckpointId;

use super::{table, text};
use crate::view::{Checkpoint, Vm};

/// Draws the tree: name, id, kind, consistency, age, size of the memory, and what is special.
pub(crate) fn tree(vm: &Vm, checkpoints: &[Checkpoint], now: Timestamp) -> String {
    let ids: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.id.to_string()).collect();
    let mut drawing =
        Drawing { vm, checkpoints, now, width: text::id_width(&ids), drawn: vec![], rows: vec![], now_row: 0 };
    drawing.draw();
    let bold = Style::new().bold();
    let drawn = table::rows(drawing.rows);
    let lines = drawn.lines().enumerate();
    let lines = lines.map(|(i, line)| if i == drawing.now_row { format!("{bold}{line}{bold:#}") } else { line.into() });
    format!("{}\n{}", vm.id, lines.collect::<Vec<String>>().join("\n"))
}

struct Drawing<'a> {
    vm: &'a Vm,
    checkpoints: &'a [Checkpoint],
    now: Timestamp,
    width: usize,
    drawn: Vec<CheckpointId>,
    rows: Vec<[String; 7]>,
    now_row: usize,
}

/// What hangs on a branch.
#[derive(Clone, Copy)]
enum Node<'a> {
    Checkpoint(&'a Checkpoint),
    Now,
}

impl<'a> Drawing<'a> {
    fn draw(&mut self) {
        let known = |id: &CheckpointId| self.checkpoints.iter().any(|checkpoint| checkpoint.id == *id);
        let is_root = |parent: Option<CheckpointId>| !parent.as_ref().is_some_and(known);
        let roots = self.checkpoints.iter().filter(|checkpoint| is_root(checkpoint.parent));
        let mut roots: Vec<_> = roots.map(Node::Checkpoint).collect();
        if is_root(self.vm.parent_checkpoint) {
            roots.push(Node::Now);
        }
        self.branch(&roots, "");
    }

    fn branch(&mut self, nodes: &[Node<'a>], indent: &str) {
        for (i, node) in nodes.iter().enumerate() {
            let (fork, below) = if i + 1 == nodes.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            match node {
                Node::Now => self.now_line(&format!("{indent}{fork}")),
                Node::Checkpoint(checkpoint) if !self.drawn.contains(&checkpoint.id) => {
                    self.drawn.push(checkpoint.id);
                    self.line(&format!("{indent}{fork}"), checkpoint);
                    let children = self.children(checkpoint.id);
                    self.branch(&children, &format!("{indent}{below}"));
                }
                Node::Checkpoint(_) => (),
            }
        }
    }

    fn children(&self, parent: CheckpointId) -> Vec<Node<'a>> {
        let children = self.checkpoints.iter().filter(|checkpoint| checkpoint.parent == Some(parent));
        let now = (self.vm.parent_checkpoint == Some(parent)).then_some(Node::Now);
        children.map(Node::Checkpoint).chain(now).collect()
    }

    fn now_line(&mut self, indent: &str) {
        self.now_row = self.rows.len();
        let name = format!("{indent}Now ({})", self.vm.status_line);
        self.rows.push([
            name,
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ]);
    }

    fn line(&mut self, indent: &str, checkpoint: &Checkpoint) {
        let memory = checkpoint.memory_bytes;
        self.rows.push([
            format!("{indent}{}", checkpoint.display_name),
            text::short(&checkpoint.id, self.width),
            text::word(checkpoint.kind),
            text::word(checkpoint.consistency),
            text::age(checkpoint.create_time, self.now),
            if memory == 0 { String::new() } else { format!("{} memory", text::bytes(memory)) },
            remark(checkpoint),
        ]);
    }
}

/// What is special about a checkpoint: it is going, it lacks a file, it is not what was asked for, it is automatic, its time is over.
pub(crate) fn remark(checkpoint: &Checkpoint) -> String {
    if checkpoint.deleting {
        return "being deleted".to_owned();
    }
    if !checkpoint.missing_files.is_empty() {
        return "MISSING".to_owned();
    }
    let now = Timestamp::now();
    let expired = checkpoint.keep_until.filter(|until| *until <= now).map(|_| "expired".to_owned());
    let automatic = checkpoint.automatic.then(|| "automatic".to_owned());
    let hazards = (!checkpoint.hazards.is_empty()).then(|| "hazards".to_owned());
    let remarks: Vec<_> = [fallback(checkpoint), automatic, expired, hazards].into_iter().flatten().collect();
    remarks.join("; ")
}

fn fallback(checkpoint: &Checkpoint) -> Option<String> {
    let asked = || text::word(checkpoint.requested_policy);
    let fallback = checkpoint.fallback_reason;
    fallback.map(|reason| format!("instead of {}: {}", asked(), text::word(Some(reason))))
}
