//! A session begins that can be left.

use super::entry::{Client, Entry, Program};
use super::registry::Left;
use super::state::State;
use crate::config::rules::Rules;
use crate::connection::client_hello::Opening;
use crate::connection::listeners::Newcomer;
use crate::connection::session_access::{self, NOBODY, Secrets};
use crate::connection::shared_counts::Tally;
use crate::control::peers::attach_request;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::process::table::Programs;
use crate::session::relay::{Attached, Sessions};
use crate::session::selector::Beginning;
use crate::session::state::detach_state::Kept;
use fpty::error::reason;
use fpty::fair_share::Who;
use fpty::proto::{EndKind, SessionEnd, is_session_name, variables};
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::Size;
use fpty::sys::clock::Timestamp;
use fpty::sys::process_handle::ProcessHandle;

/// What a new session is to be called, and whose it is.
pub struct Wish {
    uid: u32,
    who: Who,
    name: String,
    /// Nobody else of one's own is called so.
    held: Option<Tally>,
}

impl Left {
    /// Whether a client can leave the session that it is about to begin:
    /// `None`: not.
    ///
    /// # Errors
    /// It is to have a name that it cannot have: why there is no session.
    pub fn may_leave(
        &self,
        cx: &Context,
        newcomer: &Newcomer,
        opening: &Opening,
        held: Option<Tally>,
    ) -> Result<Option<Wish>, SessionEnd> {
        let refused = |why: &str| Err(SessionEnd::new(EndKind::Refused, why));
        let allows = |rules: &Rules| rules.detach.sessions > 0;
        if !cx.doors.rules(newcomer.door).is_some_and(allows) {
            return Ok(None);
        }
        let name = opening.variables.get(variables::SESSION_NAME).unwrap_or_default();
        if !name.is_empty() && !is_session_name(name) {
            return refused("a session's name has letters, digits, '.', '_' and '-', at most 64");
        }
        if opening.variables.get(variables::CAN_DETACH) != Some(b"1") {
            return Ok(None);
        }
        let uid = session_access::user_of(&newcomer.client);
        // Who keeps no secret would never find it again.
        if uid == NOBODY && opening.variables.get(variables::SECRET).is_none() {
            return Ok(None);
        }
        let key = Beginning::of(name).filter(|_| uid != NOBODY);
        let held = match key.map(|name| attach_request::name(newcomer.door, uid, name)) {
            None => None,
            // It may have it already.
            Some(key) => match held.filter(|held| held.is(key)) {
                None => Some(self.tallies.claim(key, 1)),
                held => held.map(Ok),
            },
        };
        let name = String::from_utf8_lossy(name).into_owned();
        match held.transpose() {
            Ok(held) => Ok(Some(Wish { uid, who: Who::of(&newcomer.client), name, held })),
            Err(_) => refused(&format!("there is a session {name} of yours (fpty -a {name})")),
        }
    }

    /// The session that has just begun can be left from now on, where there is
    /// the memory for it. Whether it can.
    #[allow(clippy::too_many_arguments)]
    pub fn can_be_left(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        key: Key,
        wish: Wish,
        size: Size,
        relays: bool,
    ) -> bool {
        let Some(attached) = sessions.get_mut(key) else {
            return false;
        };
        let door = attached.door;
        let Attached { session, wires, .. } = attached;
        let (Some(pid), Some(rules)) =
            (wires.program.as_ref().map(ProcessHandle::pid), cx.doors.rules(door))
        else {
            return false;
        };
        // Up to 64 MB.
        let remains = ScrollbackWriter::new(rules.detach.buffer as usize, size);
        let Ok(remains) = remains else {
            session.notice("this session cannot be left: out of memory", wires);
            return false;
        };
        let Wish { uid, who, name, held } = wish;
        let secrets = match Secrets::new() {
            Err(error) if uid == NOBODY => {
                let line = format!("this session cannot be left: no secret: {}", reason(&error));
                session.notice(&line, wires);
                return false;
            }
            made => made.unwrap_or_default(),
        };
        session.keep(Kept { remains, hidden: false, relays });
        let id = cx.ids.of(key);
        if let Some(its_key) = secrets.key(&id, uid) {
            session.tell_key(&its_key, wires);
        }
        let began = Timestamp::now();
        let program = Program { pidfd: None, ending: None };
        let entry = self.insert(Entry {
            id: id.into(),
            name,
            uid,
            who,
            secrets,
            door,
            pid,
            since: began,
            state: State::attached(program, Client { session: key, uid }, began),
            untold: false,
            armed: None,
            watchers: 0,
            bound: None,
            held,
            counts: None,
        });
        self.tell_store(cx, sessions, programs, entry);
        true
    }
}
