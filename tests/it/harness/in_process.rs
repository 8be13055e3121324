//! An instance without uWSGI: the test's own program, executed once more, is its master
//! and forks the gateways (`in_process_master.rs`). For what is the gateway's own, it
//! starts in milliseconds, and its time can be moved.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fpty::sys::shm::SharedMemory;
use nix::sys::signal::{SigSet, Signal};

use super::in_process_master;

/// Where the master finds its options, and the number of the clock's descriptor.
const OPTIONS: &str = "FORKPTY_TEST_OPTIONS";
const CLOCK: &str = "FORKPTY_TEST_CLOCK";

/// Separator of arguments there: no path and no option has it.
const SEPARATOR: u8 = 0x1e;

/// How far the clocks of an instance were moved.
pub struct Clock {
    moved: SharedMemory<AtomicU64>,
    pub fd: OwnedFd,
}

impl Clock {
    pub fn new() -> Self {
        let (moved, fd) = SharedMemory::with_descriptor(1).expect("memory that is shared");
        Self { moved, fd }
    }

    /// Time passes at once; the gateways have to be woken.
    pub fn advance(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).expect("not as long");
        self.moved.words()[0].fetch_add(nanos, Ordering::AcqRel);
    }
}

/// The command that becomes the master, for one with uWSGI's arguments. The clock will
/// have the number `clock`.
pub fn command(of: &Command, clock: i32) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let name = concat!(module_path!(), "::becomes_the_master");
    let (_, name) = name.split_once("::").expect("a module of this program");
    command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
    for (name, value) in of.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(folder) = of.get_current_dir() {
        command.current_dir(folder);
    }
    let arguments: Vec<&[u8]> = of.get_args().map(OsStrExt::as_bytes).collect();
    command.env(OPTIONS, OsStr::from_bytes(&arguments.join(&SEPARATOR)));
    command.env(CLOCK, clock.to_string());
    command
}

/// Blocks what the master reads instead of having it handled, before its program is
/// executed: libtest has a thread of its own.
pub fn block_signals() -> nix::Result<()> {
    let read = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];
    read.into_iter().collect::<SigSet>().thread_block()
}

/// Not a case: what [`command`] executes.
#[test]
#[ignore = "the master of an instance, which other cases start"]
fn becomes_the_master() {
    let Some(options) = std::env::var_os(OPTIONS) else {
        return;
    };
    let clock = std::env::var(CLOCK).expect("the clock").parse().expect("its number");
    // SAFETY: the program that has executed this one left it open for us.
    let clock = unsafe { OwnedFd::from_raw_fd(clock) };
    use std::os::fd::AsFd;
    fpty::sys::clock::move_with(SharedMemory::of(clock.as_fd(), 1).expect("the clock"));
    let options = options.into_vec();
    let mut options = options.split(|byte| *byte == SEPARATOR).peekable();
    let mut asked = Vec::new();
    while let Some(name) = options.next() {
        let name = String::from_utf8_lossy(name);
        let (name, value) = match name.trim_start_matches("--").split_once('=') {
            Some((name, value)) => (name.to_owned(), OsString::from(value)),
            None => {
                let is_value = options.peek().is_some_and(|next| !next.starts_with(b"--"));
                let value = options.next_if(|_| is_value).unwrap_or_default();
                (name.trim_start_matches("--").to_owned(), OsStr::from_bytes(value).to_owned())
            }
        };
        asked.push((name, value));
    }
    let _ = clock.as_raw_fd();
    std::process::exit(in_process_master::master(&asked));
}
