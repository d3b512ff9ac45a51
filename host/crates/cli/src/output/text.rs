//! Sizes, times and words as people read them.

use jiff::Timestamp;
use serde::Serialize;

/// The word of an enum as the `.proto` files and `--json` have it; `?` for one that this version does not know.
pub(crate) fn word<T: Serialize>(value: Option<T>) -> String {
    match value.map(serde_json::to_value) {
        Some(Ok(serde_json::Value::String(word))) => word,
        Some(_) | None => "?".to_owned(),
    }
}

/// `0 B`, `512 MiB`, `1.5 GiB`
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10) as usize;
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let value = bytes as f64 / 1024_f64.powi(i32::try_from(power).unwrap_or_default());
    let number = format!("{value:.1}");
    format!("{} {}", number.trim_end_matches(".0"), UNITS[power - 1])
}

/// `0.4 ms`, `38 ms`, `1.2 s`, `2 min 5 s`
pub(crate) fn took(ms: f64) -> String {
    if ms < 9.95 {
        return format!("{ms:.1} ms");
    }
    if ms < 999.5 {
        return format!("{ms:.0} ms");
    }
    if ms < 59_950.0 {
        return format!("{:.1} s", ms / 1000.0);
    }
    let seconds = (ms / 1000.0).round();
    format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0)
}

/// `12 s ago`, `3 min ago`, `2 h ago`, `5 days ago`
pub(crate) fn age(time: Option<Timestamp>, now: Timestamp) -> String {
    let Some(time) = time else { return String::new() };
    match now.as_second() - time.as_second() {
        ..1 => "just now".to_owned(),
        seconds @ 1..60 => format!("{seconds} s ago"),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h ago", seconds / 3600),
        seconds @ 86_400..172_800 => format!("{} day ago", seconds / 86_400),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// A span of seconds, roughly: `40 s`, `3 min`, `2 h`, `5 days`
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        86_400.. => count(usize::try_from(seconds / 86_400).unwrap_or(usize::MAX), "day"),
    }
}

/// A time to the second, in UTC.
pub(crate) fn time(time: Option<Timestamp>) -> String {
    time.map(|time| format!("{time:.0}")).unwrap_or_default()
}

/// A choice between one and many: `1 file`, `3 files`.
pub(crate) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// How many characters of each id tell them apart: at least 8.
pub(crate) fn id_width(ids: &[String]) -> usize {
    let mut sorted: Vec<_> = ids.iter().collect();
    sorted.sort();
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let needed = sorted.windows(2).map(|pair| common(pair[0], pair[1]) + 1).max().unwrap_or_default();
    // The groups of a UUID end after 8, 13, 18 and 23 characters: do not stop at a dash.
    let needed = needed.max(8);
    if matches!(needed, 9 | 14 | 19 | 24) { needed + 1 } else { needed }
}

/// The beginning of an id.
pub(crate) fn short(id: &impl ToString, width: usize) -> String {
    id.to_string().chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 1023, 1024, 1536, 512 << 20, (3 << 30) / 2, u64::MAX];
        assert_eq!(sizes.map(bytes), ["0 B", "1023 B", "1 KiB", "1.5 KiB", "512 MiB", "1.5 GiB", "16 EiB"]);
    }

    #[test]
    fn durations_are_short() {
        let times = [0.0, 0.42, 9.94, 14.2, 999.4, 1234.0, 125_000.0];
        assert_eq!(times.map(took), ["0.0 ms", "0.4 ms", "9.9 ms", "14 ms", "999 ms", "1.2 s", "2 min 5 s"]);
    }

    #[test]
    fn ages_are_short_and_never_in_the_future() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ages = [-5, 0, 30, 90, 7200, 90_000, 200_000];
        let ages = ages.map(|age_s| age(Timestamp::from_second(1_000_000 - age_s).ok(), now));
        let expected = ["just now", "just now", "30 s ago", "1 min ago", "2 h ago", "1 day ago", "2 days ago"];
        assert_eq!(ages, expected);
    }

    #[test]
    fn ids_are_cut_where_they_differ() {
        let ids = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(id_width(&[]), 8);
        assert_eq!(id_width(&ids(&["01890000-0000-7000", "02890000-0000-7000"])), 8);
        assert_eq!(id_width(&ids(&["01890000-0000-7000", "01890000-1000-7000"])), 10);
    }
}
