//! The rows, what each should be, the table and the JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Result;
use super::contestant::Kind;

/// Target of a row.
enum Target {
    /// Ours by the C plugin's, at least.
    AtLeast(f64),
    /// Ours by the C plugin's, at most.
    AtMost(f64),
    /// Ours itself, at least.
    Reaches(f64),
    /// Ours itself, at most.
    StaysBelow(f64),
    /// To look at.
    None,
}

use Target::{AtLeast, AtMost, Reaches, StaysBelow};

/// Name, what it is, unit, target.
type Row = (&'static str, &'static str, &'static str, Target);

const ROWS: &[Row] = &[
    ("output", "output, raw", "MB/s", AtLeast(1.65)),
    ("output-cpu", "  gateway CPU", "s/GB", AtMost(0.55)),
    ("output-uwsgi", "output, uwsgi mode", "MB/s", AtLeast(1.65)),
    ("output-uwsgi-cpu", "  gateway CPU", "s/GB", AtMost(0.55)),
    ("input", "input, raw", "MB/s", AtLeast(1.2)),
    ("input-cpu", "  gateway CPU", "s/GB", AtMost(0.7)),
    ("input-4k", "input, 4 KB packets", "MB/s", AtLeast(1.15)),
    ("input-4k-cpu", "  gateway CPU", "s/GB", AtMost(0.7)),
    ("input-1", "input, 1-byte packets", "M/s", Reaches(10.0)),
    ("echo-p50", "echo, p50", "us", AtMost(0.82)),
    ("echo-p99", "echo, p99", "us", AtMost(0.82)),
    ("echo-p999", "echo, p99.9", "us", Target::None),
    ("echo-cpu", "  gateway CPU each", "us", AtMost(0.6)),
    ("echo-idle-p50", "echo beside 100 idle, p50", "us", AtMost(0.82)),
    ("echo-idle-p99", "echo beside 100 idle, p99", "us", AtMost(0.82)),
    ("echo-idle-p999", "echo beside 100 idle, p99.9", "us", Target::None),
    ("echo-busy-p50", "echo beside a busy one, p50", "us", Target::None),
    ("echo-busy-p99", "echo beside a busy one, p99", "us", AtMost(0.9)),
    ("echo-busy-p999", "echo beside a busy one, p99.9", "us", Target::None),
    ("echo-busy-output", "  the busy one's output", "MB/s", AtLeast(1.1)),
    ("recorded-output", "output, recorded", "MB/s", Reaches(100.0)),
    ("recorded-echo-p99", "echo, recorded, p99", "us", Target::None),
    ("recorded-echo-ratio", "  by that without", "x", StaysBelow(1.5)),
    ("short", "short sessions", "/s", AtLeast(2.0)),
    ("short-lost", "  output lost", "%", StaysBelow(0.0)),
    ("short-extended", "short sessions, extended mode", "/s", Target::None),
    ("short-extended-lost", "  output or end lost", "%", StaysBelow(0.0)),
    ("short-8", "short sessions, 8 at a time", "/s", Target::None),
    // One that loses its output is none.
    ("short-8-complete", "  those complete", "/s", AtLeast(4.0)),
    ("short-8-lost", "  output lost", "%", StaysBelow(0.0)),
    ("short-512", "short sessions, server of 512 MB", "/s", AtLeast(50.0)),
    ("short-512-lost", "  output lost", "%", StaysBelow(0.0)),
    ("short-2048", "short sessions, server of 2 GB", "/s", AtLeast(50.0)),
    ("short-2048-lost", "  output lost", "%", StaysBelow(0.0)),
    ("idle-memory", "memory per idle session", "KB", StaysBelow(0.25)),
    ("idle-cpu", "CPU with 1000 idle sessions", "%", StaysBelow(0.0)),
    ("left-attach", "attach to one of 40 detached", "us", Target::None),
    ("left-leave", "  detach it", "us", Target::None),
    ("left-list", "  a page of the list", "us", StaysBelow(300.0)),
    ("left-end", "  end one", "us", Target::None),
    ("left-cpu", "  CPU while all are silent", "%", StaysBelow(0.0)),
    ("left-8000-attach", "attach to one of 8000 detached", "us", Target::None),
    ("left-8000-leave", "  detach it", "us", Target::None),
    ("left-8000-list", "  a page of the list", "us", StaysBelow(300.0)),
    ("left-8000-end", "  end one", "us", Target::None),
    ("left-8000-cpu", "  CPU while all are silent", "%", StaysBelow(0.0)),
    ("left-8000-memory", "  memory each", "KB", StaysBelow(1.0)),
];

const COLUMNS: [(Kind, &str); 5] = [
    (Kind::C, "C"),
    (Kind::Ours, "ours"),
    (Kind::Socat, "socat"),
    (Kind::Bare, "bare"),
    (Kind::Handed, "handed over"),
];

/// Everything that was measured.
pub struct Report {
    machine: String,
    rounds: usize,
    unconfined: bool,
    /// By row and contestant, the value of each round.
    values: BTreeMap<(&'static str, Kind), BTreeMap<usize, f64>>,
    failures: BTreeMap<(&'static str, Kind), String>,
}

impl Report {
    /// Nothing yet.
    pub fn new(rounds: usize, unconfined: bool) -> Self {
        let machine = machine();
        Self { machine, rounds, unconfined, values: BTreeMap::new(), failures: BTreeMap::new() }
    }

    /// Adds what a round found.
    pub fn add(&mut self, round: usize, kind: Kind, values: &[(&'static str, f64)]) {
        for (row, value) in values {
            self.values.entry((row, kind)).or_default().insert(round, *value);
        }
    }

    /// A contestant could not do it; it is not asked again.
    pub fn failed(&mut self, experiment: &'static str, kind: Kind, why: String) {
        self.failures.insert((experiment, kind), why);
    }

    /// Whether a contestant has failed at an experiment.
    pub fn has_failed(&self, experiment: &'static str, kind: Kind) -> bool {
        self.failures.contains_key(&(experiment, kind))
    }

    fn median(&self, row: &'static str, kind: Kind) -> Option<f64> {
        median(self.values.get(&(row, kind))?.values().copied().collect())
    }

    /// The median of the rounds' ratios.
    fn ratio(&self, row: &'static str) -> Option<f64> {
        let ours = self.values.get(&(row, Kind::Ours))?;
        let theirs = self.values.get(&(row, Kind::C))?;
        let ratios = ours.iter().filter_map(|(round, value)| Some(value / theirs.get(round)?));
        median(ratios.filter(|ratio| ratio.is_finite()).collect())
    }

    /// The target in words, and whether it is met.
    fn target(&self, (row, _, _, target): &Row) -> (String, Option<bool>) {
        // Half a unit of the last place that is shown.
        const SHOWN: f64 = 0.005;
        let (ratio, ours) = (self.ratio(row), self.median(row, Kind::Ours));
        // Where wake-ups cross processors, chance has a large part in it: no
        // worse is enough.
        let target = match target {
            AtLeast(_) if self.unconfined => &AtLeast(1.0),
            AtMost(_) if self.unconfined => &AtMost(1.0),
            target => target,
        };
        match target {
            AtLeast(least) => {
                (format!(">= {least:.2} x"), ratio.map(|ratio| ratio >= least - SHOWN))
            }
            AtMost(most) => (format!("<= {most:.2} x"), ratio.map(|ratio| ratio <= most + SHOWN)),
            Reaches(least) => (format!(">= {least}"), ours.map(|ours| ours >= *least)),
            StaysBelow(most) => (format!("<= {most}"), ours.map(|ours| ours <= most + SHOWN)),
            Target::None => (String::new(), None),
        }
    }

    /// The table.
    pub fn print(&self) {
        println!("{}", self.machine);
        println!(
            "medians of {} rounds, {}",
            self.rounds,
            if self.unconfined { "on all processors" } else { "on one processor" }
        );
        println!(
            "{:<33}{:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8}  target",
            "", "", "C", "ours", "socat", "bare", "handed", "ours/C"
        );
        for row in ROWS {
            let (name, title, unit, _) = row;
            if COLUMNS.iter().all(|(kind, _)| self.median(name, *kind).is_none()) {
                continue;
            }
            print!("{title:<33}{unit:>5}");
            for (kind, _) in COLUMNS {
                print!(" {:>9}", shown(self.median(name, kind)));
            }
            let (target, met) = self.target(row);
            let met = match met {
                Some(true) => "  met",
                Some(false) => "  MISSED",
                None => "",
            };
            println!(" {:>8}  {target:<9}{met}", shown(self.ratio(name)));
        }
        for ((experiment, kind), why) in &self.failures {
            println!("{experiment}, {kind:?}: {why}");
        }
    }

    /// Writes the report as JSON, with the value of each round.
    pub fn write_json(&self, path: &str) -> Result<()> {
        let rows: Vec<Value> = ROWS
            .iter()
            .map(|row| {
                let (target, met) = self.target(row);
                let contestants: serde_json::Map<String, Value> = COLUMNS
                    .iter()
                    .filter_map(|(kind, title)| {
                        let rounds = self.values.get(&(row.0, *kind))?;
                        let rounds: Vec<f64> = rounds.values().copied().collect();
                        let median = self.median(row.0, *kind);
                        Some(((*title).to_owned(), json!({ "median": median, "rounds": rounds })))
                    })
                    .collect();
                json!({
                    "name": row.0, "title": row.1.trim(), "unit": row.2, "target": target,
                    "met": met, "ratio": self.ratio(row.0), "contestants": contestants,
                })
            })
            .collect();
        let failures: Vec<Value> = self
            .failures
            .iter()
            .map(|((experiment, kind), why)| {
                json!({ "experiment": experiment, "contestant": format!("{kind:?}"), "why": why })
            })
            .collect();
        let all = json!({
            "machine": self.machine, "rounds": self.rounds, "confined": !self.unconfined,
            "rows": rows, "failures": failures,
        });
        Ok(std::fs::write(path, format!("{all:#}\n"))?)
    }
}

/// The machine of the measurement, in words.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let models: Vec<&str> = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, model)| model.trim())
        .collect();
    let system = read("/etc/os-release");
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    format!(
        "{} x {}{}, Linux {}, {}",
        models.len(),
        models.first().unwrap_or(&"an unknown processor"),
        if processors.contains(" hypervisor") { " (virtual)" } else { "" },
        read("/proc/sys/kernel/osrelease").trim(),
        system.unwrap_or("an unknown system").trim_matches('"'),
    )
}

/// The middle one; between the two in the middle where there is none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}
