//! How fast the disks of a VM grow, and what each checkpoint keeps of that. Pure.
//!
//! A differencing layer takes what was written since it was made: its size by its age is the growth of its disk. One
//! into which another was merged is as old as its own file, and has taken all that since.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{Checkpoint, Layer, Vm};

/// From this age on a rate says something.
const RATE_FROM: Duration = Duration::from_secs(60);
/// From this age on it says something about the future.
const FORECAST_FROM: Duration = Duration::from_secs(3600);

/// What Now has written over the last checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// Bytes on the host's disk.
    pub bytes: u64,
    /// How much of it in an hour; unknown in the first minute.
    pub bytes_per_hour: Option<u64>,
    /// Seconds until a file system of its layers is full if this VM goes on so. Unknown in the first hour, and if its
    /// disks fit even when they have grown to their full size.
    pub full_in_seconds: Option<u64>,
}

/// What a checkpoint takes on disk, beside its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The number of layers that the deepest of its disks is read through.
    pub depth: usize,
    /// Bytes of its own layers: what was written between the checkpoint before it and itself.
    pub bytes: u64,
    /// How much of it in an hour, if that is known.
    pub bytes_per_hour: Option<u64>,
}

/// The growth of Now; `None` if none of its disks records changes over a checkpoint.
#[must_use]
pub fn growth(vm: &Vm, layers: &[Layer], now: Timestamp) -> Option<Growth> {
    let is_head = |layer: &&Layer| vm.disks.iter().any(|disk| disk.head_path == layer.path);
    of(&layers.iter().filter(is_head).collect::<Vec<_>>(), now)
}

fn of(heads: &[&Layer], now: Timestamp) -> Option<Growth> {
    let heads: Vec<&Layer> = heads.iter().copied().filter(|layer| is_differencing(layer)).collect();
    let since = heads.iter().filter_map(|layer| layer.create_time).min();
    let over = since.map(|since| between(since, now)).unwrap_or_default();
    let bytes = sum(&heads, |layer| layer.allocated_bytes);
    (!heads.is_empty()).then(|| Growth {
        bytes,
        bytes_per_hour: per_hour(bytes, over),
        full_in_seconds: (over >= FORECAST_FROM).then(|| full_in(&heads, over)).flatten(),
    })
}

/// What a checkpoint takes; `None` if its layers are not known.
#[must_use]
pub fn usage(checkpoint: &Checkpoint, layers: &[Layer]) -> Option<Usage> {
    let own = checkpoint.disks.iter().map(|disk| layers.iter().find(|layer| layer.path == disk.path));
    let own: Vec<&Layer> = own.collect::<Option<_>>()?;
    let depth = own.iter().map(|layer| depth(layer, layers)).max()?;
    let changes: Vec<&Layer> = own.into_iter().filter(|layer| is_differencing(layer)).collect();
    let since = changes.iter().filter_map(|layer| layer.create_time).min();
    let over = since.zip(checkpoint.create_time).map(|(since, made)| between(since, made)).unwrap_or_default();
    let bytes = sum(&changes, |layer| layer.allocated_bytes);
    Some(Usage { depth, bytes, bytes_per_hour: per_hour(bytes, over) })
}

/// The first file system that would be full: each has the room that it has, whatever else writes to it.
fn full_in(heads: &[&Layer], over: Duration) -> Option<u64> {
    let mut by_file_system: BTreeMap<&str, Vec<&Layer>> = BTreeMap::new();
    for head in heads {
        by_file_system.entry(&head.file_system).or_default().push(head);
    }
    let of_one = |heads: &Vec<&Layer>| {
        let free = heads.iter().filter_map(|layer| layer.free_bytes).min()?;
        let left = sum(heads, |layer| layer.virtual_bytes.saturating_sub(layer.allocated_bytes));
        let written = sum(heads, |layer| layer.allocated_bytes);
        let seconds = u128::from(free) * u128::from(over.as_secs()) / u128::from(written.max(1));
        (written > 0 && free < left).then(|| u64::try_from(seconds).unwrap_or(u64::MAX))
    };
    by_file_system.values().filter_map(of_one).min()
}

fn is_differencing(layer: &Layer) -> bool {
    !layer.backing_layer.is_empty()
}

/// How many layers a layer is read through, itself among them. A chain that goes round ends with the last layer.
fn depth(layer: &Layer, layers: &[Layer]) -> usize {
    let below = |layer: &&Layer| layers.iter().find(|below| below.layer == layer.backing_layer);
    std::iter::successors(Some(layer), below).take(layers.len()).count()
}

fn between(since: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(since)).unwrap_or_default()
}

fn per_hour(bytes: u64, over: Duration) -> Option<u64> {
    let rate = u128::from(bytes) * 3600 / u128::from(over.as_secs().max(1));
    (over >= RATE_FROM).then(|| u64::try_from(rate).unwrap_or(u64::MAX))
}

fn sum(layers: &[&Layer], bytes: impl Fn(&Layer) -> u64) -> u64 {
    layers.iter().map(|layer| bytes(layer)).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3600).unwrap()
    }

    /// Layers of one disk, each on the one before, with their sizes and when they were made; on a file system of which
    /// so much is free.
    fn chain(free: u64, layers: &[(u64, Option<Timestamp>)]) -> Vec<Layer> {
        let layer = |(at, (bytes, made)): (usize, &(u64, Option<Timestamp>))| Layer {
            layer: at.to_string(),
            disk: "system".into(),
            path: format!("/vm/{at}"),
            format: "qcow2".into(),
            backing_layer: at.checked_sub(1).map(|below| below.to_string()).unwrap_or_default(),
            backing_path: String::new(),
            virtual_bytes: 100 * GIB,
            allocated_bytes: *bytes,
            checkpoints: vec![],
            now: true,
            frozen: false,
            missing: false,
            problems: vec![],
            create_time: *made,
            file_system: "/vm".into(),
            free_bytes: Some(free),
        };
        layers.iter().enumerate().map(layer).collect()
    }

    /// The growth of a VM whose disk writes to the topmost of these layers.
    fn growth(layers: &[Layer], now: Timestamp) -> Option<Growth> {
        of(&layers.iter().rev().take(1).collect::<Vec<_>>(), now)
    }

    #[test]
    fn a_disk_that_grows_fills_its_file_system_at_a_time_that_is_foreseen() {
        let layers = chain(10 * GIB, &[(50 * GIB, None), (4 * GIB, Some(at(0)))]);
        let seen = growth(&layers, at(2)).unwrap();
        assert_eq!((seen.bytes, seen.bytes_per_hour), (4 * GIB, Some(2 * GIB)));
        assert_eq!(seen.full_in_seconds, Some(5 * 3600), "10 GiB at 2 GiB an hour");
    }

    #[test]
    fn nothing_is_foreseen_of_a_young_layer_of_one_that_stands_still_or_where_all_of_it_fits() {
        let young = at(0) + jiff::SignedDuration::from_mins(30);
        let layers = chain(10 * GIB, &[(50 * GIB, None), (4 * GIB, Some(at(0)))]);
        let seen = growth(&layers, young).unwrap();
        assert_eq!((seen.bytes_per_hour, seen.full_in_seconds), (Some(8 * GIB), None));
        assert_eq!(growth(&layers, at(0)).unwrap().bytes_per_hour, None, "no time has passed");
        assert_eq!(growth(&layers, at(-1)).unwrap().bytes_per_hour, None, "a clock that was set back");
        let fits = chain(96 * GIB, &[(50 * GIB, None), (4 * GIB, Some(at(0)))]);
        assert_eq!(growth(&fits, at(2)).unwrap().full_in_seconds, None);
        let still = chain(10 * GIB, &[(50 * GIB, None), (0, Some(at(0)))]);
        assert_eq!(growth(&still, at(2)).unwrap().full_in_seconds, None);
        let unknown = chain(10 * GIB, &[(50 * GIB, None), (4 * GIB, None)]);
        assert_eq!(growth(&unknown, at(2)).unwrap().bytes_per_hour, None, "of a catalogue that did not keep it");
    }

    #[test]
    fn a_vm_without_checkpoints_has_no_growth() {
        assert_eq!(growth(&chain(GIB, &[(50 * GIB, None)]), at(2)), None);
    }

    #[test]
    fn of_two_file_systems_the_one_that_is_full_first_counts() {
        let first = chain(10 * GIB, &[(50 * GIB, None), (4 * GIB, Some(at(0)))]);
        let second: Vec<Layer> = chain(GIB, &[(GIB, None), (GIB, Some(at(0)))])
            .into_iter()
            .map(|layer| Layer { file_system: "/data".into(), ..layer })
            .collect();
        let seen = of(&[&first[1], &second[1]], at(2)).unwrap();
        assert_eq!((seen.bytes, seen.full_in_seconds), (5 * GIB, Some(2 * 3600)));
    }

    #[test]
    fn the_depth_of_a_chain_counts_each_layer_once_also_when_it_goes_round() {
        let mut layers = chain(GIB, &[(GIB, None), (GIB, None), (GIB, None)]);
        assert_eq!(depth(&layers[2], &layers), 3);
        assert_eq!(depth(&layers[0], &layers), 1);
        layers[0].backing_layer = "2".into();
        assert_eq!(depth(&layers[2], &layers), 3);
    }
}
