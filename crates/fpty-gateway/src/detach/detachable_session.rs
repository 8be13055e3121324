//! Entry of the registry: one detachable session, its identity, state and descriptors.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::connection::client_hello::ClientHello;
use crate::connection::listeners::Connection;
use crate::connection::session_access::{Secrets, UNKNOWN_UID};
use crate::connection::shared_counts::{SharedCount, SharedCounts};
use crate::control::peers::attach_request;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::observe::recording::RecordingTap;
use crate::process::supervisor::end_lines;
use crate::process::supervisor::end_record::EndRecord;
use crate::session::selector::SessionSelector;
use fpty::fair_share::Principal;
use fpty::proto::session_key::Secret;
use fpty::proto::{EndKind, SessionEnd};
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::Size;
use fpty::sys::child::Pid;
use fpty::sys::clock::{BootInstant, Timestamp};
use fpty::sys::pidfd::PidFd;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::pty::Master;

use super::attach_state::{AttachState, AttachTypes};

/// Size of a terminal; 24x80 where it cannot be read.
pub(crate) fn terminal_size(master: Option<&Master>) -> Size {
    master.and_then(Master::size).unwrap_or(Size { rows: 24, cols: 80 })
}

/// One detachable session.
pub(crate) struct DetachableSession {
    pub(crate) id: Rc<str>,
    /// The name; may be empty.
    pub(crate) name: String,
    pub(crate) uid: u32,
    /// Whom the session counts for where sessions are limited: who opened it.
    pub(crate) principal: Principal,
    pub(crate) secrets: Secrets,
    /// The socket where the session was opened, by its index: it is a target there alone.
    pub(crate) listener: u16,
    /// The process id; of an exited session the former one.
    pub(crate) pid: Pid,
    /// Time of the start.
    pub(crate) since: Timestamp,
    pub(crate) state: AttachState<DetachResources>,
    /// The supervisor does not have the current state.
    pub(crate) dirty: bool,
    /// The next deadline, as it stands among those of the registry.
    pub(crate) scheduled: Option<BootInstant>,
    /// Number of viewers.
    pub(crate) viewers: u32,
    /// Set for a session that cannot be detached: it was restored, and ends with its client.
    pub(crate) no_detach: Option<Box<NoDetach>>,
    /// Claim on the name, over all gateways.
    pub(crate) name_claim: Option<SharedCount>,
    /// Claims on the quotas of detached sessions, over all gateways.
    pub(crate) detached_claims: Option<[SharedCount; 2]>,
}

/// Quotas of detached sessions: of a socket, and of a user there.
#[derive(Hash)]
pub(crate) enum DetachedCount {
    PerSocket(u16),
    PerUser(u16, u32),
}

/// Claims on both quotas, even above the limit.
pub(crate) fn claim_detached(
    shared_counts: &SharedCounts,
    listener: u16,
    uid: u32,
) -> [SharedCount; 2] {
    [DetachedCount::PerSocket(listener), DetachedCount::PerUser(listener, uid)]
        .map(|it| shared_counts.increment(it))
}

/// Resources that the attach state machine holds for the registry.
pub(crate) struct DetachResources;

impl AttachTypes for DetachResources {
    type Program = Program;
    type Client = Client;
    type Terminal = Box<DetachedTerminal>;
    type Exited = ExitedSession;
    type Pending = Box<PendingAttach>;
}

/// A running program.
pub(crate) struct Program {
    /// Pidfd of a process that is no child of this gateway: it reports the end. A child keeps its
    /// number until this gateway reaps it.
    pub(crate) pidfd: Option<PidFd>,
    /// Deadline for the status of a process whose end was reported.
    pub(crate) status_deadline: Option<BootInstant>,
}

impl Program {
    /// The program of a restored session.
    pub(crate) fn restored(pidfd: PidFd) -> Self {
        Self { pidfd: Some(pidfd), status_deadline: None }
    }

    /// The process with this number, to be signalled.
    pub(crate) fn process(self, pid: Pid) -> ProcessHandle {
        self.pidfd.map_or_else(|| ProcessHandle::child(pid), ProcessHandle::from_pidfd)
    }
}

/// The attached client: its live session and user.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) session: Key,
    pub(crate) uid: u32,
}

/// A terminal without a client.
pub(crate) struct DetachedTerminal {
    pub(crate) master: Master,
    pub(crate) remains: ScrollbackWriter,
    /// Time to look again at a terminal whose slave is closed.
    pub(crate) closed: Option<BootInstant>,
    /// The session's recording.
    pub(crate) recording: Option<Rc<RecordingTap>>,
    /// Reading waits for room in the recorder.
    pub(crate) is_throttled: bool,
}

impl DetachedTerminal {
    /// A terminal that is still open.
    pub(crate) fn new(
        master: Master,
        remains: ScrollbackWriter,
        recording: Option<Rc<RecordingTap>>,
    ) -> Self {
        Self { master, remains, closed: None, recording, is_throttled: false }
    }
}

/// Exited session: its scrollback, and how it ended.
pub(crate) struct ExitedSession {
    pub(crate) ring: OwnedFd,
    pub(crate) ended: SessionEnd,
    /// The command, where it is known.
    pub(crate) command: Option<Box<str>>,
}

/// A client that waits to attach.
pub struct PendingAttach {
    pub(crate) connection: Connection,
    pub(crate) hello: ClientHello,
    pub(crate) uid: u32,
    /// The session's secret, as the client presented it.
    pub(crate) presented_secret: Option<Secret>,
    /// Input after the request.
    pub(crate) early_data: Vec<u8>,
}

/// Text for a client that waited for a session, or viewed it.
pub(crate) const SESSION_ENDED: &str = "the session has ended";

impl PendingAttach {
    /// Rejects the client.
    pub(crate) fn reject(self, cx: &mut Context, why: &str) {
        let why = SessionEnd::new(EndKind::Refused, why);
        cx.reject(self.connection, true, why);
    }
}

/// Restored session that cannot be detached.
pub struct NoDetach {
    /// The address of the socket, where that exists no more.
    pub socket: Option<String>,
    /// The end line, where no other process would write it.
    pub(crate) last: EndRecord,
    pub(crate) prepared_line: Option<end_lines::EndLineSlot>,
}

impl DetachableSession {
    /// An entry without a name: of this id and start, owner, socket and process.
    pub(crate) fn new(
        (id, since): (&str, Timestamp),
        (uid, principal): (u32, Principal),
        listener: u16,
        pid: Pid,
        state: AttachState<DetachResources>,
    ) -> Self {
        Self {
            id: id.into(),
            name: String::new(),
            uid,
            principal,
            secrets: Secrets::default(),
            listener,
            pid,
            since,
            state,
            dirty: false,
            scheduled: None,
            viewers: 0,
            no_detach: None,
            name_claim: None,
            detached_claims: None,
        }
    }

    /// Updates the claims on name and quotas to the current state.
    pub(crate) fn update_claims(&mut self, shared_counts: &SharedCounts) {
        let is_ones_own = self.uid != UNKNOWN_UID && !self.state.has_exited();
        let name = SessionSelector::of(self.name.as_bytes()).filter(|_| is_ones_own);
        let name = name.map(|name| attach_request::name(self.listener, self.uid, name));
        self.name_claim = name
            .and_then(|name| self.name_claim.take().or_else(|| shared_counts.claim(name, 1).ok()));
        self.detached_claims = match self.state.terminal() {
            Some(_) => self
                .detached_claims
                .take()
                .or_else(|| Some(claim_detached(shared_counts, self.listener, self.uid))),
            None => None,
        };
    }

    /// Pidfd of the program, where it is no child of this gateway.
    pub(crate) fn restored_pidfd(&self) -> Option<&PidFd> {
        self.state.program()?.pidfd.as_ref()
    }
}
