//! Cost of a server's gateway, and how quickly it answers.

use std::time::{Duration, Instant};

use super::process::{self, Process};
use super::{Server, Wire};

/// A program that says `ready` and then passes every byte back unchanged.
pub const ECHO: &str = "stty raw -echo; echo ready; exec cat";

/// A program whose terminal is raw and that runs the line it is sent.
pub const RUN: &str = "stty raw -echo; echo ready; read line; eval \"$line\"";

/// A session of [`ECHO`], once it is ready.
#[track_caller]
pub fn echo_session(server: &Server, socket: &str) -> Wire {
    let mut client = server.connect(socket);
    client.read_until("ready\n");
    client
}

/// A session of [`RUN`] that runs `command`.
#[track_caller]
pub fn running(server: &Server, socket: &str, command: &str) -> Wire {
    let mut client = server.connect(socket);
    client.read_until("ready\n");
    client.send(format!("{command}\n"));
    client
}

/// Sends `count` tokens, one after the other, and returns how long each took
/// to come back, the slowest last.
#[track_caller]
pub fn echoes(client: &mut Wire, count: usize) -> Vec<Duration> {
    let mut took: Vec<Duration> = (0..count)
        .map(|number| {
            let begin = Instant::now();
            let token = format!("<{number}>");
            client.send(&token);
            client.read_until(&token);
            begin.elapsed()
        })
        .collect();
    took.sort();
    took
}

/// The share of a processor that a process uses within a time.
pub fn load(pid: i32, within: Duration) -> f64 {
    let ticks = || Process::of(pid).map_or(0, |process| process.ticks);
    let (before, begin) = (ticks(), Instant::now());
    std::thread::sleep(within);
    (ticks() - before) as f64 / 100.0 / begin.elapsed().as_secs_f64()
}

/// Resources of a gateway at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    pub descriptors: usize,
    pub children: usize,
    /// In KiB.
    pub memory: u64,
}

impl Holdings {
    /// The resources of a process.
    pub fn of(pid: i32) -> Self {
        Self {
            // The alarm for what is far away comes with the first of it, and stays.
            descriptors: process::descriptors(pid)
                .iter()
                .filter(|(_, path)| !path.ends_with("anon_inode:[timerfd]"))
                .count(),
            // The process that sees to what a killed gateway leaves does not
            // count.
            children: process::children(pid).iter().filter(|p| p.name != "fpty-aftercare").count(),
            memory: process::private_memory(pid).unwrap_or(0),
        }
    }
}

/// Waits until a gateway has no more descriptors and children than it had.
#[track_caller]
pub fn wait_until_as_before(pid: i32, before: Holdings) {
    super::wait_until("descriptors and children are as before", || {
        let now = Holdings::of(pid);
        (now.descriptors, now.children) == (before.descriptors, before.children)
    });
}
