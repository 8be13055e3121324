//! Servers that record, their files, and what the audit says of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::client::both;
use super::process::Process;
use super::{Flavor, Server, Setup, wait_until};

/// The audit's lines of ends that tell of a recording.
pub fn ends(server: &Server) -> Vec<Value> {
    let log = server.log();
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let lines = whole.lines().filter_map(|line| line.strip_prefix("forkptyrouter-audit: "));
    let parsed = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    parsed.filter(|line| line["event"] == "session-end").collect()
}

/// Waits for so many ends, and returns what the last one says of a recording.
#[track_caller]
pub fn record(server: &Server, count: usize) -> Value {
    wait_until("the audit tells the end", || ends(server).len() >= count);
    ends(server)[count - 1]["record"].clone()
}

/// A server that records in `r`.
pub fn recorded(flavor: &Flavor) -> Setup {
    both(Setup::new(flavor))
        .option("forkptyrouter-record", "{dir}/r")
        .option("forkptyrouter-audit", "json")
}

/// As [`recorded`], with sessions of nobody's where we may.
pub fn dropping(flavor: &Flavor) -> Option<Setup> {
    if !nix::unistd::getuid().is_root() {
        eprintln!("skipped: only root can drop privileges");
        return None;
    }
    let setup = recorded(flavor).option("uid", "nobody").option("gid", "nogroup");
    // Where the sockets are to be made.
    fs::set_permissions(setup.path(""), fs::Permissions::from_mode(0o777)).expect("mode");
    Some(setup)
}

/// A file as it is read back.
pub struct Cast {
    pub header: Value,
    pub events: Vec<(f64, String, String)>,
    pub last: String,
}

impl Cast {
    #[track_caller]
    pub fn read(path: impl AsRef<Path>) -> Self {
        let text = fs::read_to_string(path).expect("a recording");
        let mut lines: Vec<&str> = text.lines().collect();
        let last = lines.pop().expect("a last line").to_owned();
        let mut lines = lines.into_iter();
        let json = |line: &str| serde_json::from_str::<Value>(line).expect(line);
        let header = json(lines.next().expect("a header"));
        let mut at = 0.0;
        let events = lines
            .map(|line| {
                let (time, kind, text): (f64, String, String) =
                    serde_json::from_value(json(line)).expect(line);
                at = if header["version"] == 3 { at + time } else { time };
                (at, kind, text)
            })
            .collect();
        Self { header, events, last }
    }

    pub fn all(&self, kind: &str) -> String {
        self.events.iter().filter(|(_, is, _)| is == kind).map(|(.., text)| text.as_str()).collect()
    }

    pub fn total(&self, name: &str) -> &str {
        let (_, rest) = self.last.split_once(&format!("{name}=")).expect(name);
        rest.split([' ', '"']).next().expect("a value")
    }

    /// The hash is that of all before the last line, and the audit's.
    #[track_caller]
    pub fn check(&self, record: &Value) {
        let path = record["path"].as_str().expect("a path");
        let text = fs::read(path).expect("a recording");
        assert_eq!(record["bytes"], text.len());
        let head = format!("head -n -1 '{path}' | sha256sum");
        let sum = Command::new("sh").args(["-c", &head]).output().expect("sha256sum").stdout;
        let sum = String::from_utf8(sum).expect("text");
        assert_eq!(record["sha256"], self.total("sha256"));
        assert_eq!(sum.split(' ').next(), record["sha256"].as_str());
        assert_eq!(record["dropped"].to_string(), self.total("dropped"));
        assert_eq!(self.total("bytes"), (text.len() - self.last.len() - 1).to_string());
    }
}

pub fn files(server: &Server) -> Vec<PathBuf> {
    let entries = fs::read_dir(server.path("r")).expect("the folder");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Waits until output is in a file: it is written a moment after it was shown.
pub fn wait_until_written(server: &Server, what: &str) {
    let has_it = |file: &PathBuf| fs::read_to_string(file).is_ok_and(|text| text.contains(what));
    wait_until(&format!("{what} is in a file"), || files(server).iter().any(has_it));
}

pub fn recorder(server: &Server) -> Option<Process> {
    server.process_named("fpty-recorder")
}

/// The recorder's pid, as soon as it runs.
#[track_caller]
pub fn running(server: &Server, name: &str) -> i32 {
    wait_until(&format!("{name} runs"), || server.process_named(name).is_some());
    server.process_named(name).expect("it runs").pid
}
