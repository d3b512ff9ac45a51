//! What is known of a VM without asking the store: an operation reads the records of its VM dozens of times, mostly as
//! they were.
//!
//! What is kept is let go when a commit begins that writes to one of its records, and no answer about that VM is kept
//! until the commit has ended well. One that has not ended well may still be done: a store does its writes in order, so
//! that the next one which begins after that, and ends well, settles it.

use std::{
    any::Any,
    collections::{BTreeSet, HashMap},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// With so many VMs, what is kept of those that are not written to is let go: some ten MiB.
const MOST: usize = 256;

type Value = Arc<dyn Any + Send + Sync>;

/// What is kept, by VM and key.
#[derive(Default)]
pub(super) struct Kept {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Grows with whatever makes an answer of the store old.
    time: u64,
    /// When something was let go without a trace. Answers that were asked for before may be old.
    forgot: u64,
    scopes: HashMap<String, Scope>,
    /// Where a commit that has not ended well may still be done, and when it ended.
    unsettled: HashMap<String, u64>,
}

/// What is kept of a VM.
#[derive(Default)]
struct Scope {
    values: HashMap<String, Value>,
    /// Commits under way.
    writing: u32,
    /// When the last of them began or ended. Whoever has asked before may have been answered before it was done.
    written: u64,
}

/// When the store was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked(u64);

/// A commit under way. If it is dropped, nobody knows what became of it.
#[must_use]
pub(super) struct Writing<'k> {
    kept: &'k Kept,
    scopes: BTreeSet<String>,
    began: u64,
    settled: bool,
}

/// Whose record it is: what is between the first two slashes of its key. What belongs to no VM is nobody's, which does no
/// harm.
fn scope(key: &str) -> &str {
    key.split('/').nth(1).unwrap_or_default()
}

impl Kept {
    /// What is kept under this key, or else when the store is asked for it.
    pub(super) fn find<T: Clone + 'static>(&self, key: &str) -> Result<T, Asked> {
        let state = self.lock();
        let value = state.scopes.get(scope(key)).and_then(|scope| scope.values.get(key));
        value.and_then(|value| value.downcast_ref::<T>()).cloned().ok_or(Asked(state.time))
    }

    /// Keeps what the store has answered, unless it may be old by now.
    pub(super) fn keep<T: Clone + Send + Sync + 'static>(&self, key: &str, Asked(when): Asked, value: &T) {
        let mut state = self.lock();
        if state.forgot > when || state.unsettled.contains_key(scope(key)) {
            return;
        }
        let found = state.scope(scope(key));
        if found.writing == 0 && found.written <= when {
            found.values.insert(key.to_owned(), Arc::new(value.clone()));
        }
    }

    /// A commit to these keys begins.
    pub(super) fn writing<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Writing<'_> {
        let mut state = self.lock();
        state.time += 1;
        let began = state.time;
        let mut scopes = BTreeSet::new();
        for key in keys {
            let name = scope(key);
            let scope = state.scope(name);
            scope.values.retain(|of, _| !key.starts_with(of.as_str()));
            scope.written = began;
            scopes.insert(name.to_owned());
        }
        scopes.iter().for_each(|name| state.scope(name).writing += 1);
        Writing { kept: self, scopes, began, settled: false }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn scope(&mut self, name: &str) -> &mut Scope {
        if self.scopes.len() >= MOST && !self.scopes.contains_key(name) {
            self.scopes.retain(|_, scope| scope.writing > 0);
            self.time += 1;
            self.forgot = self.time;
        }
        self.scopes.entry(name.to_owned()).or_default()
    }
}

impl Writing<'_> {
    /// It was done, or certainly not.
    pub(super) fn settled(mut self) {
        self.settled = true;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut state = self.kept.lock();
        state.time += 1;
        let ended = state.time;
        if self.settled {
            state.unsettled.retain(|_, since| *since > self.began);
        }
        for name in mem::take(&mut self.scopes) {
            if let Some(scope) = state.scopes.get_mut(&name) {
                scope.writing = scope.writing.saturating_sub(1);
                scope.written = ended;
            }
            if !self.settled {
                state.unsettled.insert(name, ended);
            }
        }
    }
}

#[cfg(test)]
mod tests;
