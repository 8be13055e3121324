//! Requested commands: what clients asked for instead of their socket's own command.

use std::collections::HashMap;

use crate::event_loop::fault_domain::SessionRef;
use crate::observe::audit::session_info::SessionInfo;
use crate::observe::event::{Event, Observer};

/// Requested commands by session.
#[derive(Default)]
pub struct RequestedCommands(HashMap<SessionRef, Box<str>>);

impl RequestedCommands {
    /// Stores the command that a session has requested; `None`: none.
    pub fn set(&mut self, session_ref: SessionRef, command: Option<String>) {
        if let Some(command) = command {
            self.0.insert(session_ref, command.into());
        }
    }

    /// Moves the command when the session is detached or attached, and so gets another key.
    fn transfer(&mut self, from: SessionRef, to: SessionRef) {
        if let Some(command) = self.0.remove(&from) {
            self.0.insert(to, command);
        }
    }

    /// Drops the command of a session that is over.
    fn forget(&mut self, session_ref: SessionRef) {
        if !self.0.is_empty() {
            self.0.remove(&session_ref);
        }
    }

    /// The command that a session has requested.
    pub fn command(&self, session_ref: SessionRef) -> Option<&str> {
        self.0.get(&session_ref).map(|command| &**command)
    }

    /// Drops commands of sessions that are no more, after a panic.
    pub fn retain(&mut self, exists: impl Fn(SessionRef) -> bool) {
        self.0.retain(|session_ref, _| exists(*session_ref));
    }
}

impl Observer for RequestedCommands {
    fn on_event(&mut self, event: &Event<'_>, _: Option<&SessionInfo>) {
        match *event {
            Event::Attached { from, to, .. } | Event::Detached { from, to, .. } => {
                self.transfer(from, to);
            }
            Event::Closed { session, .. } | Event::Aborted(session) => self.forget(session),
            _ => {}
        }
    }
}
