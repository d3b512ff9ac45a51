//! Tables: columns, a head, nothing drawn.

use comfy_table::{ContentArrangement, Table, presets};

/// A table under a head, as wide as the terminal allows.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = quiet(ContentArrangement::Dynamic);
    table.set_header(head.map(str::to_uppercase));
    print(table, rows)
}

/// Rows without a head whose lines are never broken.
pub(crate) fn rows<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> String {
    print(quiet(ContentArrangement::Disabled), rows)
}

/// `key  value` lines, without those that have no value.
pub(crate) fn details<const N: usize>(pairs: [(&str, String); N]) -> String {
    rows(pairs.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| [format!("{key}:"), value]))
}

/// A table under a title, for a part of an answer; nothing if it has no rows.
pub(crate) fn section<const N: usize>(
    title: &str,
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    if rows.is_empty() {
        return String::new();
    }
    let body = table(head, rows).lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
    format!("\n\n{title}\n{body}")
}

fn print<const N: usize>(mut table: Table, rows: impl IntoIterator<Item = [String; N]>) -> String {
    table.add_rows(rows);
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table.trim_fmt()
}

fn quiet(arrangement: ContentArrangement) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(arrangement);
    table
}
