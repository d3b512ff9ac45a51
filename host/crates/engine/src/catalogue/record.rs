//! The stored form of a record: JSON with the version of its format.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use stillpoint_common::{Failure, Reason};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    data: T,
}

#[derive(Deserialize)]
struct VersionOnly {
    v: u32,
}

pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Our own types have string keys only and cannot fail to become JSON.
    serde_json::to_vec(&Envelope { v: VERSION, data: record }).unwrap_or_default()
}

pub(super) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, Failure> {
    let damaged = |why: String| Failure::new(Reason::CatalogueDamaged, format!("the record {key} {why}"));
    let other = |v: u32| damaged(format!("has format {v}, this version knows {VERSION}"));
    match serde_json::from_slice::<Envelope<T>>(bytes) {
        Ok(envelope) if envelope.v == VERSION => Ok(envelope.data),
        Ok(envelope) => Err(other(envelope.v)),
        Err(unreadable) => Err(match serde_json::from_slice::<VersionOnly>(bytes) {
            Err(no_record) => damaged(format!("is no record: {no_record}")),
            Ok(version) if version.v != VERSION => other(version.v),
            Ok(_) => damaged(format!("cannot be read: {unreadable}")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_a_strange_one_is_named() {
        assert_eq!(decode::<u32>("k", &encode(&7_u32)), Ok(7));
        for (bytes, says) in
            [(&b"{"[..], "is no record"), (b"{\"v\":2,\"data\":7}", "format 2"), (b"{\"v\":1}", "read")]
        {
            let failure = decode::<u32>("vm/web", bytes).unwrap_err();
            assert_eq!(failure.reason, Reason::CatalogueDamaged);
            assert!(failure.message.contains("vm/web") && failure.message.contains(says), "{failure}");
        }
    }
}
