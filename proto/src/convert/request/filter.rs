//! Filters of lists: terms joined by AND, as `age > 7d AND name = "before *"`.

use std::time::Duration;

use stillpoint_common::{CheckpointFilter, Failure, Kind, Pattern, VmId};

use crate::convert::names::{self, quoted};

/// Reads a filter of a VM's checkpoints; empty: all.
///
/// # Errors
/// A term is none, or says the same thing twice.
pub fn checkpoints(vm: &VmId, text: &str) -> Result<CheckpointFilter, Failure> {
    let mut filter = CheckpointFilter::default();
    for term in text.split(" AND ").map(str::trim).filter(|_| !text.trim().is_empty()) {
        let fits = read(&mut filter, vm, term).unwrap_or(false);
        if !fits {
            let expected = "must be terms such as kind = PRODUCTION, name = \"web *\", age > 7d, age < 12h, automatic = \
                            true, expired = true or parent = NAME, each once, joined by AND";
            return Err(Failure::field("filter", format!("{expected}; {:?} is not", quoted(term))));
        }
    }
    Ok(filter)
}

/// Whether the term is one, and says something new.
fn read(filter: &mut CheckpointFilter, vm: &VmId, term: &str) -> Option<bool> {
    let at = term.find(['=', '<', '>'])?;
    let (key, value) = (term[..at].trim(), unquoted(term[at + 1..].trim()));
    Some(match (key, &term[at..=at]) {
        ("kind", "=") => filter.kind.replace(kind(value)?).is_none(),
        ("name", "=") => filter.name.replace(Pattern::new(value)).is_none(),
        ("age", ">") => filter.older_than.replace(age(value)?).is_none(),
        ("age", "<") => filter.younger_than.replace(age(value)?).is_none(),
        ("automatic", "=") => filter.automatic.replace(value.parse().ok()?).is_none(),
        ("expired", "=") => filter.expired.replace(value.parse().ok()?).is_none(),
        ("parent", "=") => {
            let (of, parent) = names::parse_checkpoint(value, "filter").ok()?;
            of == *vm && filter.parent.replace(parent).is_none()
        }
        (_, _) => false,
    })
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

fn kind(text: &str) -> Option<Kind> {
    match text {
        "PRODUCTION" => Some(Kind::Production),
        "STANDARD" => Some(Kind::Standard),
        _ => None,
    }
}

/// `90s`, `5m`, `12h`, `7d`, `2w`.
#[must_use]
pub fn age(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CheckpointFilter, Failure> {
        checkpoints(&"web".parse().unwrap(), text)
    }

    #[test]
    fn every_term_is_read_and_an_empty_filter_means_all() {
        assert_eq!(read("  "), Ok(CheckpointFilter::default()));
        let parent = "019a0000-0000-7000-8000-000000000001";
        let text = format!(
            "kind = STANDARD AND name=\"before *\" AND age > 7d AND age<2w AND automatic = false AND expired = true AND \
             parent = vms/web/checkpoints/{parent}"
        );
        let expected = CheckpointFilter {
            kind: Some(Kind::Standard),
            name: Some(Pattern::new("before *")),
            older_than: Some(Duration::from_secs(7 * 86_400)),
            younger_than: Some(Duration::from_secs(14 * 86_400)),
            automatic: Some(false),
            expired: Some(true),
            parent: parent.parse().ok(),
        };
        assert_eq!(read(&text), Ok(expected));
    }

    #[test]
    fn a_term_that_is_none_is_quoted() {
        for term in
            ["x", "kind = x", "age > 7", "age = 7d", "age > 99999999999999999w", "parent = vms/db/checkpoints/x", "é"]
        {
            let failure = read(term).unwrap_err();
            assert_eq!(failure.field.as_deref(), Some("filter"));
            assert!(failure.message.contains(term), "{failure}");
        }
        assert!(read("age > 1d AND age > 2d").is_err());
    }
}
