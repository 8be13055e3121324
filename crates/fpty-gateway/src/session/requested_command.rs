//! Requested commands: what clients asked for instead of their socket's own command.

use std::collections::HashMap;

use crate::event_loop::subject::SessionRef;

/// Requested commands by session.
#[derive(Default)]
pub struct RequestedCommands(HashMap<SessionRef, Box<str>>);

impl RequestedCommands {
    /// Stores the command that a session has requested; `None`: none.
    pub fn note(&mut self, session_ref: SessionRef, command: Option<String>) {
        if let Some(command) = command {
            self.0.insert(session_ref, command.into());
        }
    }

    /// Moves the command when the session is detached or attached, and so gets another key.
    pub fn moves(&mut self, from: SessionRef, to: SessionRef) {
        if let Some(command) = self.0.remove(&from) {
            self.0.insert(to, command);
        }
    }

    /// Drops the command of a session that is over.
    pub fn forget(&mut self, session_ref: SessionRef) {
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
