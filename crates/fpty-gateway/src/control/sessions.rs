//! All sessions of a gateway, to be looked at: those with a client, commands, and
//! those that were left.

use super::session_view::SessionView;
use crate::command::commands::Commands;
use crate::detach::{DetachRegistry, EntryView};
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::subject::Subject;
use crate::observe::audit::Facts;
use crate::session::relay::Sessions;
use crate::session::selector::SessionSelector;
use fpty::sys::pid_guard::Process;

/// The places of commands come after those of sessions, of which there are
/// fewer than there can be descriptors.
const COMMANDS: usize = 1 << 31;

/// And those of sessions that were left after these.
const LEFT: usize = 3 << 30;

/// The sessions of a gateway.
#[derive(Clone, Copy)]
pub struct View<'a> {
    sessions: &'a Sessions,
    commands: &'a Commands,
    left: Option<&'a DetachRegistry>,
}

impl<'a> View<'a> {
    /// Of these.
    pub fn of(
        sessions: &'a Sessions,
        commands: &'a Commands,
        left: Option<&'a DetachRegistry>,
    ) -> Self {
        Self { sessions, commands, left }
    }

    /// All from this place on, each with its place.
    pub fn all_from(self, from: usize) -> impl Iterator<Item = (usize, Subject)> {
        let sessions = self.sessions.from(from).map(|(place, key)| (place, Subject::Session(key)));
        let commands = self.commands.from(from.saturating_sub(COMMANDS));
        let commands = commands.map(|(place, key)| (COMMANDS + place, Subject::Command(key)));
        let left = self.left.into_iter();
        let left = left.flat_map(move |left| left.from(from.saturating_sub(LEFT)));
        sessions
            .chain(commands)
            .chain(left.map(|(place, key)| (LEFT + place, Subject::Detached(key))))
    }

    /// Those that are meant and have an index, each with its place: the ones that can be
    /// left, or were.
    pub fn meant(self, by: &SessionSelector, uid: u32) -> impl Iterator<Item = (usize, Subject)> {
        let meant = self.left.into_iter().flat_map(move |left| left.meant(by, uid));
        meant.map(|one| match one {
            Subject::Session(key) => (key.place(), one),
            Subject::Command(key) => (COMMANDS + key.place(), one),
            Subject::Detached(key) => (LEFT + key.place(), one),
        })
    }

    /// Whether it is among those.
    pub fn has_index(self, one: Subject) -> bool {
        match one {
            Subject::Session(key) => {
                self.left_session(key).is_some_and(|left| !left.ends_with_client)
            }
            Subject::Command(_) => false,
            Subject::Detached(_) => true,
        }
    }

    /// Whose a session is that has begun and goes on, or was left; `Some(None)`:
    /// nobody knows.
    pub fn user_of(self, one: Subject) -> Option<Option<u32>> {
        let client = match one {
            Subject::Detached(key) => {
                return Some(self.left?.detached_or_exited(key)?.uid);
            }
            Subject::Session(key) => {
                let attached = self.sessions.get(key)?;
                // Not one whose program may yet turn out not to be executable.
                if attached.started_poll != 0 || attached.session.termination().is_some() {
                    return None;
                }
                // Root may have come back to another's.
                match self.left_session(key).filter(|left| !left.ends_with_client) {
                    Some(left) => return Some(left.uid),
                    None => &attached.io.client,
                }
            }
            Subject::Command(key) => self.commands.client_of(key)?,
        };
        Some(client.peer_uid())
    }

    /// What is known of one that can be left, or was.
    pub fn detachable(self, one: Subject) -> Option<EntryView<'a>> {
        match one {
            Subject::Session(key) => self.left_session(key),
            Subject::Command(_) => None,
            Subject::Detached(key) => self.left?.detached_or_exited(key),
        }
    }

    fn left_session(self, key: Key) -> Option<EntryView<'a>> {
        self.left?.by_session(key)
    }

    /// The id of one.
    pub fn id_of(self, cx: &Context, one: Subject) -> String {
        match (self.detachable(one), one) {
            (Some(left), _) => left.id.to_owned(),
            (None, Subject::Session(key)) => cx.ids.of(key),
            (None, Subject::Command(key)) => cx.ids.of(("command", key)),
            (None, Subject::Detached(_)) => String::new(),
        }
    }

    /// What is to be told of one that has a client.
    pub fn described(self, subject: Subject, facts: Option<&Facts>) -> Option<SessionView<'a>> {
        match subject {
            Subject::Session(key) => self.described_session(key, facts),
            Subject::Command(key) => self.commands.view(key, facts),
            // It has none.
            Subject::Detached(_) => None,
        }
    }

    fn described_session(self, key: Key, facts: Option<&Facts>) -> Option<SessionView<'a>> {
        let attached = self.sessions.get(key)?;
        let (io, is_handed_over) = (&attached.io, attached.session.is_handed_over());
        let master = &io.master;
        let since_start = || facts.map(|facts| facts.started.elapsed());
        // Where nobody keeps the time the terminal has it, roughly.
        let idle = match is_handed_over {
            true => None,
            false => attached.silent_for().or_else(since_start),
        };
        let byte_counts = io.byte_counts.as_ref().filter(|_| !is_handed_over);
        Some(SessionView {
            client: &io.client,
            door: attached.door,
            pid: io.program.as_ref().map(Process::pid),
            master: Some(master),
            idle: idle.or_else(|| master.idle_for()),
            is_handed_over,
            bytes: byte_counts.map(|byte_counts| byte_counts.bytes()).unzip(),
        })
    }
}
