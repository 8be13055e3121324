//! What becomes of a session whose client leaves, is lost, or comes back: the parts
//! say what it is, and this has each of them do theirs.

use super::GatewayLoop;
use super::context::Context;
use super::doors::Newcomer;
use super::left::{self, Came, Left, Parting, Why};
use super::programs::Programs;
use super::table::Key;
use super::told::{Said, Subject};
use super::traffic::Sessions;
use crate::session::greeting::Opening;
use fpty::ended::of_exit;
use fpty::proto::{Ended, Ending, Protocol};
use fpty::sys::Size;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::peer::Passed;

impl GatewayLoop {
    /// Has the sessions that can be left do something, where there can be any.
    pub(super) fn with_left(
        &mut self,
        does: impl FnOnce(&mut Left, &mut Context, &mut Sessions, &mut Programs),
    ) {
        if let Some(left) = &mut self.left {
            does(left, &mut self.cx, &mut self.sessions, &mut self.programs);
        }
    }

    /// A client asks for a session that was left. What it sent after that
    /// stands in the turn's buffer.
    pub(super) fn come_back(
        &mut self,
        newcomer: Newcomer,
        opening: Opening,
        arrived: Passed,
        ended: bool,
    ) {
        let mode = Protocol::Uwsgi.name();
        self.cx.told.hears(newcomer.door, mode, || Said::of(&opening.variables));
        let newcomer = self.seated(newcomer);
        if let Some(why) = self.is_full(&newcomer) {
            return self.turn_back(newcomer, true, why);
        }
        let Self { left, cx, sessions, programs, .. } = self;
        let left = left.as_deref_mut();
        match left::comes_back(left, cx, sessions, programs, newcomer, opening) {
            Came::In => {}
            Came::New(newcomer, opening) => self.open_new(newcomer, opening, arrived, ended),
            Came::Not(newcomer, why) => self.turn_back(newcomer, true, why),
        }
    }

    /// The client asks to leave.
    pub(super) fn client_leaves(&mut self, key: Key) {
        if !self.goes_on_alone(key, Why::Asked) {
            self.abandon(key);
        }
    }

    /// A client does not answer, or does not go: it is let go.
    pub(super) fn let_client_go(&mut self, key: Key) {
        if !self.goes_on_alone(key, Why::LetGo) {
            self.abandon(key);
        }
    }

    /// A session may go on without its client, or with it after all. Whether it goes
    /// on.
    pub(super) fn goes_on_alone(&mut self, key: Key, why: Why) -> bool {
        let Some(left) = &mut self.left else {
            return why == Why::Asked && self.client_stays(key, left::NOT_ALLOWED);
        };
        let parted = match left.parting(&self.cx, &mut self.sessions, key, why) {
            Parting::Ends => return false,
            Parting::Stays(why_not) => return self.client_stays(key, &why_not),
            Parting::GoesOn(parted) => parted,
        };
        // All that it takes is there: now the client may know.
        let id = left.left_id(key).filter(|_| why == Why::Asked);
        if let (Some(id), Some(attached)) = (id, self.sessions.get_mut(key)) {
            let told = Ended::because(Ending::Detached, id);
            attached.session.part_from_client(&told, &mut attached.wires);
        }
        // Its place is free.
        self.tell_end(key);
        self.with_left(|left, cx, sessions, programs| {
            left.goes_on_without(cx, sessions, programs, key, parted);
        });
        true
    }

    fn client_stays(&mut self, key: Key, why_not: &str) -> bool {
        if let Some(attached) = self.sessions.get_mut(key) {
            let behind = self.cx.behind.has(key);
            attached.session.stays(why_not, behind, &mut attached.wires);
        }
        self.settle(key);
        true
    }

    /// A session is over, whoever ended it.
    pub(super) fn forget_left(&mut self, session: Key) {
        self.with_left(|left, cx, sessions, programs| {
            left.forget_left(cx, sessions, programs, session);
        });
    }

    /// What keeps sessions is told how it is with this one.
    pub(super) fn tell_store(&mut self, entry: Key) {
        self.with_left(|left, cx, sessions, programs| {
            left.tell_store(cx, sessions, programs, entry);
        });
    }

    /// A session that began long ago has another client, or another gateway.
    pub(super) fn begins_again(&mut self, session: Key, since: Timestamp) {
        let Some(attached) = self.sessions.get_mut(session) else {
            return;
        };
        let size = attached.wires.master.size();
        self.note_session(session, size.unwrap_or(Size { rows: 24, cols: 80 }));
        self.tell_start(session);
        self.goes_on(session, since);
    }

    /// The program of a session that nobody is attached to has ended. Whether it was
    /// one.
    pub(super) fn is_end_of_left(&mut self, program: Pid, exit: Exit) -> bool {
        let Some(key) = self.left.as_ref().and_then(|left| left.of_program(program)) else {
            return false;
        };
        self.with_left(|left, cx, sessions, programs| {
            left.alone_over(cx, sessions, programs, key, of_exit(exit));
        });
        true
    }

    /// The program of a session of a gateway before us has ended.
    pub(super) fn adopted_ended(&mut self, session: Key, exit: Option<Exit>, ended: Ended) {
        if let Some(exit) = exit {
            self.note_exit(session, exit);
        }
        if let Some(attached) = self.sessions.get_mut(session) {
            attached.wires.program = None;
        }
        self.session_ended(session, ended);
    }

    /// The session that has just begun can be left from now on, where there is the
    /// memory for it. Whether it can.
    pub(super) fn can_be_left(
        &mut self,
        key: Key,
        wish: left::Wish,
        size: Size,
        relays: bool,
    ) -> bool {
        let command = self.command_of(Subject::Session(key));
        let Self { left, cx, sessions, programs, .. } = self;
        left.as_mut().is_some_and(|left| {
            left.can_be_left(cx, sessions, programs, key, wish, command, size, relays)
        })
    }
}
