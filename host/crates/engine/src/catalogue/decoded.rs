//! Records that were decoded lately. An operation reads those of its VM many times, mostly as they were.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::de::DeserializeOwned;
use stillpoint_common::Failure;

use super::record::decode;
use crate::ports::Stored;

/// With so many, all are forgotten: some MiB.
const MOST: usize = 4096;

/// A record, and the revision that wrote it.
type Known = (u64, Arc<dyn Any + Send + Sync>);

/// What was decoded, by key. A record is known by the revision that wrote it, so that what is found here is never old.
#[derive(Default)]
pub(super) struct Decoded {
    records: Mutex<HashMap<String, Known>>,
}

impl Decoded {
    pub(super) fn read<T>(&self, key: &str, stored: &Stored) -> Result<T, Failure>
    where
        T: DeserializeOwned + Clone + Send + Sync + 'static,
    {
        if let Some(known) = self.known(key, stored.revision) {
            return Ok(known);
        }
        let record: T = decode(key, &stored.value)?;
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() >= MOST {
            records.clear();
        }
        records.insert(key.to_owned(), (stored.revision, Arc::new(record.clone())));
        Ok(record)
    }

    fn known<T: Clone + 'static>(&self, key: &str, revision: u64) -> Option<T> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, known) = records.get(key).filter(|(of, _)| *of == revision)?;
        known.downcast_ref::<T>().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::record::encode, *};

    #[test]
    fn a_record_is_decoded_once_for_each_revision() {
        let decoded = Decoded::default();
        let stored = |value: &[u8], revision| Stored { value: value.to_owned(), revision };
        assert_eq!(decoded.read::<u32>("k", &stored(&encode(&7), 1)), Ok(7));
        assert_eq!(decoded.read::<u32>("k", &stored(b"never looked at", 1)), Ok(7));
        assert_eq!(decoded.read::<u32>("k", &stored(&encode(&8), 2)), Ok(8));
        assert_eq!(decoded.read::<u32>("k", &stored(&encode(&9), 1)), Ok(9), "an older one is another one");
        assert!(decoded.read::<u32>("k", &stored(b"damaged", 3)).is_err());
        assert_eq!(decoded.read::<u32>("other", &stored(&encode(&1), 1)), Ok(1));
    }

    #[test]
    fn they_are_never_more_than_so_many() {
        let decoded = Decoded::default();
        for number in 0..3 * MOST {
            let stored = Stored { value: encode(&number), revision: 1 };
            assert_eq!(decoded.read::<usize>(&number.to_string(), &stored), Ok(number));
        }
        assert!(decoded.records.lock().unwrap().len() <= MOST);
    }
}
