//! The life of a session, and the one place that tells of it: it is pending,
//! started, left and found again, looked at, exited, closed, or never was one. Whoever wants to know of it
//! (audit, metrics, limits, lists, recordings, sessions that can be left) hears
//! of it from here, and from nowhere else.

use std::rc::Rc;
use std::time::Duration;

use super::relay::{LiveSession, Sessions};
use crate::command::commands::LiveCommand;
use crate::connection::limits::Permit;
use crate::connection::session_access::UNKNOWN_UID;
use crate::event_loop::context::Context;
use crate::event_loop::outcome::{Closed, Outcome};
use crate::event_loop::slab::Key;
use crate::event_loop::subject::SessionRef;
use crate::observe::audit::{
    Audit, ByteTotals, DetachReason, EndReason, Mode, NewSession, Origin, Peer, SessionHistory,
};
use crate::observe::recording::RecordingTap;
use crate::process::supervisor::end_lines;
use fpty::fair_share::Principal;
use fpty::proto::EndKind;
use fpty::sys::Size;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::socket::Stream;

/// What happens to a session. The observers that every part has at hand are told
/// at once; the others by the loop, when the part that is at work has finished.
enum Event<'a> {
    /// It is about to begin: it has a terminal or streams, and a program that is
    /// not known to have been executed.
    Pending { session_ref: SessionRef, permit: Option<Permit>, shown: Option<String> },
    /// Its program was executed.
    Started(SessionRef),
    /// Its client has left, and it goes on as this entry of those without one.
    Detached { key: Key, entry: Key, how: DetachReason, bytes: ByteTotals },
    /// A client has come to that, and is its client from now on.
    Attached { key: Key, entry: Key, origin: &'a Origin, client: &'a Stream },
    /// Its program has ended.
    Exited(SessionRef, Exit),
    /// It is over.
    Closed(Closed),
    /// It never was one.
    Rejected { session_ref: SessionRef, recording: Option<Rc<RecordingTap>> },
}

/// What is known of a session of a gateway that was here before.
pub struct RestoredInfo {
    /// What is told of it, where anybody wanted to know.
    pub history: Option<Box<SessionHistory>>,
    /// What runs, where that is known.
    pub command: Option<String>,
    /// When it began.
    pub started: Timestamp,
    /// Where it began.
    pub listener: u16,
    /// The size of its terminal.
    pub size: Size,
    /// Whose it is, and for whom it counts where sessions are limited.
    pub uid: u32,
    pub principal: Principal,
    /// Its id.
    pub id: String,
    /// Its program.
    pub pid: Option<Pid>,
}

impl Context {
    /// A session went without an end: it is told as lost.
    pub fn lost(&mut self, session_ref: SessionRef) {
        let last = self.audit.ended(session_ref, EndReason::Lost, (None, None));
        self.audit.write_end(last.as_ref(), None);
    }

    /// A client looks on at a session. The place is to be given back with
    /// [`Context::viewer_left`].
    pub fn viewer_joined(
        &mut self,
        session_ref: SessionRef,
        origin: &Origin,
        client: &Stream,
    ) -> Option<end_lines::EndLineSlot> {
        self.audit.viewer_attached(session_ref, origin, client)
    }

    /// It does so no more, after so long.
    pub fn viewer_left(
        &mut self,
        session_ref: SessionRef,
        client: &Stream,
        after: Duration,
        place: Option<end_lines::EndLineSlot>,
    ) {
        self.audit.viewer_left(session_ref, client, after, place);
    }

    /// The program of a session or command was executed.
    pub fn started(&mut self, session_ref: SessionRef) {
        self.observe(Event::Started(session_ref));
    }

    /// A session without a client goes on, of a gateway that was here before; its client
    /// was `lost` with that one, which had come then.
    pub fn restored_detached(&mut self, entry: Key, info: RestoredInfo, lost: Option<Timestamp>) {
        let (session_ref, uid) = (SessionRef::Detached(entry), info.uid);
        self.restore_session(session_ref, info, |audit| match uid {
            UNKNOWN_UID => (Peer::default(), None),
            _ => (Peer::user(uid, &mut audit.user_names), None),
        });
        if let Some(since) = lost {
            self.audit.client_lost_with_gateway(session_ref, since);
        }
    }

    /// Any session of a gateway that was here before goes on: it has its seat, be there
    /// none left, and is what it was. Where that kept nothing to be told, its client and
    /// its terminal are as they are now.
    fn restore_session(
        &mut self,
        session_ref: SessionRef,
        info: RestoredInfo,
        now: impl FnOnce(&mut Audit) -> (Peer, Option<String>),
    ) {
        let RestoredInfo { history, command, started, listener, principal, size, id, pid, .. } =
            info;
        if let Some(rules) = self.listeners.rules(listener) {
            let permit = self.limits.restore(rules, principal);
            self.limits.assign(permit, session_ref);
        }
        self.requested_commands.note(session_ref, command.clone());
        match history.filter(|_| self.audit.is_enabled()) {
            Some(history) => self.audit.restore(session_ref, *history, listener, id, pid),
            None if self.audit.is_enabled() => {
                let (peer, tty) = now(&mut self.audit);
                let origin = self.audit.origin(listener, Mode::Extended);
                let origin = self.audit.with_command(origin, || command);
                self.audit.note(
                    session_ref,
                    origin,
                    peer,
                    NewSession { id, pid, tty, size: Some(size) },
                );
            }
            None => {}
        }
        self.audit.session_restored(session_ref, started);
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
            self.observe(Event::Exited(session_ref, exit));
        }
        let last = self.audit.ended(session_ref, why, (Some(0), Some(0))).map(Box::new);
        let was_supervised = false;
        self.observe(Event::Closed(Closed {
            session_ref,
            why,
            exit,
            last,
            recording,
            was_supervised,
        }));
    }

    fn observe(&mut self, event: Event<'_>) {
        match event {
            Event::Pending { session_ref, permit, shown } => {
                self.limits.assign(permit, session_ref);
                self.requested_commands.note(session_ref, shown);
            }
            Event::Started(session_ref) => {
                if let SessionRef::Session(key) = session_ref {
                    self.panics.begin(key);
                }
                self.audit.session_started(session_ref);
                self.push_outcome(Outcome::Started(session_ref));
            }
            Event::Detached { key, entry, how, bytes } => {
                let (from, to) = (SessionRef::Session(key), SessionRef::Detached(entry));
                self.limits.transfer(from, to);
                self.requested_commands.moves(from, to);
                self.audit.detached(from, to, how, bytes);
            }
            Event::Attached { key, entry, origin, client } => {
                let (from, to) = (SessionRef::Detached(entry), SessionRef::Session(key));
                self.limits.transfer(from, to);
                self.requested_commands.moves(from, to);
                self.audit.attached(from, to, origin, client);
            }
            Event::Exited(session_ref, exit) => self.audit.program_ended(session_ref, exit),
            Event::Closed(closed) => {
                self.limits.release(closed.session_ref);
                self.requested_commands.forget(closed.session_ref);
                self.push_outcome(Outcome::Closed(closed));
            }
            Event::Rejected { session_ref, recording } => {
                self.limits.release(session_ref);
                self.requested_commands.forget(session_ref);
                self.push_outcome(Outcome::Aborted(session_ref, recording));
            }
        }
    }
}

/// Why a session ends whose client was told this, whose program has ended so, or whose
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
    /// A session is about to begin.
    pub fn set_pending(
        &mut self,
        cx: &mut Context,
        key: Key,
        permit: Option<Permit>,
        origin: Origin,
        size: Size,
        shown: Option<String>,
    ) {
        let session_ref = SessionRef::Session(key);
        if cx.audit.is_enabled() {
            let io = &mut self.io;
            let peer = Peer::of(&io.client, &mut cx.audit.user_names, origin.has_audit());
            let pid = io.program.as_ref().map(ProcessHandle::pid);
            let (id, tty) = (cx.ids.of(key), io.master.slave_name());
            cx.audit.note(session_ref, origin, peer, NewSession { id, pid, tty, size: Some(size) });
            io.byte_counts.get_or_insert_with(Box::default).touch();
        }
        cx.observe(Event::Pending { session_ref, permit, shown });
    }

    /// It goes on, of a gateway that was here before.
    pub fn set_restored(&mut self, cx: &mut Context, key: Key, info: RestoredInfo) {
        let io = &mut self.io;
        cx.restore_session(SessionRef::Session(key), info, |audit| {
            (Peer::of(&io.client, &mut audit.user_names, true), io.master.slave_name())
        });
        if cx.audit.is_enabled() {
            io.byte_counts.get_or_insert_with(Box::default).touch();
        }
    }

    /// The session without a client that was this entry has this one.
    pub fn set_attached(&mut self, cx: &mut Context, key: Key, entry: Key, origin: &Origin) {
        let client = &self.io.client;
        cx.observe(Event::Attached { key, entry, origin, client });
        if let Some(recording) = self.io.recording() {
            recording.assign_to(SessionRef::Session(key));
        }
        if cx.audit.is_enabled() {
            self.io.byte_counts.get_or_insert_with(Box::default);
        }
    }

    /// Its program was executed, if that was not known yet.
    pub fn mark_started(&mut self, cx: &mut Context, key: Key) {
        if std::mem::take(&mut self.started_poll) != 0 {
            cx.started(SessionRef::Session(key));
        }
    }

    /// There never was such a session: where its client comes from.
    pub fn rejected(&mut self, cx: &mut Context, key: Key) -> Origin {
        let session_ref = SessionRef::Session(key);
        let recording = self.io.recording().cloned();
        let origin = cx.audit.remove(session_ref);
        cx.observe(Event::Rejected { session_ref, recording });
        origin
    }

    /// Bytes of input and output of its client; `None`: they did not come through
    /// here.
    fn bytes(&self) -> ByteTotals {
        match self.session.is_handed_over() {
            true => (None, None),
            false => self.io.byte_counts.as_ref().map(|byte_counts| byte_counts.bytes()).unzip(),
        }
    }

    /// A session is over.
    fn mark_closed(&mut self, cx: &mut Context, key: Key) {
        let (session, session_ref) = (&self.session, SessionRef::Session(key));
        let why = close_reason(session.termination(), self.exit, session.client_is_gone());
        let byte_counts = self.io.byte_counts.as_mut();
        let recording = byte_counts.and_then(|byte_counts| byte_counts.recording.take());
        let bytes = self.bytes();
        let was_supervised = session.is_handed_over() && session.detach_state().is_none();
        let exit = cx.audit.of(session_ref).and_then(|info| info.exit);
        let last = cx.audit.ended(session_ref, why, bytes).map(Box::new);
        cx.observe(Event::Closed(Closed {
            session_ref,
            why,
            exit,
            last,
            recording,
            was_supervised,
        }));
    }
}

impl Sessions {
    /// A session's program has ended, by itself or by a signal.
    pub fn exited(&mut self, cx: &mut Context, key: Key, exit: Exit) {
        if let Some(live) = self.get_mut(key) {
            live.mark_started(cx, key);
            live.exit = Some(EndReason::of_exit(exit));
            cx.observe(Event::Exited(SessionRef::Session(key), exit));
        }
    }

    /// A session goes on without its client, as this entry of those that do: nobody
    /// finds it by its key any more.
    pub fn detach(
        &mut self,
        cx: &mut Context,
        key: Key,
        entry: Key,
        how: DetachReason,
    ) -> Option<Box<LiveSession>> {
        let mut live = self.remove(key)?;
        // It was never seen to run, perhaps, and runs all the same.
        live.mark_started(cx, key);
        let bytes = live.bytes();
        cx.observe(Event::Detached { key, entry, how, bytes });
        if let Some(recording) = live.io.recording() {
            recording.assign_to(SessionRef::Detached(entry));
        }
        Some(live)
    }

    /// A session is over: everybody is told, and nobody finds it any more.
    pub fn end(&mut self, cx: &mut Context, key: Key) -> Option<Box<LiveSession>> {
        crate::event_loop::fault_injection::point("told-end");
        let mut live = self.remove(key)?;
        // It was never seen to run, perhaps, and runs all the same.
        live.mark_started(cx, key);
        live.mark_closed(cx, key);
        Some(live)
    }
}

impl LiveCommand {
    /// A command is about to begin.
    pub fn set_pending(
        &mut self,
        cx: &mut Context,
        key: Key,
        permit: Option<Permit>,
        origin: Origin,
        shown: Option<String>,
    ) {
        let session_ref = SessionRef::Command(key);
        if cx.audit.is_enabled() {
            let peer = Peer::of(&self.io.client, &mut cx.audit.user_names, origin.has_audit());
            let (id, pid) = (cx.ids.of(("command", key)), self.io.program);
            cx.audit.note(session_ref, origin, peer, NewSession { id, pid, tty: None, size: None });
            self.io.byte_counts.get_or_insert_with(Box::default);
        }
        cx.observe(Event::Pending { session_ref, permit, shown });
    }

    /// There never was such a command.
    pub fn rejected(&mut self, cx: &mut Context, key: Key) -> Origin {
        let session_ref = SessionRef::Command(key);
        self.is_rejected = true;
        let origin = cx.audit.remove(session_ref);
        cx.observe(Event::Rejected { session_ref, recording: None });
        origin
    }

    /// Its program was executed, if that was not known yet.
    pub fn mark_started(&mut self, cx: &mut Context, key: Key) {
        if !std::mem::replace(&mut self.is_started, true) {
            cx.started(SessionRef::Command(key));
        }
    }

    /// Its program has ended, by itself or by a signal.
    pub fn exited(&mut self, cx: &mut Context, key: Key, exit: Exit) {
        self.mark_started(cx, key);
        self.exit = Some(EndReason::of_exit(exit));
        cx.observe(Event::Exited(SessionRef::Command(key), exit));
    }

    /// A command is over.
    pub fn mark_closed(&mut self, cx: &mut Context, key: Key) {
        // Of one that never was there is nothing to tell.
        if self.is_rejected {
            return;
        }
        let (command, session_ref) = (&self.command, SessionRef::Command(key));
        let why = close_reason(command.termination(), self.exit, command.client_is_gone());
        let bytes = self.bytes();
        self.mark_started(cx, key);
        let last = cx.audit.ended(session_ref, why, bytes).map(Box::new);
        let (exit, recording, was_supervised) = (None, None, false);
        cx.observe(Event::Closed(Closed {
            session_ref,
            why,
            exit,
            last,
            recording,
            was_supervised,
        }));
    }
}
