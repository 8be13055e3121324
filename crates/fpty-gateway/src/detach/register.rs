//! Registration: a new session becomes detachable.

use super::attach_state::AttachState;
use super::registry::DetachRegistry;
use super::registry_entry::{Client, Program, RegistryEntry};
use crate::config::rules::Rules;
use crate::connection::client_hello::Opening;
use crate::connection::listeners::Newcomer;
use crate::connection::session_access::{self, NOBODY, Secrets};
use crate::connection::shared_counts::Tally;
use crate::control::peers::attach_request;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::process::table::Programs;
use crate::session::relay::{LiveSession, Sessions};
use crate::session::selector::SessionSelector;
use crate::session::state::detach_state::DetachState;
use fpty::error::reason;
use fpty::fair_share::Who;
use fpty::proto::{Ended, Ending, is_name, variables};
use fpty::scrollback::Remains;
use fpty::sys::Size;
use fpty::sys::clock::Timestamp;
use fpty::sys::pid_guard::Process;

/// Name and owner of a session that is to be detachable.
pub struct Registration {
    uid: u32,
    who: Who,
    name: String,
    /// Claim on the name, which no other session of the user may have.
    name_claim: Option<Tally>,
}

impl DetachRegistry {
    /// The registration of the session that a client requests; `None`: the session cannot be
    /// detached.
    ///
    /// # Errors
    /// The name cannot be had: the client is rejected.
    pub fn plan_registration(
        &self,
        cx: &Context,
        newcomer: &Newcomer,
        opening: &Opening,
        name_claim: Option<Tally>,
    ) -> Result<Option<Registration>, Ended> {
        let refused = |why: &str| Err(Ended::because(Ending::Refused, why));
        let allows = |rules: &Rules| rules.detach.sessions > 0;
        if !cx.doors.rules(newcomer.door).is_some_and(allows) {
            return Ok(None);
        }
        let name = opening.variables.get(variables::SESSION_NAME).unwrap_or_default();
        if !name.is_empty() && !is_name(name) {
            return refused("a session's name has letters, digits, '.', '_' and '-', at most 64");
        }
        if opening.variables.get(variables::CAN_LEAVE) != Some(b"1") {
            return Ok(None);
        }
        let uid = session_access::user_of(&newcomer.client);
        // A client without user id and secret could not attach again.
        if uid == NOBODY && opening.variables.get(variables::SECRET).is_none() {
            return Ok(None);
        }
        let key = SessionSelector::of(name).filter(|_| uid != NOBODY);
        let name_claim = match key.map(|name| attach_request::name(newcomer.door, uid, name)) {
            None => None,
            // The request may hold the claim already.
            Some(key) => match name_claim.filter(|name_claim| name_claim.is(key)) {
                None => Some(self.tallies.claim(key, 1)),
                name_claim => name_claim.map(Ok),
            },
        };
        let name = String::from_utf8_lossy(name).into_owned();
        match name_claim.transpose() {
            Ok(name_claim) => {
                Ok(Some(Registration { uid, who: Who::of(&newcomer.client), name, name_claim }))
            }
            Err(_) => refused(&format!("there is a session {name} of yours (fpty -a {name})")),
        }
    }

    /// Makes a new session detachable, where there is memory for its scrollback. Whether it is.
    #[allow(clippy::too_many_arguments)]
    pub fn register(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        key: Key,
        registration: Registration,
        size: Size,
        relay_only: bool,
    ) -> bool {
        let Some(live) = sessions.get_mut(key) else {
            return false;
        };
        let door = live.door;
        let LiveSession { session, io, .. } = live;
        let (Some(pid), Some(rules)) =
            (io.program.as_ref().map(Process::pid), cx.doors.rules(door))
        else {
            return false;
        };
        // The scrollback has up to 64 MB.
        let remains = Remains::new(rules.detach.buffer as usize, size);
        let Ok(remains) = remains else {
            session.notice("this session cannot be left: out of memory", io);
            return false;
        };
        let Registration { uid, who, name, name_claim } = registration;
        let secrets = match Secrets::new() {
            Err(error) if uid == NOBODY => {
                let line = format!("this session cannot be left: no secret: {}", reason(&error));
                session.notice(&line, io);
                return false;
            }
            made => made.unwrap_or_default(),
        };
        session.make_detachable(DetachState { remains, awaiting_go: false, relay_only });
        let id = cx.ids.of(key);
        if let Some(its_key) = secrets.key(&id, uid) {
            session.send_key(&its_key, io);
        }
        let began = Timestamp::now();
        let program = Program { pidfd: None, status_deadline: None };
        let entry = self.insert(RegistryEntry {
            id: id.into(),
            name,
            uid,
            who,
            secrets,
            door,
            pid,
            since: began,
            state: AttachState::attached(program, Client { session: key, uid }, began),
            dirty: false,
            scheduled: None,
            viewers: 0,
            no_detach: None,
            name_claim,
            detached_claims: None,
        });
        self.sync_supervisor(cx, sessions, programs, entry);
        true
    }
}
