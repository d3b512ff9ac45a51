use std::collections::VecDeque;

use super::*;

const KEY: &str = "vm/web";

fn kept(kept: &Kept) -> Option<u32> {
    kept.find(KEY).ok()
}

fn read(kept: &Kept, value: u32) {
    let asked = kept.find::<u32>(KEY).unwrap_err();
    kept.keep(KEY, asked, &value);
}

fn write(kept: &Kept) -> Writing<'_> {
    kept.writing(["vm/web", "job/7"].into_iter())
}

#[test]
fn what_was_read_is_kept_until_it_is_written_to() {
    let all = Kept::default();
    read(&all, 1);
    all.writing(["vm/other", "layer/other/web", "layer/web/7"].into_iter()).settled();
    assert_eq!((kept(&all), all.find::<u32>("vm/other").ok()), (Some(1), None));
    let asked = all.find::<u32>("layer/web/").unwrap_err();
    all.keep("layer/web/", asked, &7);
    assert_eq!(all.find("layer/web/"), Ok(7));
    all.writing(["layer/web/7"].into_iter()).settled();
    assert!(all.find::<u32>("layer/web/").is_err(), "all of them, with one of them");
    assert_eq!(kept(&all), Some(1));
    let writing = write(&all);
    assert_eq!(kept(&all), None);
    read(&all, 2);
    assert_eq!(kept(&all), None, "it may be of before");
    writing.settled();
    read(&all, 3);
    assert_eq!(kept(&all), Some(3));
}

#[test]
fn an_answer_that_was_asked_for_before_a_write_was_done_is_not_kept() {
    let all = Kept::default();
    let asked = all.find::<u32>(KEY).unwrap_err();
    write(&all).settled();
    all.keep(KEY, asked, &1);
    assert_eq!(kept(&all), None);
    let writing = write(&all);
    let asked = all.find::<u32>(KEY).unwrap_err();
    writing.settled();
    all.keep(KEY, asked, &1);
    assert_eq!(kept(&all), None, "the store may have answered before it wrote");
}

#[test]
fn after_a_write_of_unknown_end_nothing_is_kept_until_one_that_began_later_is_done() {
    let all = Kept::default();
    let earlier = write(&all);
    drop(write(&all));
    read(&all, 1);
    assert_eq!(kept(&all), None);
    earlier.settled();
    read(&all, 1);
    assert_eq!(kept(&all), None, "that one began before");
    all.writing(["fence"].into_iter()).settled();
    read(&all, 2);
    assert_eq!(kept(&all), Some(2));
}

#[test]
fn they_are_never_more_than_so_many_vms() {
    let all = Kept::default();
    let asked = all.find::<u32>(KEY).unwrap_err();
    let writing = write(&all);
    for number in 0..3 * MOST {
        let key = format!("vm/{number}");
        let asked = all.find::<usize>(&key).unwrap_err();
        all.keep(&key, asked, &number);
        assert!(all.lock().scopes.len() <= MOST + 1);
    }
    assert_eq!(all.find::<usize>(&format!("vm/{}", 3 * MOST - 1)), Ok(3 * MOST - 1));
    writing.settled();
    all.writing((0..3 * MOST).map(|_| "vm/many")).settled();
    all.keep(KEY, asked, &1);
    assert_eq!(kept(&all), None, "what was forgotten may have been written to");
}

/// Draws numbers, always the same.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// So many others are read that what is kept is forgotten.
fn many_others(all: &Kept) {
    for vm in 0..=MOST {
        let key = format!("vm/{vm}");
        if let Err(asked) = all.find::<u32>(&key) {
            all.keep(&key, asked, &0);
        }
    }
}

/// A store with one record of one VM. Writes are done in the order in which they were asked for, some after their client
/// has given up.
#[derive(Default)]
struct Ordered<'k> {
    value: u32,
    queue: VecDeque<(u32, Option<Writing<'k>>)>,
    reads: Vec<(Asked, Option<u32>)>,
}

impl<'k> Ordered<'k> {
    fn step(&mut self, all: &'k Kept, dice: &mut Dice, fresh: u32) {
        match dice.throw(8) {
            0 => self.queue.push_back((fresh, Some(write(all)))),
            1 => {
                if let Some((value, writing)) = self.queue.pop_front() {
                    self.value = value;
                    writing.into_iter().for_each(Writing::settled);
                }
            }
            // A client gives up; its write may be done later.
            2 if !self.queue.is_empty() => {
                let at = dice.throw(self.queue.len() as u64) as usize;
                self.queue[at].1 = None;
            }
            3 => self.reads.extend(all.find::<u32>(KEY).err().map(|asked| (asked, None))),
            // The store looks, and answers some time later.
            4 => {
                self.reads.iter_mut().filter(|(_, seen)| seen.is_none()).for_each(|(_, seen)| *seen = Some(self.value))
            }
            5 if !self.reads.is_empty() => {
                let at = dice.throw(self.reads.len() as u64) as usize;
                let (asked, seen) = self.reads.swap_remove(at);
                all.keep(KEY, asked, &seen.unwrap_or(self.value));
            }
            6 if dice.throw(8) == 0 => many_others(all),
            _ => {}
        }
    }
}

#[test]
fn whatever_comes_between_what_is_kept_is_what_the_store_has() {
    let (mut hits, mut dice) = (0, Dice(1));
    for _ in 0..400 {
        let all = Kept::default();
        let mut store = Ordered::default();
        for fresh in 1..400 {
            store.step(&all, &mut dice, fresh);
            let found = kept(&all);
            assert!(found.is_none_or(|found| found == store.value), "{found:?} is kept, {} stored", store.value);
            hits += u32::from(found.is_some());
        }
    }
    assert!(hits > 1000, "something is kept at all: {hits}");
}
