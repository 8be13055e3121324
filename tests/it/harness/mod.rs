//! Harness of all cases: the servers to test, one of them running, a client of our own, and the
//! truth about processes.
//!
//! | file | subject |
//! | --- | --- |
//! | `servers.rs` | which servers the cases run on |
//! | `server.rs` | one of them, in a folder of its own |
//! | `in_process.rs` | an instance without uWSGI, whose time can be moved |
//! | `in_process_master.rs` | the master of such an instance |
//! | `wire.rs` | a client of our own: bytes, and packets of uwsgi mode |
//! | `detachable.rs` | an instance without uWSGI whose sessions can be detached |
//! | `attach_client.rs` | a client of the extended mode that detaches and attaches |
//! | `client.rs` | our clients, in a pipe or in front of a person |
//! | `terminal.rs` | a program on a terminal of its own |
//! | `person.rs` | somebody who looks at that |
//! | `instance.rs` | an instance, its sessions, each way to begin and each way to end |
//! | `live_session.rs` | one of those sessions, and its client |
//! | `reports.rs` | what audit, list, statistics and clients tell of a session, compared |
//! | `recording.rs` | recordings, and what the audit says of them |
//! | `executable.rs` | files that are executed |
//! | `ports.rs` | TCP ports that nobody else uses |
//! | `process.rs` | what the kernel says of processes |
//! | `users.rs` | clients of other users |
//! | `pid_reuse.rs` | processes with a number of our choice |
//! | `pty_server.rs` | a server whose first worker shares a terminal |
//! | `proxy.rs` | a relay between client and gateway, which may be slow |
//! | `broken_connection.rs` | a relay that breaks connections |
//! | `seccomp.rs` | system calls that are refused |
//! | `fake_gateway.rs` | a gateway that the test itself is, and that knows only the plain modes |
//! | `cost.rs` | what a gateway costs, and how quickly it answers |
//! | `documents.rs` | the commands in the documents |

pub mod attach_client;
pub mod broken_connection;
pub mod client;
pub mod cost;
pub mod detachable;
pub mod documents;
pub mod executable;
pub mod fake_gateway;
pub mod in_process;
mod in_process_master;
pub mod instance;
pub mod live_session;
pub mod person;
pub mod pid_reuse;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod pty_server;
pub mod recording;
pub mod reports;
pub mod seccomp;
pub mod server;
pub mod servers;
pub mod terminal;
pub mod users;
pub mod wire;

use std::time::{Duration, Instant};

pub use server::{Server, Setup};
pub use servers::{Flavor, in_process, on_every_server, on_every_server_in_turn, on_one_server};
pub use wire::Wire;

/// How long anything may take before it counts as never happening. The
/// machine may be slow and busy; nothing waits this long unless it fails.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Waits for a condition.
///
/// # Panics
/// It does not come true in time.
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(comes_true(DEADLINE, condition), "waited {DEADLINE:?} in vain: {what}");
}

/// Whether a condition comes true within a time.
pub fn comes_true(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if condition() {
            return true;
        }
        let waited = begin.elapsed();
        if waited >= within {
            return false;
        }
        // Whatever takes long is not asked for all the time: others need the processor.
        std::thread::sleep(
            (waited / 16).clamp(Duration::from_millis(2), Duration::from_millis(50)),
        );
    }
}

/// Does the same for each of these side by side: what mostly waits does not wait for
/// the others.
///
/// # Panics
/// One of them did.
#[track_caller]
pub fn side_by_side<T: Send>(all: impl IntoIterator<Item = T>, part: impl Fn(T) + Sync) {
    let part = &part;
    std::thread::scope(|scope| {
        for one in all {
            scope.spawn(move || part(one));
        }
    });
}

/// Bytes that look random and are the same each time (xorshift64).
pub fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Output of `seq 1 LAST`.
pub fn sequence(last: u32) -> Vec<u8> {
    (1..=last).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

/// Compares two long byte strings, and shows only where they part.
#[track_caller]
pub fn assert_same(got: &[u8], wanted: &[u8]) {
    if got == wanted {
        return;
    }
    let at = got.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    let near = |bytes: &[u8]| {
        let end = (at + 60).min(bytes.len());
        String::from_utf8_lossy(&bytes[at.saturating_sub(20).min(end)..end]).into_owned()
    };
    panic!(
        "got {} bytes, wanted {}; they part at {at}: got {:?}, wanted {:?}",
        got.len(),
        wanted.len(),
        near(got),
        near(wanted)
    );
}
