//! Registration: a new session becomes detachable.

use super::attach_state::AttachState;
use super::detachable_session::{Client, DetachableSession, Program};
use super::registry::DetachRegistry;
use crate::config::rules::Rules;
use crate::connection::client_hello::ClientHello;
use crate::connection::listeners::Connection;
use crate::connection::session_access::{self, Secrets, UNKNOWN_UID};
use crate::connection::shared_counts::SharedCount;
use crate::control::peers::attach_request;
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::slab::Key;
use crate::session::relay::LiveSession;
use crate::session::selector::SessionSelector;
use crate::session::state::extended::DetachState;
use fpty::error::reason;
use fpty::fair_share::Principal;
use fpty::proto::{EndKind, SessionEnd, is_session_name, variables};
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::Size;
use fpty::sys::clock::Timestamp;
use fpty::sys::process_handle::ProcessHandle;

/// Name and owner of a session that is to be detachable.
pub struct Registration {
    uid: u32,
    principal: Principal,
    name: String,
    /// Claim on the name, which no other session of the user may have.
    name_claim: Option<SharedCount>,
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
        connection: &Connection,
        hello: &ClientHello,
        name_claim: Option<SharedCount>,
    ) -> Result<Option<Registration>, SessionEnd> {
        let refused = |why: &str| Err(SessionEnd::new(EndKind::Refused, why));
        let allows = |rules: &Rules| rules.detach.sessions > 0;
        if !cx.listeners.rules(connection.listener).is_some_and(allows) {
            return Ok(None);
        }
        let name = hello.variables.get(variables::SESSION_NAME).unwrap_or_default();
        if !name.is_empty() && !is_session_name(name) {
            return refused("a session's name has letters, digits, '.', '_' and '-', at most 64");
        }
        if hello.variables.get(variables::CAN_DETACH) != Some(b"1") {
            return Ok(None);
        }
        let uid = session_access::uid_of(&connection.client);
        // A client without user id and secret could not attach again.
        if uid == UNKNOWN_UID && hello.variables.get(variables::SECRET).is_none() {
            return Ok(None);
        }
        let selector = SessionSelector::of(name).filter(|_| uid != UNKNOWN_UID);
        let key = selector.map(|name| attach_request::name(connection.listener, uid, name));
        let name = String::from_utf8_lossy(name).into_owned();
        // The request may hold the claim already.
        let held = name_claim.filter(|name_claim| key.is_some_and(|key| name_claim.is(key)));
        let name_claim = match (held, key) {
            (None, Some(key)) => match self.shared_counts.claim(key, 1) {
                Ok(name_claim) => Some(name_claim),
                Err(_) => {
                    let why = format!("there is a session {name} of yours (fpty -a {name})");
                    return refused(&why);
                }
            },
            (held, _) => held,
        };
        let principal = Principal::of(&connection.client);
        Ok(Some(Registration { uid, principal, name, name_claim }))
    }

    /// Makes a new session detachable, where there is memory for its scrollback. Whether it is.
    pub fn register(
        &mut self,
        core: &mut Core,
        key: Key,
        registration: Registration,
        size: Size,
        relay_only: bool,
    ) -> bool {
        let Core { cx, sessions, .. } = core;
        let Some(live) = sessions.get_mut(key) else {
            return false;
        };
        let listener = live.listener;
        let LiveSession { session, io, .. } = live;
        let (Some(pid), Some(rules)) =
            (io.program.as_ref().map(ProcessHandle::pid), cx.listeners.rules(listener))
        else {
            return false;
        };
        // The scrollback has up to 64 MB.
        let remains = ScrollbackWriter::new(rules.detach.buffer as usize, size);
        let Ok(remains) = remains else {
            session.notice("this session cannot be detached: out of memory", io);
            return false;
        };
        let Registration { uid, principal, name, name_claim } = registration;
        let secrets = match Secrets::new() {
            Err(error) if uid == UNKNOWN_UID => {
                let line =
                    format!("this session cannot be detached: no secret: {}", reason(&error));
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
        let state = AttachState::attached(program, Client { session: key, uid }, began);
        let entry = DetachableSession::new((&id, began), (uid, principal), listener, pid, state);
        let entry = self.insert(DetachableSession { name, secrets, name_claim, ..entry });
        self.sync_supervisor(core, entry);
        true
    }
}
