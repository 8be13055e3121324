//! A session that can be left: what is known and held of it.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::connection::client_hello::Opening;
use crate::connection::listeners::Newcomer;
use crate::connection::session_access::{NOBODY, Secrets};
use crate::connection::shared_counts::{Tallies, Tally};
use crate::control::peers::attach_request;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::observe::recording::Recording;
use crate::process::supervisor::end_lines;
use crate::process::supervisor::end_record::EndRecord;
use crate::session::selector::Beginning;
use fpty::fair_share::Who;
use fpty::proto::session_key::Secret;
use fpty::proto::{EndKind, SessionEnd};
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::Size;
use fpty::sys::child::Pid;
use fpty::sys::clock::{BootInstant, Timestamp};
use fpty::sys::pidfd::PidFd;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::pty::Master;

use super::state::{State, Things};

/// The size of a terminal; of one that does not tell it the usual one.
pub(crate) fn terminal_size(master: Option<&Master>) -> Size {
    master.and_then(Master::size).unwrap_or(Size { rows: 24, cols: 80 })
}

/// Such a session.
pub(crate) struct Entry {
    pub(crate) id: Rc<str>,
    /// What it is called; may be empty.
    pub(crate) name: String,
    pub(crate) uid: u32,
    /// For whom it counts where sessions are limited: whoever began it.
    pub(crate) who: Who,
    pub(crate) secrets: Secrets,
    /// Where it began: it is found there alone.
    pub(crate) door: u16,
    /// Its program; of one that has ended what it was.
    pub(crate) pid: Pid,
    /// When it began.
    pub(crate) since: Timestamp,
    pub(crate) state: State<Held>,
    /// What keeps it was not told how it is.
    pub(crate) untold: bool,
    /// When it is looked after next: its place among what is due.
    pub(crate) armed: Option<BootInstant>,
    /// How many watch it.
    pub(crate) watchers: u32,
    /// It cannot be left: it came from a gateway before us, and ends with its
    /// client.
    pub(crate) bound: Option<Box<Origin>>,
    /// Its name is its own, over all gateways.
    pub(crate) held: Option<Tally>,
    /// It is one of those without a client, over all gateways.
    pub(crate) counts: Option<[Tally; 2]>,
}

/// What those without a client count for: of all at a socket, and of a user's.
#[derive(Hash)]
pub(crate) enum WithoutClient {
    All(u16),
    Own(u16, u32),
}

/// One more that goes on without a client, whatever there may be.
pub(crate) fn without_client(tallies: &Tallies, door: u16, uid: u32) -> [Tally; 2] {
    [WithoutClient::All(door), WithoutClient::Own(door, uid)].map(|it| tallies.hold(it))
}

/// What is held of a session.
pub(crate) struct Held;

impl Things for Held {
    type Program = Program;
    type Client = Client;
    type Terminal = Box<Alone>;
    type Last = Over;
    type Newcomer = Box<Waiting>;
}

/// A program that runs.
pub(crate) struct Program {
    /// Of one that is not our child: its end is told by that. A child of ours has its
    /// number until we reap it.
    pub(crate) pidfd: Option<PidFd>,
    /// Its end was told, and its status is waited for until then.
    pub(crate) ending: Option<BootInstant>,
}

impl Program {
    /// One of a gateway before us.
    pub(crate) fn adopted(pidfd: PidFd) -> Self {
        Self { pidfd: Some(pidfd), ending: None }
    }

    /// What it is signalled by; it has this number.
    pub(crate) fn process(self, pid: Pid) -> ProcessHandle {
        self.pidfd.map_or_else(|| ProcessHandle::child(pid), ProcessHandle::from_pidfd)
    }
}

/// A session's client.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) session: Key,
    pub(crate) uid: u32,
}

/// A terminal without a client.
pub(crate) struct Alone {
    pub(crate) master: Master,
    pub(crate) remains: ScrollbackWriter,
    /// The terminal is closed; it is looked at again then.
    pub(crate) closed: Option<BootInstant>,
    /// Where it is recorded.
    pub(crate) recording: Option<Rc<Recording>>,
    /// It is not read until there is room to record what comes.
    pub(crate) waits: bool,
}

impl Alone {
    pub(crate) fn new(
        master: Master,
        remains: ScrollbackWriter,
        recording: Option<Rc<Recording>>,
    ) -> Self {
        Self { master, remains, closed: None, recording, waits: false }
    }
}

/// What is left of an ended session.
pub(crate) struct Over {
    pub(crate) ring: OwnedFd,
    pub(crate) ended: SessionEnd,
    /// What ran, where that is known.
    pub(crate) command: Option<Box<str>>,
}

/// Somebody who waits for a session.
pub struct Waiting {
    pub(crate) newcomer: Newcomer,
    pub(crate) opening: Opening,
    pub(crate) uid: u32,
    /// The session's secret, where it has said that.
    pub(crate) came_with: Option<Secret>,
    /// What was sent after the request.
    pub(crate) rest: Vec<u8>,
}

impl Waiting {
    /// It gets nothing.
    pub(crate) fn refuse(self, cx: &mut Context, why: &str) {
        let why = SessionEnd::new(EndKind::Refused, why);
        cx.turn_back(self.newcomer, true, why);
    }
}

/// What is known of one that came from a gateway before us.
pub struct Origin {
    /// The address where it began, where there is no such socket any more.
    pub socket: Option<String>,
    /// The line of its end, where nobody else would write it.
    pub(crate) last: EndRecord,
    pub(crate) noted: Option<end_lines::Place>,
}

impl Entry {
    /// Has it count as what it is, over all gateways.
    pub(crate) fn count(&mut self, tallies: &Tallies) {
        let is_ones_own = self.uid != NOBODY && !self.state.is_over();
        let name = Beginning::of(self.name.as_bytes()).filter(|_| is_ones_own);
        let name = name.map(|name| attach_request::name(self.door, self.uid, name));
        self.held = name.and_then(|name| self.held.take().or_else(|| tallies.claim(name, 1).ok()));
        self.counts = match self.state.terminal() {
            Some(_) => {
                self.counts.take().or_else(|| Some(without_client(tallies, self.door, self.uid)))
            }
            None => None,
        };
    }

    /// The program, where it is not our child.
    pub(crate) fn adopted(&self) -> Option<&PidFd> {
        self.state.program()?.pidfd.as_ref()
    }
}
