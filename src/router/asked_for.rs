//! Which commands sessions have asked for that did not get their socket's own.

use std::collections::HashMap;

use super::context::Context;
use super::told::Subject;

/// The commands of those that asked for one.
#[derive(Default)]
pub struct AskedFor(HashMap<Subject, Box<str>>);

impl AskedFor {
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

    /// After a panic: only what sessions have asked for that there are.
    pub fn retain(&mut self, exists: impl Fn(Subject) -> bool) {
        self.0.retain(|subject, _| exists(*subject));
    }
}

impl Context {
    /// What runs in a session or command that began at this socket; `None`: there is
    /// no such socket any more.
    pub fn command_of(&self, subject: Subject, door: u16) -> Option<String> {
        match self.asked_for.0.get(&subject) {
            Some(command) => Some(command.to_string()),
            None => Some(self.doors.rules(door)?.command.to_string_lossy().into_owned()),
        }
    }
}
