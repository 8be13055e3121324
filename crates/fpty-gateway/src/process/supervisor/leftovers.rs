//! Cleanup after a gateway that has ended, killed by its master at a stop or a reload, or by
//! anybody.
//!
//! Its terminals close with it, so the kernel hangs them up; commands without a terminal are
//! hung up by the process that comes after the gateway. A program that ignores SIGHUP would
//! stay for good, without terminal, client or supervisor, and the audit would lack its end.
//! So programs and prepared audit lines are noted in memory that outlives the gateway
//! (`leaders.rs`, `end_lines.rs`). The process that comes after it handles them, always by
//! the same function: the next gateway; at the end of the master the master itself, and a
//! process of its own that waits for the grace; where the master was killed, too, the
//! supervisor.

use std::ops::Range;
use std::time::Duration;

use super::end_lines::{self, LineSelection};
use super::grace::Grace;
use super::{leaders, supervisor_link};
use crate::host::host;
use crate::log;
use crate::observe::audit::prepared_end;
use crate::observe::recording::orphan_ends;
use crate::process::gateway_token;
use crate::process::shared_memory;
use fpty::sys::daemonize;
use fpty::sys::process_identity::ProcessIdentity;
use fpty::sys::process_session::SessionLeader;

/// Keeper of the sessions of gateways that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supervision {
    /// The supervisor's.
    Supervisor,
    /// The supervisor, but for audit lines: it will have no log.
    SupervisorWithoutLog,
    /// Nobody's: the supervisor is gone.
    Nobody,
}

impl Supervision {
    /// The keeper of sessions now.
    pub fn now() -> Self {
        match supervisor_link::is_running() {
            true => Self::Supervisor,
            false => Self::Nobody,
        }
    }
}

/// Sessions that gateways have left behind.
#[derive(Default)]
pub struct OrphanedSessions {
    /// Audit lines that were not written.
    pub lines: Vec<String>,
    /// Session leaders that were hung up and have not ended.
    leaders: Vec<ProcessIdentity>,
}

impl OrphanedSessions {
    /// Takes what these gateways have left.
    pub fn of(gateways: Range<usize>, kept: Supervision) -> Self {
        let mut orphaned = Self::default();
        for one in gateways {
            orphaned.take(one, leaders::supervisor_of(one), kept);
        }
        orphaned
    }

    /// Takes what the gateway before with this ordinal has left, whose sessions the
    /// supervisor of this generation had. To be called when the supervisor has handed its
    /// sessions over, and before anything of ours is noted.
    pub fn before(gateway: usize, supervisor: u64) -> Self {
        let mut orphaned = Self::default();
        orphaned.take(gateway, supervisor, Supervision::now());
        orphaned
    }

    fn take(&mut self, gateway: usize, supervisor: u64, kept: Supervision) {
        let kept = match supervisor == gateway_token::supervisor_generation() {
            true => kept,
            // It was gone before the gateway was, which had no time for the next.
            false => Supervision::Nobody,
        };
        let which = match kept {
            Supervision::Supervisor => LineSelection::Unsupervised,
            Supervision::SupervisorWithoutLog | Supervision::Nobody => LineSelection::All,
        };
        self.lines.extend(end_lines::take_remaining(gateway, which));
        // Who looked on did so before.
        self.lines.sort_by_key(|line| prepared_end::is_end(line));
        // In another PID namespace all end with their gateway.
        if leaders::is_in_same_pid_namespace(gateway) {
            self.leaders.extend(leaders::take_remaining(gateway, kept == Supervision::Nobody));
        }
    }

    /// The leaders that still run.
    pub fn leaders(&self) -> impl Iterator<Item = SessionLeader> {
        self.leaders.iter().copied().filter_map(SessionLeader::open)
    }

    /// The leaders that still run, to be killed when their grace is over.
    pub fn grace(&self, grace: Option<Duration>) -> Grace {
        let mut waiting = Grace::new(grace);
        self.leaders().for_each(|leader| waiting.add(leader));
        waiting
    }
}

/// At the end of the master: the gateways are gone.
pub fn after_master_end(grace: Option<Duration>) {
    let kept = match Supervision::now() {
        // What the supervisor writes to is the master's, where that logs for all.
        Supervision::Supervisor if host().is_stopping() => {
            gateway_token::set_ends_written();
            Supervision::SupervisorWithoutLog
        }
        kept => kept,
    };
    let mut orphaned = OrphanedSessions::of(0..shared_memory::gateways(), kept);
    for line in orphan_ends::with_recordings(std::mem::take(&mut orphaned.lines)) {
        // The end does not wait for a log that nobody reads.
        if !log::try_write(&line) {
            break;
        }
    }
    if grace.is_none() {
        return;
    }
    // They were hung up a moment ago: most are about to end.
    for _ in 0..5 {
        orphaned.leaders.retain(|noted| SessionLeader::open(*noted).is_some());
        if orphaned.leaders.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // Descriptors do not survive in there: each is opened anew.
    let _ = daemonize::spawn(c"fpty-aftercare", Vec::new(), move |_| {
        // One for each leader.
        let _ = fpty::sys::raise_descriptor_limit();
        orphaned.grace(grace).end_all();
    });
}
