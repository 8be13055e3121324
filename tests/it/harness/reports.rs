//! All who tell of sessions, compared with each other: the audit, the list, the
//! statistics and what they count, Prometheus' numbers, the recordings, the table
//! of processes. And one session's end, as each has to tell it.

use std::cell::Ref;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::instance::{ClientReport, Instance, LiveSession};
use super::process::{self, Process};
use super::recording::{Cast, files};
use super::{DEADLINE, wait_until};
use crate::audit::lines::lines;
use crate::metrics::counters::{get, parse};

/// Fields that all audit lines of a session share, from its first to its last.
const CONSTANT: [&str; 4] = ["id", "host", "socket", "mode"];
const AT_BOTH_ENDS: [&str; 3] = ["uid", "gid", "command"];

/// How a session ended, as it is told.
#[derive(Clone, Debug, Default)]
pub struct ExpectedEnd {
    /// The reason in the audit and in the counters.
    pub reason: &'static str,
    /// How its program ended, where it ended first.
    pub status: Option<i32>,
    pub signal: Option<i32>,
    /// The client's exit status, and the kind of its end (`--status-json`).
    pub client: Option<(i32, &'static str)>,
}

/// The audit's lines of each session: its beginning, and its end where it has one.
#[derive(Debug, Default)]
struct Book {
    starts: BTreeMap<String, Value>,
    ends: BTreeMap<String, Value>,
    /// How many were refused, by reason, since the last reload.
    refused: BTreeMap<String, u64>,
}

type Answer = Result<(), String>;

fn same<T: PartialEq + Debug>(what: &str, got: T, wanted: T) -> Answer {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?} instead of {wanted:?}")) }
}

fn id_of(value: &Value) -> String {
    value["id"].as_str().expect("an id").to_owned()
}

/// How many seconds lie between two times of one day or two (RFC 3339).
fn apart(from: &Value, to: &Value) -> f64 {
    let of_day = |time: &Value| -> f64 {
        let (_, time) = time.as_str().and_then(|text| text.split_once('T')).expect("a time");
        let parts = time.trim_end_matches('Z').split(':').map(|part| part.parse::<f64>().unwrap());
        parts.fold(0.0, |all, part| all * 60.0 + part)
    };
    let apart = of_day(to) - of_day(from);
    if apart < -80_000.0 { apart + 86_400.0 } else { apart }
}

impl Instance {
    /// All lines of the audit. Cases ask for them all the time while they wait: each is
    /// parsed once.
    #[track_caller]
    pub fn audit(&self) -> Ref<'_, Vec<Value>> {
        let log = self.server.log();
        let parsed = self.audit.borrow().0;
        let whole = log.rfind('\n').map_or(parsed, |end| end + 1);
        let new = lines(&log[parsed..whole]);
        self.audit.borrow_mut().1.extend(new);
        self.audit.borrow_mut().0 = whole;
        Ref::map(self.audit.borrow(), |(_, lines)| lines)
    }

    /// The lines of one session, each its event and reason.
    pub fn events(&self, id: &str) -> Vec<String> {
        let word = |line: &Value, name: &str| line[name].as_str().map(str::to_owned);
        let told = |line: &Value| match word(line, "reason") {
            Some(reason) => format!("{} {reason}", word(line, "event").unwrap_or_default()),
            None => word(line, "event").unwrap_or_default(),
        };
        self.audit().iter().filter(|line| line["id"] == id).map(told).collect()
    }

    /// How many lines of refusals there are.
    pub(super) fn refused(&self) -> usize {
        self.audit().iter().filter(|line| line["event"] == "refused").count()
    }

    /// The statistics.
    #[track_caller]
    pub fn statistics(&self) -> Value {
        let (_, body) = get(&self.server, "/");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body:?}"))
    }

    /// `fpty --list --json`.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        let output = self.fpty(&["--list", "--json"]).output().expect("fpty runs");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("a list")
    }

    fn book(&self) -> Result<Book, String> {
        let mut book = Book::default();
        let mut refusals = 0;
        for line in self.audit().iter() {
            same("lines that were lost", &line["lost"], &Value::Null)?;
            if line["event"] == "refused" {
                refusals += 1;
                if refusals > *self.refused_before.borrow() {
                    let reason = line["reason"].as_str().unwrap_or_default().to_owned();
                    let count = line["count"].as_u64().unwrap_or(1);
                    *book.refused.entry(reason).or_default() += count;
                }
                continue;
            }
            let id = id_of(line);
            let Some(start) = book.starts.get(&id) else {
                same("the first event of a session", &line["event"], &json!("session-start"))?;
                book.starts.insert(id, line.clone());
                continue;
            };
            for name in CONSTANT {
                same(&format!("{name} of {line}"), &line[name], &start[name])?;
            }
            if book.ends.contains_key(&id) {
                return Err(format!("told of after its end: {line}"));
            }
            if line["event"] == "session-end" {
                for name in AT_BOTH_ENDS {
                    same(&format!("{name} of {line}"), &line[name], &start[name])?;
                }
                same(&format!("pid of {line}"), &line["pid"], &start["pid"])?;
                same(&format!("peer of {line}"), &line["peer"]["uid"], &start["peer"]["uid"])?;
                // From its true beginning on, whoever has told the end.
                let took = line["duration"].as_f64().unwrap_or(-1.0);
                if (apart(&start["time"], &line["time"]) - took).abs() > 1.0 {
                    return Err(format!("it took another time: {start} {line}"));
                }
                book.ends.insert(id, line.clone());
            } else if line["event"] == "session-start" {
                return Err(format!("it begins twice: {line}"));
            }
        }
        Ok(book)
    }

    /// Whether all tell the same, and what not.
    fn compares(&self) -> Answer {
        let book = self.book()?;
        let ended = |id: &String| book.ends.contains_key(id);
        let living: BTreeSet<String> =
            book.starts.keys().filter(|id| !ended(id)).cloned().collect();
        let (list, statistics) = (self.list(), self.statistics());
        let shown = statistics["sessions"].as_array().expect("a list");
        same("gateways that are unheard", &statistics["unheard"], &Value::Null)?;
        for (who, rows) in [("the list", &list), ("the statistics", shown)] {
            let (over, alive): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["ended"] == true);
            let ids: BTreeSet<String> = alive.iter().map(|row| id_of(row)).collect();
            same(&format!("whom {who} has"), &ids, &living)?;
            same(&format!("rows of {who}"), alive.len(), living.len())?;
            if let Some(row) = over.iter().find(|row| !ended(&id_of(row))) {
                return Err(format!("{who} has it as ended, and the audit has not: {row}"));
            }
            for row in alive {
                let start = &book.starts[&id_of(row)];
                for name in ["socket", "pid", "command"] {
                    same(&format!("{name}: {who} of {row}"), &row[name], &start[name])?;
                }
                if apart(&start["time"], &row["started"]).abs() > 1.0 {
                    return Err(format!("it began at another time: {who} of {row}, {start}"));
                }
                let user = if who == "the list" { &row["uid"] } else { &row["peer"]["uid"] };
                same(&format!("the user: {who} of {row}"), user, &start["peer"]["uid"])?;
            }
        }
        self.counters_agree(&book, &statistics, living.len() as u64)?;
        self.recordings_agree(&book)?;
        let programs: BTreeMap<i64, &String> =
            living.iter().filter_map(|id| Some((book.starts[id]["pid"].as_i64()?, id))).collect();
        self.processes_agree(&programs)
    }

    fn counters_agree(&self, book: &Book, statistics: &Value, living: u64) -> Answer {
        let forgotten = self.forgotten.borrow();
        let counted = |lines: &BTreeMap<String, Value>| -> Vec<Value> {
            let known = lines.iter().filter(|(id, _)| !forgotten.contains(*id));
            known.map(|(_, line)| line.clone()).collect()
        };
        let (begun, ends) = (counted(&book.starts).len() as u64, counted(&book.ends));
        let (_, text) = get(&self.server, "/metrics");
        let metrics = parse(&text);
        let metric = |name: String| metrics.get(&name).map(|number| *number as u64);
        let counters = &statistics["counters"];
        same("active_sessions", &statistics["active_sessions"], &json!(living))?;
        same("forkptyrouter_sessions", metric("forkptyrouter_sessions".into()), Some(living))?;
        same("accepted", &counters["accepted"], &json!(begun))?;
        let accepted = metric("forkptyrouter_accepted_total".into());
        same("forkptyrouter_accepted_total", accepted, Some(begun))?;
        for (reason, number) in counters["ended"].as_object().expect("reasons") {
            let wanted = ends.iter().filter(|end| end["reason"] == reason.as_str()).count() as u64;
            same(&format!("ended by {reason}"), number, &json!(wanted))?;
            let metric = metric(format!("forkptyrouter_ended_total{{reason=\"{reason}\"}}"));
            same(&format!("ended_total by {reason}"), metric, Some(wanted))?;
        }
        for (reason, number) in counters["refused"].as_object().expect("reasons") {
            let wanted = book.refused.get(reason).copied().unwrap_or(0);
            same(&format!("refused by {reason}"), number, &json!(wanted))?;
            let metric = metric(format!("forkptyrouter_refused_total{{reason=\"{reason}\"}}"));
            same(&format!("refused_total by {reason}"), metric, Some(wanted))?;
        }
        // How long it took is not known of all that were lost.
        let lost = ends.iter().filter(|end| end["reason"] == "lost").count() as u64;
        let durations = metric("forkptyrouter_session_duration_seconds_count".into()).unwrap_or(0);
        let all = ends.len() as u64;
        if !(all - lost..=all).contains(&durations) {
            return Err(format!("{durations} durations of {all} that have ended"));
        }
        Ok(())
    }

    /// Each recorded session has one file, which is complete when the session has ended.
    fn recordings_agree(&self, book: &Book) -> Answer {
        let files = if self.recorded { files(&self.server) } else { Vec::new() };
        let mut known = 0;
        for (id, start) in &book.starts {
            let is_it = |path: &&std::path::PathBuf| path.to_string_lossy().contains(id.as_str());
            let own: Vec<_> = files.iter().filter(is_it).collect();
            known += own.len();
            let wanted = usize::from(self.recorded && !start["tty"].is_null());
            same(&format!("files of {start}: {own:?}"), own.len(), wanted)?;
            let Some(file) = own.first() else { continue };
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default();
            let end = book.ends.get(id);
            same(&format!("{file:?} is complete"), last.contains("sha256="), end.is_some())?;
            let Some(end) = end else { continue };
            let record = &end["record"];
            same("its path", record["path"].as_str(), file.to_str())?;
            let cast = Cast::read(file);
            same(&format!("what {file:?} lacks"), cast.total("dropped"), "0")?;
            // Where there was no gateway nobody knew more than the path.
            if !record["sha256"].is_null() {
                cast.check(record);
            }
            let status = end["status"].as_i64();
            let told = cast.all("x");
            let wanted = status.map(|status| status.to_string());
            if wanted.is_some_and(|status| status != told) {
                return Err(format!("{file:?} ends with {told:?}: {end}"));
            }
        }
        same("files of nobody", files.len(), known)
    }

    /// Live sessions have a program, nobody else has one, and no helper is left that
    /// nobody needs.
    fn processes_agree(&self, programs: &BTreeMap<i64, &String>) -> Answer {
        for (pid, id) in programs {
            if Process::of(*pid as i32).is_none_or(|one| one.is_zombie()) {
                return Err(format!("{id} has no program any more: {pid}"));
            }
        }
        let is_helper = |one: &Process| one.name.starts_with("fpty-");
        for one in self.server.session_processes() {
            let is_known = programs.contains_key(&i64::from(one.session));
            if !is_known && !is_helper(&one) {
                return Err(format!("a program of nobody's: {}", one.describe()));
            }
        }
        let gateways = self.all_gateways();
        for one in gateways.iter().flat_map(|gateway| process::children(*gateway)) {
            if one.is_zombie() && !is_helper(&one) {
                return Err(format!("not reaped: {}", one.describe()));
            }
        }
        let all = self.server.processes();
        let count = |name: &str| all.iter().filter(|one| one.name == name).count();
        let recorders = usize::from(self.recorded);
        same("fpty-recorder", count("fpty-recorder"), recorders)?;
        same("fpty-rec-keeper", count("fpty-rec-keeper"), recorders)?;
        same("fpty-aftercare", count("fpty-aftercare"), 0)?;
        same("more than one fpty-supervisor", count("fpty-supervisor") > 1, false)
    }

    /// Waits until all tell the same.
    ///
    /// # Panics
    /// They do not within [`DEADLINE`]; it says in what not.
    #[track_caller]
    pub fn agrees(&self, when: &str) {
        let end = Instant::now() + DEADLINE;
        while let Err(difference) = self.compares() {
            if Instant::now() > end {
                let (list, statistics) = (self.list(), self.statistics());
                panic!("{when}: {difference}\nlist: {list:#?}\nstatistics: {statistics:#}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// All reports agree, and list these live sessions.
    #[track_caller]
    pub fn assert_lists<'a>(&self, when: &str, lives: impl IntoIterator<Item = &'a LiveSession>) {
        self.agrees(when);
        let mut wanted: Vec<&str> = lives.into_iter().map(|life| life.id.as_str()).collect();
        let living = self.list().into_iter().filter(|row| row["ended"] != true);
        let mut found: Vec<String> = living.map(|row| id_of(&row)).collect();
        wanted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, wanted, "{when}");
    }

    /// Waits until the audit tells of a session's end, and compares it with what has to
    /// be told, by its client, too.
    #[track_caller]
    pub fn tells(&self, what: &str, id: &str, told: Option<&ClientReport>, fate: &ExpectedEnd) {
        let mut ends = Vec::new();
        wait_until(&format!("{what}: its end is told"), || {
            let is_it = |line: &Value| line["id"] == id && line["event"] == "session-end";
            ends = self.audit().iter().filter(|line| is_it(line)).cloned().collect();
            !ends.is_empty()
        });
        assert_eq!(ends.len(), 1, "{what}: {ends:#?}");
        let (events, last) = (self.events(id), format!("session-end {}", fate.reason));
        assert_eq!(events.last(), Some(&last), "{what}: {events:?} {told:?}");
        let end = &ends[0];
        assert_eq!(
            (&end["reason"], &end["status"], &end["signal"]),
            (&json!(fate.reason), &json!(fate.status), &json!(fate.signal)),
            "{what}: {end:#} {told:?}"
        );
        // Who knows no extended mode, and is no process, has no status.
        let told = told.filter(|told| told.status.is_some());
        if let (Some(told), Some((status, kind))) = (told, fate.client) {
            let text = told.json["text"].as_str().unwrap_or_default();
            let line = if text.is_empty() { String::new() } else { format!("fpty: {text}") };
            assert_eq!((&told.line, kind == "exit"), (&line, text.is_empty()), "{what}: {told:#?}");
            let said = (told.status, told.json["kind"].as_str(), told.json["status"].as_i64());
            let wanted = (Some(status), Some(kind), Some(i64::from(status)));
            assert_eq!(said, wanted, "{what}: {told:#?} {end:#}");
        }
    }

    /// After a stop: nothing runs any more, and whatever began has ended.
    #[track_caller]
    pub fn assert_all_over(&self, when: &str) {
        wait_until(&format!("{when}: nothing runs"), || self.server.processes().is_empty());
        let book = self.book().unwrap_or_else(|difference| panic!("{when}: {difference}"));
        let open: Vec<_> = book.starts.keys().filter(|id| !book.ends.contains_key(*id)).collect();
        assert!(open.is_empty(), "{when}: they have no end: {open:?}");
        if let Err(difference) = self.recordings_agree(&book) {
            panic!("{when}: {difference}");
        }
    }
}
