//! Which commands sessions have asked for that did not get their socket's own.

use std::collections::HashMap;

use crate::event_loop::subject::Subject;

/// The commands of those that asked for one.
#[derive(Default)]
pub struct RequestedCommands(HashMap<Subject, Box<str>>);

impl RequestedCommands {
    /// Notes what a session has asked for; `None`: for nothing.
    pub fn note(&mut self, subject: Subject, command: Option<String>) {
        if let Some(command) = command {
            self.0.insert(subject, command.into());
        }
    }

    /// A session keeps its command when its client leaves, or comes back.
    pub fn moves(&mut self, from: Subject, to: Subject) {
        if let Some(command) = self.0.remove(&from) {
            self.0.insert(to, command);
        }
    }

    /// A session is over.
    pub fn forget(&mut self, subject: Subject) {
        if !self.0.is_empty() {
            self.0.remove(&subject);
        }
    }

    /// What this one has asked for.
    pub fn command(&self, subject: Subject) -> Option<&str> {
        self.0.get(&subject).map(|command| &**command)
    }

    /// After a panic: only what sessions have asked for that there are.
    pub fn retain(&mut self, exists: impl Fn(Subject) -> bool) {
        self.0.retain(|subject, _| exists(*subject));
    }
}
