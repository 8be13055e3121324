//! What becomes of the sessions when the gateway itself ends, killed by its
//! master at a stop or a reload, or by anybody.
//!
//! Their terminals close with the gateway, so the kernel hangs them up; the
//! commands without one are told by whoever comes after. A program that
//! ignores that would stay for good, without terminal, client
//! or supervisor, and the audit would lack its end. So both are noted down in
//! memory (`leaders.rs`, `lines.rs`) that outlives the gateway. Whoever comes after
//! it sees to what it left, and each of them by the same function: the next
//! gateway; at the end of the master that one itself, and a process of its own
//! that waits for the grace, if there is anything to wait for; where the master
//! was killed, too, the process that keeps sessions.

use std::ops::Range;
use std::time::Duration;

use super::end_lines::{self, Which};
use super::grace::Grace;
use super::{leaders, link};
use crate::host::host;
use crate::log;
use crate::observe::audit::prepared_end;
use crate::observe::recording::orphan_ends;
use crate::process::proof;
use crate::process::shared_memory;
use fpty::sys::daemonize;
use fpty::sys::process_identity::Noted;
use fpty::sys::process_session::Leader;

/// Whose those sessions are that were kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The supervisor's.
    Elsewhere,
    /// The same, but for their last lines: it will have no log.
    Silently,
    /// Nobody's: the supervisor is gone.
    ByNobody,
}

impl Kept {
    /// As it is now.
    pub fn now() -> Self {
        match link::is_held() {
            true => Self::Elsewhere,
            false => Self::ByNobody,
        }
    }
}

/// What is left.
pub struct LeftBehind {
    /// Lines of the audit that nobody has written.
    pub lines: Vec<String>,
    /// Leaders that have not ended, and were told to.
    leaders: Vec<Noted>,
}

impl LeftBehind {
    /// Of the gateways of these numbers, which are gone.
    pub fn of(gateways: Range<usize>, kept: Kept) -> Self {
        let mut left = Self { lines: Vec::new(), leaders: Vec::new() };
        for one in gateways {
            left.take(one, leaders::keeper_of(one), kept);
        }
        left
    }

    /// Of the gateway of this number that was here before us, whose sessions this
    /// supervisor had. To be called when the one that there is now has said what it
    /// has, and before anything of ours is noted down.
    pub fn before(gateway: usize, keeper: u64) -> Self {
        let mut left = Self { lines: Vec::new(), leaders: Vec::new() };
        left.take(gateway, keeper, Kept::now());
        left
    }

    fn take(&mut self, gateway: usize, keeper: u64, kept: Kept) {
        let kept = match keeper == proof::keeper() {
            true => kept,
            // It was gone before the gateway was, which had no time for the next.
            false => Kept::ByNobody,
        };
        let which = match kept {
            Kept::Elsewhere => Which::Nobodys,
            Kept::Silently | Kept::ByNobody => Which::All,
        };
        self.lines.extend(end_lines::take_left(gateway, which));
        // Who looked on did so before.
        self.lines.sort_by_key(|line| prepared_end::is_end(line));
        // In another PID namespace all end with their gateway.
        if leaders::can_be_known(gateway) {
            self.leaders.extend(leaders::take_left(gateway, kept == Kept::ByNobody));
        }
    }

    /// The leaders that still live.
    pub fn leaders(&self) -> impl Iterator<Item = Leader> {
        self.leaders.iter().copied().filter_map(Leader::open)
    }

    /// The same, to be killed when their grace is over.
    pub fn grace(&self, grace: Option<Duration>) -> Grace {
        let mut waiting = Grace::new(grace);
        self.leaders().for_each(|leader| waiting.add(leader));
        waiting
    }
}

/// At the end of the master, the gateways being gone.
pub fn after_the_end(grace: Option<Duration>) {
    let kept = match Kept::now() {
        // What the supervisor writes to is the master's, where that logs for all.
        Kept::Elsewhere if host().is_stopping() => {
            proof::ends_are_told();
            Kept::Silently
        }
        kept => kept,
    };
    let mut left = LeftBehind::of(0..shared_memory::gateways(), kept);
    for line in orphan_ends::complete(std::mem::take(&mut left.lines)) {
        // The end does not wait for a log that nobody reads.
        if !log::takes(&line) {
            break;
        }
    }
    if grace.is_none() {
        return;
    }
    // They were hung up a moment ago: most are about to end.
    for _ in 0..5 {
        left.leaders.retain(|noted| Leader::open(*noted).is_some());
        if left.leaders.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // Descriptors do not survive in there: each is opened anew.
    let _ = daemonize::run(c"fpty-aftercare", Vec::new(), move |_| {
        // One for each leader.
        let _ = fpty::sys::raise_descriptor_limit();
        left.grace(grace).end_all();
    });
}
