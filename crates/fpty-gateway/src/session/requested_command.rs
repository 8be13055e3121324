//! Requested commands: what clients asked for instead of their socket's own command.

use std::collections::HashMap;

use super::session_ref::SessionRef;
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
            // The session gets another key.
            Event::Attached { from, to, .. } | Event::Detached { from, to, .. } => {
                let command = self.0.remove(&from);
                self.0.extend(command.map(|command| (to, command)));
            }
            // Most often there are none, and nothing is to be hashed.
            Event::Closed { session, .. } | Event::Aborted(session) if !self.0.is_empty() => {
                self.0.remove(&session);
            }
            _ => {}
        }
    }
}
