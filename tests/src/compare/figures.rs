//! Figures of a case, and how they are shown.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

/// What one side took, over several runs, in the unit of its case.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    /// Adds the time of one run.
    pub fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1000.0);
    }

    /// Adds what one run came to, where that is no time.
    pub fn add_number(&mut self, number: f64) {
        self.0.push(number);
    }

    /// What 99 of 100 runs stayed below.
    #[must_use]
    pub fn p99(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len().saturating_sub(1 + sorted.len() / 100)).copied().unwrap_or(0.0)
    }

    /// The middle one; of an even number of them the mean of the two in the middle. Nothing measured is 0.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => 0.0,
            length if length % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        }
    }

    fn min(&self) -> f64 {
        self.0.iter().copied().reduce(f64::min).unwrap_or(0.0)
    }

    fn max(&self) -> f64 {
        self.0.iter().copied().reduce(f64::max).unwrap_or(0.0)
    }

    fn json(&self) -> Value {
        json!({
            "median": rounded(self.median()), "min": rounded(self.min()), "max": rounded(self.max()),
            "runs": self.0.len(),
        })
    }

    fn cell(&self, unit: &str) -> String {
        format!("{:>7.1} {unit}  ({:.1} … {:.1})", self.median(), self.min(), self.max())
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Case {
    /// The measure it belongs to.
    pub measure: &'static str,
    /// Which case of it.
    pub case: String,
    /// Of what the figures are so many: `ms`, `MiB`.
    pub unit: &'static str,
    /// What the product took.
    pub ours: Figures,
    /// What the minimal script took; or the limit, where a measure says so.
    pub floor: Figures,
    /// What others took, where they were measured.
    pub peers: BTreeMap<&'static str, Figures>,
    /// The ratio to reach; none for a case that only shows how noisy the others are.
    pub target: Option<f64>,
}

impl Case {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(measure: &'static str, case: impl Into<String>, target: Option<f64>) -> Self {
        Self { measure, case: case.into(), unit: "ms", target, ..Self::default() }
    }

    /// Ours over the floor, of the medians: lower is better.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let floor = self.floor.median();
        if floor > 0.0 { self.ours.median() / floor } else { 0.0 }
    }

    /// One line.
    #[must_use]
    pub fn json(&self) -> Value {
        let peers: serde_json::Map<_, _> = self.peers.iter().map(|(name, it)| ((*name).into(), it.json())).collect();
        json!({
            "measure": self.measure, "case": self.case, "unit": self.unit, "ours": self.ours.json(),
            "floor": self.floor.json(), "peers": peers, "ratio": rounded(self.ratio()),
        })
    }
}

/// A table for people.
#[must_use]
pub fn table(title: &str, cases: &[Case]) -> String {
    let mut lines = vec![
        title.to_owned(),
        format!("  {:<30}  {:<32}  {:<32}  ratio", "", "ours  (min … max)", "floor  (min … max)"),
    ];
    lines.extend(cases.iter().map(row));
    lines.join("\n")
}

fn row(case: &Case) -> String {
    let target = match case.target {
        Some(target) if case.ratio() <= target => format!("(≤ {target}: reached)"),
        Some(target) => format!("(≤ {target}: MISSED)"),
        None => String::new(),
    };
    let (ours, floor) = (case.ours.cell(case.unit), case.floor.cell(case.unit));
    format!("  {:<30}  {ours:<32}  {floor:<32}  {:>5.2}  {target}", case.case, case.ratio()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(numbers: &[u64]) -> Figures {
        let mut figures = Figures::default();
        numbers.iter().for_each(|number| figures.add(Duration::from_millis(*number)));
        figures
    }

    #[test]
    fn a_case_says_medians_extremes_and_ours_over_the_floor() {
        let case = Case {
            ours: figures(&[30, 10, 20, 90]),
            floor: figures(&[40, 5, 20]),
            ..Case::new("m", "512 MiB first", Some(1.3))
        };
        let line = case.json();
        assert_eq!(line["ours"], json!({"median": 25.0, "min": 10.0, "max": 90.0, "runs": 4}));
        assert_eq!((line["ratio"].as_f64(), line["unit"].as_str()), (Some(1.25), Some("ms")));
        assert_eq!(line["peers"], json!({}));
        let text = table("title", &[case.clone(), Case { target: Some(1.2), ..case }]);
        assert!(text.contains("1.25  (≤ 1.3: reached)") && text.contains("(≤ 1.2: MISSED)"), "{text}");
    }

    #[test]
    fn of_a_hundred_runs_one_may_be_slower_than_the_99th_percentile() {
        let hundred = figures(&(1..=100).collect::<Vec<_>>());
        assert_eq!((hundred.p99(), figures(&[7]).p99(), figures(&[]).p99()), (99.0, 7.0, 0.0));
    }

    #[test]
    fn nothing_measured_is_no_division_by_nothing() {
        assert_eq!(Case::new("m", "c", None).json()["ratio"].as_f64(), Some(0.0));
    }
}
