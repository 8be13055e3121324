//! What becomes of a session whose client leaves, is lost, or comes back: the parts
//! say what it is, and this has each of them do theirs.

use super::context::Context;
use super::event_loop::GatewayLoop;
use super::greet::Opened;
use super::left::{self, Came, Left, Parting, Why, Wish};
use super::programs::Programs;
use super::table::Key;
use super::told::Gone;
use super::traffic::Sessions;
use fpty::ended::of_exit;
use fpty::proto::{Ended, Ending};
use fpty::sys::Size;
use fpty::sys::child::{Exit, Pid};

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
    /// stands in the buffer.
    pub(super) fn come_back(&mut self, opened: Opened) {
        let Opened { newcomer, opening, arrived, ended } = opened;
        let Self { left, cx, sessions, programs, .. } = self;
        let left = left.as_deref_mut();
        match left::comes_back(left, cx, sessions, programs, newcomer, opening) {
            Came::In => {}
            Came::New(newcomer, opening) => {
                self.open_new(Opened { newcomer, opening, arrived, ended });
            }
            Came::Not(newcomer, why) => self.cx.turn_back(newcomer, true, why),
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

    /// A session is over, and its client has all that it will get: unless somebody
    /// else waits for it, who is to see how it ended.
    pub(super) fn close(&mut self, key: Key) {
        if !self.goes_on_alone(key, Why::Closes) {
            self.with_left(|left, cx, _, _| left.unwatch_session(cx, key));
            self.sessions.close(&mut self.cx, &mut self.programs, key);
        }
    }

    /// A session ends with its client.
    pub(super) fn abandon(&mut self, key: Key) {
        self.with_left(|left, cx, _, _| left.unwatch_session(cx, key));
        self.sessions.abandon(&mut self.cx, &mut self.programs, key);
    }

    /// A session may go on without its client, or with it after all. Whether it goes
    /// on.
    pub(super) fn goes_on_alone(&mut self, key: Key, why: Why) -> bool {
        let Some(left) = &mut self.left else {
            return why == Why::Asked && self.client_stays(key, left::NOT_ALLOWED);
        };
        let (leaves, how) = match left.parting(&self.cx, &mut self.sessions, key, why) {
            Parting::Ends => return false,
            Parting::Stays(why_not) => return self.client_stays(key, &why_not),
            Parting::GoesOn(leaves, how) => (leaves, how),
        };
        // All that it takes is there: now the client may know.
        let id = left.left_id(key).filter(|_| why == Why::Asked);
        if let (Some(id), Some(attached)) = (id, self.sessions.get_mut(key)) {
            let told = Ended::because(Ending::Detached, id);
            attached.session.part_from_client(&told, &mut attached.wires);
        }
        self.with_left(|left, cx, sessions, programs| {
            left.goes_on_without(cx, sessions, programs, key, leaves, how);
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
        self.with_left(|left, cx, _, _| left.forget_left(cx, session));
    }

    /// Ends a session that nobody is attached to.
    pub(super) fn end_left(&mut self, entry: Key, why: Gone) {
        self.with_left(|left, cx, _, programs| left.end_left(cx, programs, entry, why));
    }

    /// What keeps sessions is told how it is with this one.
    pub(super) fn tell_store(&mut self, entry: Key) {
        self.with_left(|left, cx, sessions, programs| {
            left.tell_store(cx, sessions, programs, entry);
        });
    }

    /// The program of a session that nobody is attached to has ended. Whether it was
    /// one.
    pub(super) fn is_end_of_left(&mut self, program: Pid, exit: Exit) -> bool {
        let Some(key) = self.left.as_ref().and_then(|left| left.of_program(program)) else {
            return false;
        };
        self.with_left(|left, cx, sessions, programs| {
            left.alone_over(cx, sessions, programs, key, Some(exit), of_exit(exit));
        });
        true
    }

    /// A terminal was handed over to its client: whether that can leave.
    pub(super) fn handed_over_for_a_while(&mut self, key: Key) -> bool {
        let Self { left, cx, sessions, programs, .. } = self;
        let left = left.as_mut();
        left.is_some_and(|left| left.handed_over_for_a_while(cx, sessions, programs, key))
    }

    /// The session that has just begun can be left from now on, where there is the
    /// memory for it. Whether it can.
    pub(super) fn can_be_left(&mut self, key: Key, wish: Wish, size: Size, relays: bool) -> bool {
        let Self { left, cx, sessions, programs, .. } = self;
        let left = left.as_mut();
        left.is_some_and(|left| left.can_be_left(cx, sessions, programs, key, wish, size, relays))
    }
}
