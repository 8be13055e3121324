//! The life of a session, and the one place that tells of it: it is pending,
//! started, left and found again, looked at, exited, closed, or never was one. Whoever wants to know of it
//! (audit, metrics, limits, lists, recordings, sessions that can be left) hears
//! of it from here, and from nowhere else.

use std::rc::Rc;
use std::time::Duration;

use super::relay::{LiveSession, Sessions};
use crate::command::commands::LiveCommand;
use crate::connection::limits::Seat;
use crate::connection::session_access::NOBODY;
use crate::event_loop::context::Context;
use crate::event_loop::outcome::{Closed, Outcome};
use crate::event_loop::slab::Key;
use crate::event_loop::subject::Subject;
use crate::observe::audit::{Gone, Mode, New, Origin, Parted, Peer, Relayed, Story, Told};
use crate::observe::recording::Recording;
use crate::process::supervisor::end_lines;
use fpty::fair_share::Who;
use fpty::proto::Ending;
use fpty::sys::Size;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::pid_guard::Process;
use fpty::sys::socket::Stream;

/// What happens to a session. The observers that every part has at hand are told
/// at once; the others by the loop, when the part that is at work has finished.
enum Event<'a> {
    /// It is about to begin: it has a terminal or streams, and a program that is
    /// not known to have been executed.
    Pending { subject: Subject, seat: Option<Seat>, shown: Option<String> },
    /// Its program was executed.
    Started(Subject),
    /// Its client has left, and it goes on as this entry of those without one.
    Detached { key: Key, entry: Key, how: Parted, bytes: Relayed },
    /// A client has come to that, and is its client from now on.
    Attached { key: Key, entry: Key, origin: &'a Origin, client: &'a Stream },
    /// Its program has ended.
    Exited(Subject, Exit),
    /// It is over.
    Closed(Closed),
    /// It never was one.
    Rejected { subject: Subject, recording: Option<Rc<Recording>> },
}

/// What is known of a session of a gateway that was here before.
pub struct RestoredInfo {
    /// What is told of it, where anybody wanted to know.
    pub story: Option<Box<Story>>,
    /// What runs, where that is known.
    pub command: Option<String>,
    /// When it began.
    pub started: Timestamp,
    /// Where it began.
    pub door: u16,
    /// The size of its terminal.
    pub size: Size,
    /// Whose it is, and for whom it counts where sessions are limited.
    pub uid: u32,
    pub who: Who,
    /// Its id.
    pub id: String,
    /// Its program.
    pub pid: Option<Pid>,
}

impl Context {
    /// A session went without an end: it is told as lost.
    pub fn lost(&mut self, subject: Subject) {
        let last = self.told.ended(subject, Gone::Lost, (None, None));
        self.told.tell_last(last.as_ref(), None);
    }

    /// A client looks on at a session. The place is to be given back with
    /// [`Context::viewer_left`].
    pub fn viewer_joined(
        &mut self,
        subject: Subject,
        origin: &Origin,
        client: &Stream,
    ) -> Option<end_lines::Place> {
        self.told.viewed(subject, origin, client)
    }

    /// It does so no more, after so long.
    pub fn viewer_left(
        &mut self,
        subject: Subject,
        client: &Stream,
        after: Duration,
        place: Option<end_lines::Place>,
    ) {
        self.told.unviewed(subject, client, after, place);
    }

    /// The program of a session or command was executed.
    pub fn started(&mut self, subject: Subject) {
        self.observe(Event::Started(subject));
    }

    /// A session without a client goes on, of a gateway that was here before; its client
    /// was `lost` with that one, which had come then.
    pub fn restored_detached(&mut self, entry: Key, info: RestoredInfo, lost: Option<Timestamp>) {
        let (subject, uid) = (Subject::Detached(entry), info.uid);
        self.restore_session(subject, info, |told| match uid {
            NOBODY => (Peer::default(), None),
            _ => (Peer::user(uid, &mut told.names), None),
        });
        if let Some(since) = lost {
            self.told.lost_with_its_gateway(subject, since);
        }
    }

    /// Any session of a gateway that was here before goes on: it has its seat, be there
    /// none left, and is what it was. Where that kept nothing to be told, its client and
    /// its terminal are as they are now.
    fn restore_session(
        &mut self,
        subject: Subject,
        info: RestoredInfo,
        now: impl FnOnce(&mut Told) -> (Peer, Option<String>),
    ) {
        let RestoredInfo { story, command, started, door, who, size, id, pid, .. } = info;
        if let Some(rules) = self.doors.rules(door) {
            let seat = self.seats.keep(rules, who);
            self.seats.belongs_to(seat, subject);
        }
        self.requested_commands.note(subject, command.clone());
        match story.filter(|_| self.told.keeps_facts()) {
            Some(story) => self.told.take_up(subject, *story, door, id, pid),
            None if self.told.keeps_facts() => {
                let (peer, tty) = now(&mut self.told);
                let origin = self.told.origin(door, Mode::Extended);
                let origin = self.told.asking(origin, || command);
                self.told.note(subject, origin, peer, New { id, pid, tty, size: Some(size) });
            }
            None => {}
        }
        self.told.goes_on(subject, started);
    }

    /// A session without a client is over.
    pub fn closed_without_client(
        &mut self,
        entry: Key,
        why: Gone,
        exit: Option<Exit>,
        recording: Option<Rc<Recording>>,
    ) {
        let subject = Subject::Detached(entry);
        if let Some(exit) = exit {
            self.observe(Event::Exited(subject, exit));
        }
        let last = self.told.ended(subject, why, (Some(0), Some(0))).map(Box::new);
        let was_supervised = false;
        self.observe(Event::Closed(Closed { subject, why, exit, last, recording, was_supervised }));
    }

    fn observe(&mut self, event: Event<'_>) {
        match event {
            Event::Pending { subject, seat, shown } => {
                self.seats.belongs_to(seat, subject);
                self.requested_commands.note(subject, shown);
            }
            Event::Started(subject) => {
                if let Subject::Session(key) = subject {
                    self.faults.begin(key);
                }
                self.told.begun(subject);
                self.then(Outcome::Started(subject));
            }
            Event::Detached { key, entry, how, bytes } => {
                let (from, to) = (Subject::Session(key), Subject::Detached(entry));
                self.seats.moves(from, to);
                self.requested_commands.moves(from, to);
                self.told.detached(from, to, how, bytes);
            }
            Event::Attached { key, entry, origin, client } => {
                let (from, to) = (Subject::Detached(entry), Subject::Session(key));
                self.seats.moves(from, to);
                self.requested_commands.moves(from, to);
                self.told.attached(from, to, origin, client);
            }
            Event::Exited(subject, exit) => self.told.program_ended(subject, exit),
            Event::Closed(closed) => {
                self.seats.ended(closed.subject);
                self.requested_commands.forget(closed.subject);
                self.then(Outcome::Closed(closed));
            }
            Event::Rejected { subject, recording } => {
                self.seats.ended(subject);
                self.requested_commands.forget(subject);
                self.then(Outcome::NeverWas(subject, recording));
            }
        }
    }
}

/// Why a session ends whose client was told this, whose program has ended so, or whose
/// client is gone.
fn close_reason(termination: Option<Ending>, exit: Option<Gone>, client_is_gone: bool) -> Gone {
    match termination.map(Gone::of).or(exit) {
        Some(why) => why,
        None if client_is_gone => Gone::Hangup,
        None => Gone::Lost,
    }
}

impl LiveSession {
    /// A session is about to begin.
    pub fn set_pending(
        &mut self,
        cx: &mut Context,
        key: Key,
        seat: Option<Seat>,
        origin: Origin,
        size: Size,
        shown: Option<String>,
    ) {
        let subject = Subject::Session(key);
        if cx.told.keeps_facts() {
            let io = &mut self.io;
            let peer = Peer::of(&io.client, &mut cx.told.names, origin.has_audit());
            let pid = io.program.as_ref().map(Process::pid);
            let (id, tty) = (cx.ids.of(key), io.master.slave_name());
            cx.told.note(subject, origin, peer, New { id, pid, tty, size: Some(size) });
            io.byte_counts.get_or_insert_with(Box::default).touch();
        }
        cx.observe(Event::Pending { subject, seat, shown });
    }

    /// It goes on, of a gateway that was here before.
    pub fn set_restored(&mut self, cx: &mut Context, key: Key, info: RestoredInfo) {
        let io = &mut self.io;
        cx.restore_session(Subject::Session(key), info, |told| {
            (Peer::of(&io.client, &mut told.names, true), io.master.slave_name())
        });
        if cx.told.keeps_facts() {
            io.byte_counts.get_or_insert_with(Box::default).touch();
        }
    }

    /// The session without a client that was this entry has this one.
    pub fn set_attached(&mut self, cx: &mut Context, key: Key, entry: Key, origin: &Origin) {
        let client = &self.io.client;
        cx.observe(Event::Attached { key, entry, origin, client });
        if let Some(recording) = self.io.recording() {
            recording.belongs_to(Subject::Session(key));
        }
        if cx.told.keeps_facts() {
            self.io.byte_counts.get_or_insert_with(Box::default);
        }
    }

    /// Its program was executed, if that was not known yet.
    pub fn mark_started(&mut self, cx: &mut Context, key: Key) {
        if std::mem::take(&mut self.started_poll) != 0 {
            cx.started(Subject::Session(key));
        }
    }

    /// There never was such a session: where its client comes from.
    pub fn rejected(&mut self, cx: &mut Context, key: Key) -> Origin {
        let subject = Subject::Session(key);
        let recording = self.io.recording().cloned();
        let origin = cx.told.remove(subject);
        cx.observe(Event::Rejected { subject, recording });
        origin
    }

    /// Bytes of input and output of its client; `None`: they did not come through
    /// here.
    fn bytes(&self) -> Relayed {
        match self.session.is_handed_over() {
            true => (None, None),
            false => self.io.byte_counts.as_ref().map(|byte_counts| byte_counts.bytes()).unzip(),
        }
    }

    /// A session is over.
    fn mark_closed(&mut self, cx: &mut Context, key: Key) {
        let (session, subject) = (&self.session, Subject::Session(key));
        let why = close_reason(session.termination(), self.exit, session.client_is_gone());
        let byte_counts = self.io.byte_counts.as_mut();
        let recording = byte_counts.and_then(|byte_counts| byte_counts.recording.take());
        let bytes = self.bytes();
        let was_supervised = session.is_handed_over() && session.detach_state().is_none();
        let exit = cx.told.of(subject).and_then(|facts| facts.exit);
        let last = cx.told.ended(subject, why, bytes).map(Box::new);
        cx.observe(Event::Closed(Closed { subject, why, exit, last, recording, was_supervised }));
    }
}

impl Sessions {
    /// A session's program has ended, by itself or by a signal.
    pub fn exited(&mut self, cx: &mut Context, key: Key, exit: Exit) {
        if let Some(live) = self.get_mut(key) {
            live.mark_started(cx, key);
            live.exit = Some(Gone::of_exit(exit));
            cx.observe(Event::Exited(Subject::Session(key), exit));
        }
    }

    /// A session goes on without its client, as this entry of those that do: nobody
    /// finds it by its key any more.
    pub fn detach(
        &mut self,
        cx: &mut Context,
        key: Key,
        entry: Key,
        how: Parted,
    ) -> Option<Box<LiveSession>> {
        let mut live = self.remove(key)?;
        // It was never seen to run, perhaps, and runs all the same.
        live.mark_started(cx, key);
        let bytes = live.bytes();
        cx.observe(Event::Detached { key, entry, how, bytes });
        if let Some(recording) = live.io.recording() {
            recording.belongs_to(Subject::Detached(entry));
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
        seat: Option<Seat>,
        origin: Origin,
        shown: Option<String>,
    ) {
        let subject = Subject::Command(key);
        if cx.told.keeps_facts() {
            let peer = Peer::of(&self.io.client, &mut cx.told.names, origin.has_audit());
            let (id, pid) = (cx.ids.of(("command", key)), self.io.program);
            cx.told.note(subject, origin, peer, New { id, pid, tty: None, size: None });
            self.io.byte_counts.get_or_insert_with(Box::default);
        }
        cx.observe(Event::Pending { subject, seat, shown });
    }

    /// There never was such a command.
    pub fn rejected(&mut self, cx: &mut Context, key: Key) -> Origin {
        let subject = Subject::Command(key);
        self.is_rejected = true;
        let origin = cx.told.remove(subject);
        cx.observe(Event::Rejected { subject, recording: None });
        origin
    }

    /// Its program was executed, if that was not known yet.
    pub fn mark_started(&mut self, cx: &mut Context, key: Key) {
        if !std::mem::replace(&mut self.is_started, true) {
            cx.started(Subject::Command(key));
        }
    }

    /// Its program has ended, by itself or by a signal.
    pub fn exited(&mut self, cx: &mut Context, key: Key, exit: Exit) {
        self.mark_started(cx, key);
        self.exit = Some(Gone::of_exit(exit));
        cx.observe(Event::Exited(Subject::Command(key), exit));
    }

    /// A command is over.
    pub fn mark_closed(&mut self, cx: &mut Context, key: Key) {
        // Of one that never was there is nothing to tell.
        if self.is_rejected {
            return;
        }
        let (command, subject) = (&self.command, Subject::Command(key));
        let why = close_reason(command.termination(), self.exit, command.client_is_gone());
        let bytes = self.bytes();
        self.mark_started(cx, key);
        let last = cx.told.ended(subject, why, bytes).map(Box::new);
        let (exit, recording, was_supervised) = (None, None, false);
        cx.observe(Event::Closed(Closed { subject, why, exit, last, recording, was_supervised }));
    }
}
