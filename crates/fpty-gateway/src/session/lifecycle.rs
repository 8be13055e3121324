//! Lifecycle of sessions and commands, and the one place that emits their events: pending, started,
//! attached, detached, viewed, exited, closed, or aborted before the start. The observers
//! (`observe/`) are told at once. The recorder and the registry of detachable sessions, which need
//! other parts of the gateway, are told by the loop when the part that is at work has returned.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::relay::{LiveSession, SessionIo, Sessions};
use super::session_ref::SessionRef;
use crate::command::commands::LiveCommand;
use crate::command::stdio::CommandIo;
use crate::connection::limits::Permit;
use crate::connection::session_access::UNKNOWN_UID;
use crate::event_loop::context::Context;
use crate::event_loop::outcome::{Closed, Outcome};
use crate::event_loop::slab::Key;
use crate::observe::audit::{
    Audit, ByteTotals, DetachReason, EndReason, Mode, NewSession, Origin, Peer, RejectReason,
    SessionHistory,
};
use crate::observe::event::Event;
use crate::observe::recording::RecordingTap;
use crate::process::supervisor::end_lines::EndLineSlot;
use fpty::fair_share::Principal;
use fpty::proto::EndKind;
use fpty::sys::Size;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::socket::Stream;

/// Facts of a session of an earlier gateway.
pub struct RestoredInfo {
    /// The session's history for the audit, where that is kept.
    pub history: Option<Box<SessionHistory>>,
    /// The command, where it is known.
    pub command: Option<String>,
    /// Time of the start.
    pub started: Timestamp,
    /// The socket where the session was opened, by its index.
    pub listener: u16,
    /// Size of the terminal.
    pub size: Size,
    /// The owner's user id, and whom the session counts for where sessions are limited.
    pub uid: u32,
    pub principal: Principal,
    /// The session's id.
    pub id: String,
    /// The process.
    pub pid: Option<Pid>,
}

impl Context {
    /// Tells the observers of an event.
    fn tell(&mut self, event: &Event<'_>) {
        let Self { limits, requested_commands, observers, audit, .. } = self;
        observers.tell(event, [limits, requested_commands], audit);
    }

    /// A session or command is pending: it has this permit and requested command, and `new` is what
    /// the audit keeps of it.
    fn pending(
        &mut self,
        session: SessionRef,
        permit: Permit,
        shown: Option<String>,
        (client, origin): (&Stream, Origin),
        new: impl FnOnce(&mut Self) -> NewSession,
    ) {
        if self.audit.keeps_session_info {
            let peer = Peer::of(client, &mut self.audit.user_names, origin.has_audit());
            let new = new(self);
            self.audit.note(session, origin, peer, new);
        }
        self.limits.assign(permit, session);
        self.requested_commands.set(session, shown);
        self.tell(&Event::Pending(session));
    }

    /// The program of a session or command was executed.
    pub fn started(&mut self, session: SessionRef) {
        if let SessionRef::Session(key) = session {
            self.panics.begin(key);
            self.push_outcome(Outcome::Started(key));
        }
        self.tell(&Event::Started(session));
    }

    /// A viewer has joined a session. The slot is to be given back with [`Context::viewer_left`].
    pub fn viewer_joined(
        &mut self,
        session: SessionRef,
        origin: &Origin,
        client: &Stream,
    ) -> Option<EndLineSlot> {
        let prepared = Cell::new(None);
        self.tell(&Event::ViewerJoined { session, origin, client, prepared: &prepared });
        prepared.get()
    }

    /// A viewer has left a session.
    pub fn viewer_left(
        &mut self,
        session: SessionRef,
        client: &Stream,
        after: Duration,
        prepared: Option<EndLineSlot>,
    ) {
        self.tell(&Event::ViewerLeft { session, client, after, prepared });
    }

    /// A detached session of an earlier gateway goes on; its client, which was there since `lost`,
    /// was lost with that gateway.
    pub fn restored_detached(&mut self, entry: Key, info: RestoredInfo, lost: Option<Timestamp>) {
        let (session, uid) = (SessionRef::Detached(entry), info.uid);
        self.restore_session(session, info, |audit| match uid {
            UNKNOWN_UID => (Peer::default(), None),
            _ => (Peer::user(uid, &mut audit.user_names), None),
        });
        if let Some(since) = lost {
            self.audit.set_attached(session, since);
            let (from, to, bytes) = (session, session, (None, None));
            self.tell(&Event::Detached { from, to, reason: DetachReason::Lost, bytes });
        }
    }

    /// A session of an earlier gateway goes on: it has its permit, even above the limit. Where the
    /// earlier gateway kept no history the client and the terminal are described as they are `now`.
    fn restore_session(
        &mut self,
        session: SessionRef,
        info: RestoredInfo,
        now: impl FnOnce(&mut Audit) -> (Peer, Option<String>),
    ) {
        let RestoredInfo { history, command, started, listener, principal, size, id, pid, .. } =
            info;
        if let Some(rules) = self.listeners.rules(listener) {
            let permit = self.limits.restore(rules, principal);
            self.limits.assign(permit, session);
        }
        self.requested_commands.set(session, command.clone());
        match history.filter(|_| self.audit.keeps_session_info) {
            Some(history) => self.audit.restore(session, *history, listener, id, pid),
            None if self.audit.keeps_session_info => {
                let (peer, tty) = now(&mut self.audit);
                let origin = self.audit.origin(listener, Mode::Extended);
                let origin = self.audit.with_command(origin, || command);
                let new = NewSession { id, pid, tty, size: Some(size) };
                self.audit.note(session, origin, peer, new);
            }
            None => {}
        }
        self.tell(&Event::Restored(session, started));
    }

    /// A session without a client is over.
    pub fn closed_without_client(
        &mut self,
        entry: Key,
        why: EndReason,
        exit: Option<Exit>,
        recording: Option<Rc<RecordingTap>>,
    ) {
        let session_ref = SessionRef::Detached(entry);
        if let Some(exit) = exit {
            self.tell(&Event::Exited(session_ref, exit));
        }
        let (last, was_supervised) = (None, false);
        let closed = Closed { session_ref, why, exit, last, recording, was_supervised };
        self.closed(closed, (Some(0), Some(0)));
    }

    /// A session or command is over: what the audit has of it goes to the loop.
    fn closed(&mut self, closed: Closed, bytes: ByteTotals) {
        let Closed { session_ref: session, why: reason, .. } = closed;
        let last = self.audit.ended(session, reason, bytes).map(Box::new);
        self.tell(&Event::Closed { session, reason, ended: last.as_deref() });
        self.push_outcome(Outcome::Closed(Closed { last, ..closed }));
    }

    /// A session was lost in a panic: nobody else can tell of its end.
    pub fn lost(&mut self, session: SessionRef) {
        let reason = EndReason::Lost;
        let last = self.audit.ended(session, reason, (None, None));
        self.tell(&Event::Closed { session, reason, ended: last.as_ref() });
        self.audit.write_end(last.as_ref(), None);
    }

    /// A pending session or command is dropped. Returns where its client comes from, which is to be
    /// rejected.
    fn aborted(&mut self, session: SessionRef, recording: Option<Rc<RecordingTap>>) -> Origin {
        let origin = self.audit.remove(session);
        self.tell(&Event::Aborted(session));
        self.push_outcome(Outcome::Aborted(session, recording));
        origin
    }

    /// A client gets no session.
    pub fn rejected(
        &mut self,
        origin: &Origin,
        client: Option<&Stream>,
        reason: RejectReason,
        text: &str,
    ) {
        self.tell(&Event::Rejected { origin, client, reason, text });
    }
}

/// The reason of an end: the gateway has terminated the session, its program has ended, or its
/// client is gone.
fn close_reason(
    termination: Option<EndKind>,
    exit: Option<EndReason>,
    client_is_gone: bool,
) -> EndReason {
    match termination.map(EndReason::of).or(exit) {
        Some(why) => why,
        None if client_is_gone => EndReason::Hangup,
        None => EndReason::Lost,
    }
}

impl LiveSession {
    /// The session is pending.
    pub fn set_pending(
        &mut self,
        cx: &mut Context,
        key: Key,
        permit: Permit,
        origin: Origin,
        size: Size,
        shown: Option<String>,
    ) {
        let SessionIo { client, master, program, byte_counts, .. } = &mut self.io;
        cx.pending(SessionRef::Session(key), permit, shown, (client, origin), |cx| {
            byte_counts.get_or_insert_with(Box::default).touch();
            let pid = program.as_ref().map(ProcessHandle::pid);
            NewSession { id: cx.ids.of(key), pid, tty: master.slave_name(), size: Some(size) }
        });
    }

    /// The session of an earlier gateway goes on.
    pub fn set_restored(&mut self, cx: &mut Context, key: Key, info: RestoredInfo) {
        let io = &mut self.io;
        cx.restore_session(SessionRef::Session(key), info, |audit| {
            (Peer::of(&io.client, &mut audit.user_names, true), io.master.slave_name())
        });
        if cx.audit.keeps_session_info {
            io.byte_counts.get_or_insert_with(Box::default).touch();
        }
    }

    /// A client has attached to the detached session of this entry: this is the live session.
    pub fn set_attached(&mut self, cx: &mut Context, key: Key, entry: Key, origin: &Origin) {
        let (from, to) = (SessionRef::Detached(entry), SessionRef::Session(key));
        cx.tell(&Event::Attached { from, to, origin, client: &self.io.client });
        if let Some(recording) = self.io.recording() {
            recording.assign_to(to);
        }
        if cx.audit.keeps_session_info {
            self.io.byte_counts.get_or_insert_with(Box::default);
        }
    }

    /// The program was executed, if that was not known yet.
    pub fn mark_started(&mut self, cx: &mut Context, key: Key) {
        if std::mem::take(&mut self.started_poll) != 0 {
            cx.started(SessionRef::Session(key));
        }
    }

    /// The pending session is dropped. Returns where its client comes from.
    pub fn abort(&mut self, cx: &mut Context, key: Key) -> Origin {
        cx.aborted(SessionRef::Session(key), self.io.recording().cloned())
    }

    /// Bytes that were relayed for the client; `None`: they did not pass through the gateway.
    fn bytes(&self) -> ByteTotals {
        match self.session.is_handed_over() {
            true => (None, None),
            false => self.io.byte_counts.as_ref().map(|byte_counts| byte_counts.bytes()).unzip(),
        }
    }

    fn mark_closed(&mut self, cx: &mut Context, key: Key) {
        let (session, session_ref) = (&self.session, SessionRef::Session(key));
        let why = close_reason(session.termination(), self.exit, session.client_is_gone());
        let byte_counts = self.io.byte_counts.as_mut();
        let recording = byte_counts.and_then(|byte_counts| byte_counts.recording.take());
        let was_supervised = session.is_handed_over() && session.detach_state().is_none();
        let exit = cx.audit.of(session_ref).and_then(|info| info.exit);
        let closed = Closed { session_ref, why, exit, last: None, recording, was_supervised };
        cx.closed(closed, self.bytes());
    }
}

impl Sessions {
    /// The program of a session has ended, by itself or by a signal.
    pub fn exited(&mut self, cx: &mut Context, key: Key, exit: Exit) {
        if let Some(live) = self.get_mut(key) {
            live.mark_started(cx, key);
            live.exit = Some(EndReason::of_exit(exit));
            cx.tell(&Event::Exited(SessionRef::Session(key), exit));
        }
    }

    /// A session is detached, and goes on as this entry: its key is no longer valid.
    pub fn detach(
        &mut self,
        cx: &mut Context,
        key: Key,
        entry: Key,
        reason: DetachReason,
    ) -> Option<Box<LiveSession>> {
        let mut live = self.remove(key)?;
        // The program may run although that was not seen.
        live.mark_started(cx, key);
        let (from, to) = (SessionRef::Session(key), SessionRef::Detached(entry));
        cx.tell(&Event::Detached { from, to, reason, bytes: live.bytes() });
        if let Some(recording) = live.io.recording() {
            recording.assign_to(to);
        }
        Some(live)
    }

    /// A session is over: its key is no longer valid.
    pub fn end(&mut self, cx: &mut Context, key: Key) -> Option<Box<LiveSession>> {
        crate::event_loop::fault_injection::point("told-end");
        let mut live = self.remove(key)?;
        // The program may run although that was not seen.
        live.mark_started(cx, key);
        live.mark_closed(cx, key);
        Some(live)
    }
}

impl LiveCommand {
    /// The command is pending.
    pub fn set_pending(
        &mut self,
        cx: &mut Context,
        key: Key,
        permit: Permit,
        origin: Origin,
        shown: Option<String>,
    ) {
        let CommandIo { client, program, byte_counts, .. } = &mut self.io;
        cx.pending(SessionRef::Command(key), permit, shown, (client, origin), |cx| {
            byte_counts.get_or_insert_with(Box::default);
            let (id, pid) = (cx.ids.of(("command", key)), *program);
            NewSession { id, pid, tty: None, size: None }
        });
    }

    /// The pending command is dropped. Returns where its client comes from.
    pub fn abort(&mut self, cx: &mut Context, key: Key) -> Origin {
        self.is_rejected = true;
        cx.aborted(SessionRef::Command(key), None)
    }

    /// The program was executed, if that was not known yet.
    pub fn mark_started(&mut self, cx: &mut Context, key: Key) {
        if !std::mem::replace(&mut self.is_started, true) {
            cx.started(SessionRef::Command(key));
        }
    }

    /// The program has ended, by itself or by a signal.
    pub fn exited(&mut self, cx: &mut Context, key: Key, exit: Exit) {
        self.mark_started(cx, key);
        self.exit = Some(EndReason::of_exit(exit));
        cx.tell(&Event::Exited(SessionRef::Command(key), exit));
    }

    /// The command is over; one that was aborted was never there.
    pub fn mark_closed(&mut self, cx: &mut Context, key: Key) {
        if self.is_rejected {
            return;
        }
        let (command, session_ref) = (&self.command, SessionRef::Command(key));
        let why = close_reason(command.termination(), self.exit, command.client_is_gone());
        let bytes = self.bytes();
        self.mark_started(cx, key);
        let (exit, last, recording, was_supervised) = (None, None, None, false);
        cx.closed(Closed { session_ref, why, exit, last, recording, was_supervised }, bytes);
    }
}
