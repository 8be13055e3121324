//! This plugin side by side with uWSGI's C plugin, both in the same server,
//! with socat, and with a bare terminal (no server at all: the limit).
//!
//! | file | subject |
//! | --- | --- |
//! | `main.rs` | the command line, and the rounds |
//! | `contestant.rs` | the servers, and the sessions that one opens with them |
//! | `agent.rs` | the program on the other side of the terminal |
//! | `handed.rs` | clients in extended mode: the terminal is handed over |
//! | `confine.rs` | everything on one processor |
//! | `usage.rs` | what a process has used, by /proc and its clock |
//! | `transfer.rs`, `echo.rs`, `short.rs`, `idle.rs`, `left.rs` | what is measured |
//! | `recorded.rs` | the same with recordings |
//! | `report.rs` | the rows, their targets, the table and the JSON |
//!
//! Chance and neighbours move every number here by tens of percent, so the
//! contestants take turns in rounds, and what counts is the median of the
//! rounds' ratios.

mod agent;
mod confine;
mod contestant;
mod echo;
mod handed;
mod idle;
mod left;
mod recorded;
mod report;
mod short;
mod transfer;
mod usage;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use contestant::{Kind, World};

/// Whatever goes wrong ends in a line for a person.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Values of an experiment: rows of the report and their values.
type Values = Vec<(&'static str, f64)>;

/// Something that is measured with each contestant.
struct Experiment {
    name: &'static str,
    run: fn(&World, Kind, Effort) -> Result<Values>,
    /// Takes so long that one round in three is enough.
    slow: bool,
    contestants: &'static [Kind],
}

/// How long to measure.
#[derive(Clone, Copy)]
struct Effort {
    quick: bool,
}

impl Effort {
    /// This amount, or a quarter of it.
    fn amount(self, full: u64) -> u64 {
        if self.quick { full / 4 } else { full }
    }

    /// This many milliseconds, or half of them.
    fn time(self, millis: u64) -> Duration {
        Duration::from_millis(if self.quick { millis / 2 } else { millis })
    }
}

const ALL: &[Kind] = &[Kind::C, Kind::Ours, Kind::Socat, Kind::Bare];
/// Contestants of experiments where it counts that the terminal can be handed over.
const TERMINALS: &[Kind] = &[Kind::C, Kind::Ours, Kind::Socat, Kind::Bare, Kind::Handed];
const SERVERS: &[Kind] = &[Kind::C, Kind::Ours, Kind::Socat];
const FRAMED: &[Kind] = &[Kind::C, Kind::Ours, Kind::Bare];
const PLUGINS: &[Kind] = &[Kind::C, Kind::Ours];

const EXPERIMENTS: &[Experiment] = &[
    Experiment { name: "output", run: transfer::output_raw, slow: false, contestants: TERMINALS },
    Experiment {
        name: "output-uwsgi",
        run: transfer::output_uwsgi,
        slow: false,
        contestants: PLUGINS,
    },
    Experiment { name: "input", run: transfer::input_raw, slow: false, contestants: TERMINALS },
    Experiment { name: "input-4k", run: transfer::input_4k, slow: false, contestants: FRAMED },
    Experiment { name: "input-1", run: transfer::input_1, slow: false, contestants: PLUGINS },
    Experiment { name: "echo", run: echo::alone, slow: false, contestants: TERMINALS },
    Experiment { name: "echo-idle", run: echo::beside_idle, slow: false, contestants: ALL },
    Experiment { name: "echo-busy", run: echo::beside_busy, slow: false, contestants: ALL },
    Experiment { name: "recorded", run: recorded::both, slow: false, contestants: &[Kind::Ours] },
    Experiment { name: "short", run: short::one_by_one, slow: false, contestants: ALL },
    Experiment {
        name: "short-extended",
        run: short::extended,
        slow: false,
        contestants: &[Kind::Ours],
    },
    Experiment { name: "short-8", run: short::eight_at_a_time, slow: false, contestants: ALL },
    Experiment { name: "short-512", run: short::large_server, slow: false, contestants: SERVERS },
    Experiment {
        name: "short-2048",
        run: short::very_large_server,
        slow: true,
        contestants: PLUGINS,
    },
    Experiment { name: "idle", run: idle::memory_and_cpu, slow: true, contestants: SERVERS },
    Experiment { name: "left", run: left::few, slow: true, contestants: &[Kind::Ours] },
    Experiment { name: "left-8000", run: left::many, slow: true, contestants: &[Kind::Ours] },
];

const USAGE: &str = "\
usage: side_by_side --bench [--rounds N] [--only NAME[,NAME...]] [--quick] [--unconfined]
       [--cpu N] [--json FILE] [--against PLUGIN]
--against puts another build of ours, its forkptyrouter_plugin.so, in the C plugin's place.
The environment: UWSGI (the server), UWSGI_C_PLUGINS (the folder of its C plugins),
FORKPTY_PLUGIN (our forkptyrouter_plugin.so, built for that server).";

struct Arguments {
    rounds: usize,
    only: Vec<String>,
    effort: Effort,
    unconfined: bool,
    cpu: Option<usize>,
    json: Option<String>,
    against: Option<PathBuf>,
}

fn main() -> ExitCode {
    // The servers start this same binary under another name.
    if std::env::args().next().is_some_and(|name| name.ends_with(agent::NAME)) {
        return match agent::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        // `cargo test --all-targets` runs this, too.
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match parse(&arguments).and_then(|arguments| bench(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("side_by_side: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<Arguments> {
    let mut parsed = Arguments {
        rounds: 0,
        only: Vec::new(),
        effort: Effort { quick: false },
        unconfined: false,
        cpu: None,
        json: None,
        against: None,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| format!("{argument} wants a value\n{USAGE}"));
        match argument.as_str() {
            "--bench" => {}
            "--quick" => parsed.effort.quick = true,
            "--unconfined" => parsed.unconfined = true,
            "--rounds" => parsed.rounds = value()?.parse()?,
            "--cpu" => parsed.cpu = Some(value()?.parse()?),
            "--against" => parsed.against = Some(value()?.into()),
            "--json" => parsed.json = Some(value()?.clone()),
            "--only" => {
                for name in value()?.split(',') {
                    if !EXPERIMENTS.iter().any(|experiment| experiment.name == name) {
                        let names: Vec<_> = EXPERIMENTS.iter().map(|each| each.name).collect();
                        return Err(format!("no {name}; there are {}", names.join(", ")).into());
                    }
                    parsed.only.push(name.to_owned());
                }
            }
            _ => return Err(format!("{argument}?\n{USAGE}").into()),
        }
    }
    if parsed.rounds == 0 {
        parsed.rounds = if parsed.effort.quick { 3 } else { 9 };
    }
    Ok(parsed)
}

fn bench(arguments: &Arguments) -> Result<()> {
    confine::raise_descriptor_limit()?;
    let _confined = if arguments.unconfined {
        None
    } else {
        Some(confine::Confined::to_one_processor(arguments.cpu)?)
    };
    let world = World::new(arguments.against.clone())?;
    let somebody_watches = std::io::stderr().is_terminal();
    let mut report = report::Report::new(arguments.rounds, arguments.unconfined);
    for round in 0..arguments.rounds {
        for experiment in EXPERIMENTS {
            if !arguments.only.is_empty() && !arguments.only.iter().any(|n| n == experiment.name)
                || experiment.slow && round % 3 != 0
            {
                continue;
            }
            if somebody_watches {
                eprint!("\rround {}/{}: {:<14}", round + 1, arguments.rounds, experiment.name);
            }
            // Whoever comes first finds colder caches: each in turn.
            for turn in 0..experiment.contestants.len() {
                let kind = experiment.contestants[(turn + round) % experiment.contestants.len()];
                if report.has_failed(experiment.name, kind) || !world.has(kind) {
                    continue;
                }
                match (experiment.run)(&world, kind, arguments.effort) {
                    Ok(values) => report.add(round, kind, &values),
                    Err(error) => report.failed(experiment.name, kind, error.to_string()),
                }
            }
        }
    }
    if somebody_watches {
        eprint!("\r{:<40}\r", "");
    }
    report.print();
    if let Some(path) = &arguments.json {
        report.write_json(path)?;
    }
    Ok(())
}
