//! Requested commands: what clients asked for instead of their socket's own command.

use std::collections::HashMap;

use crate::event_loop::subject::Subject;

/// Requested commands by session.
#[derive(Default)]
pub struct RequestedCommands(HashMap<Subject, Box<str>>);

impl RequestedCommands {
    /// Stores the command that a session has requested; `None`: none.
    pub fn note(&mut self, subject: Subject, command: Option<String>) {
        if let Some(command) = command {
            self.0.insert(subject, command.into());
        }
    }

    /// Moves the command when the session is detached or attached, and so gets another key.
    pub fn moves(&mut self, from: Subject, to: Subject) {
        if let Some(command) = self.0.remove(&from) {
            self.0.insert(to, command);
        }
    }

    /// Drops the command of a session that is over.
    pub fn forget(&mut self, subject: Subject) {
        if !self.0.is_empty() {
            self.0.remove(&subject);
        }
    }

    /// The command that a session has requested.
    pub fn command(&self, subject: Subject) -> Option<&str> {
        self.0.get(&subject).map(|command| &**command)
    }

    /// Drops commands of sessions that are no more, after a panic.
    pub fn retain(&mut self, exists: impl Fn(Subject) -> bool) {
        self.0.retain(|subject, _| exists(*subject));
    }
}
