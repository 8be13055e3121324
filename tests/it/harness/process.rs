//! Processes, as the kernel reports them (proc(5)).

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

/// The fields of `/proc/PID/stat` that the cases look at.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    pub name: String,
    pub state: char,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    pub terminal: i32,
    pub foreground: i32,
    /// User and system time, in ticks.
    pub ticks: u64,
}

impl Process {
    /// `None` when it is gone.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.rsplit_once(')')?;
        let field: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |at: usize| field.get(at)?.parse::<i64>().ok();
        Some(Self {
            pid,
            name: name.split_once('(')?.1.to_owned(),
            state: field.first()?.chars().next()?,
            parent: number(1)? as i32,
            group: number(2)? as i32,
            session: number(3)? as i32,
            terminal: number(4)? as i32,
            foreground: number(5)? as i32,
            ticks: (number(11)? + number(12)?) as u64,
        })
    }

    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// One line for a person.
    pub fn describe(&self) -> String {
        let command = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        format!(
            "pid {} parent {} group {} session {} state {} ticks {} {}: {}",
            self.pid,
            self.parent,
            self.group,
            self.session,
            self.state,
            self.ticks,
            self.name,
            String::from_utf8_lossy(&command).replace('\0', " ")
        )
    }
}

/// The numbers of all processes.
fn numbers() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The children of a process, zombies included.
pub fn children(pid: i32) -> Vec<Process> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let lists =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let of = |list: String| -> Vec<i32> {
        list.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
    };
    let children = lists.flat_map(of).filter_map(Process::of);
    // The list is of a moment that may be over.
    children.filter(|process| process.parent == pid).collect()
}

/// The processes whose environment holds `mark`. Cases ask for it all the time while they
/// wait: nothing of another process is looked at but these bytes, once.
pub fn marked(mark: &str) -> Vec<Process> {
    let mut buffer = vec![0; 1 << 17];
    let mut has_mark = |pid: &i32| {
        let environment = File::open(format!("/proc/{pid}/environ"));
        let count = environment.and_then(|mut file| file.read(&mut buffer)).unwrap_or_default();
        contains(&buffer[..count], mark.as_bytes())
    };
    numbers().filter(|pid| has_mark(pid)).filter_map(Process::of).collect()
}

/// As fast without optimisation as with it.
fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    // SAFETY: memmem(3) reads both slices within their lengths.
    let found = unsafe {
        libc::memmem(bytes.as_ptr().cast(), bytes.len(), wanted.as_ptr().cast(), wanted.len())
    };
    !found.is_null()
}

/// The open descriptors of a process and what they lead to, by number.
pub fn descriptors(pid: i32) -> Vec<(u32, PathBuf)> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let mut open: Vec<(u32, PathBuf)> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        })
        .collect();
    open.sort();
    open
}

/// A line of `/proc/PID/status`, such as `SigIgn` or `VmRSS`.
pub fn status(pid: i32, key: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.split(':').next() == Some(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A mask of signals from `/proc/PID/status`.
pub fn signals(pid: i32, key: &str) -> Option<u64> {
    u64::from_str_radix(&status(pid, key)?, 16).ok()
}

/// The memory that a process has of its own, in KiB.
pub fn private_memory(pid: i32) -> Option<u64> {
    status(pid, "RssAnon")?.split(' ').next()?.parse().ok()
}

/// Sends a signal to a process that the test started, or that its server did.
pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    assert!(pid > 1, "no process: {pid}");
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}
