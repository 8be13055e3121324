//! All sessions of a gateway, to be looked at: those with a client, commands, and
//! those that were left.

use super::session_view::SessionView;
use crate::command::commands::Commands;
use crate::detach::{DetachRegistry, EntryView};
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::subject::SessionRef;
use crate::observe::audit::SessionInfo;
use crate::session::relay::Sessions;
use crate::session::selector::SessionSelector;
use fpty::sys::process_handle::ProcessHandle;

/// The places of commands come after those of sessions, of which there are
/// fewer than there can be descriptors.
const COMMANDS: usize = 1 << 31;

/// And those of sessions that were left after these.
const LEFT: usize = 3 << 30;

/// The sessions of a gateway.
#[derive(Clone, Copy)]
pub struct AllSessions<'a> {
    sessions: &'a Sessions,
    commands: &'a Commands,
    left: Option<&'a DetachRegistry>,
}

impl<'a> AllSessions<'a> {
    /// Of these.
    pub fn of(
        sessions: &'a Sessions,
        commands: &'a Commands,
        left: Option<&'a DetachRegistry>,
    ) -> Self {
        Self { sessions, commands, left }
    }

    /// All from this place on, each with its place.
    pub fn iter_from(self, from: usize) -> impl Iterator<Item = (usize, SessionRef)> {
        let sessions =
            self.sessions.iter_from(from).map(|(place, key)| (place, SessionRef::Session(key)));
        let commands = self.commands.iter_from(from.saturating_sub(COMMANDS));
        let commands = commands.map(|(place, key)| (COMMANDS + place, SessionRef::Command(key)));
        let left = self.left.into_iter();
        let left = left.flat_map(move |left| left.iter_from(from.saturating_sub(LEFT)));
        sessions
            .chain(commands)
            .chain(left.map(|(place, key)| (LEFT + place, SessionRef::Detached(key))))
    }

    /// Those that are meant and have an index, each with its place: the ones that can be
    /// left, or were.
    pub fn indexed_matches(
        self,
        selector: &SessionSelector,
        uid: u32,
    ) -> impl Iterator<Item = (usize, SessionRef)> {
        let indexed_matches = self.left.into_iter().flat_map(move |left| left.meant(selector, uid));
        indexed_matches.map(|one| match one {
            SessionRef::Session(key) => (key.slot(), one),
            SessionRef::Command(key) => (COMMANDS + key.slot(), one),
            SessionRef::Detached(key) => (LEFT + key.slot(), one),
        })
    }

    /// Whether it is among those.
    pub fn is_indexed(self, one: SessionRef) -> bool {
        match one {
            SessionRef::Session(key) => {
                self.detach_view_of(key).is_some_and(|left| !left.ends_with_client)
            }
            SessionRef::Command(_) => false,
            SessionRef::Detached(_) => true,
        }
    }

    /// Whose a session is that has begun and goes on, or was left; `Some(None)`:
    /// nobody knows.
    pub fn user_of(self, one: SessionRef) -> Option<Option<u32>> {
        let client = match one {
            SessionRef::Detached(key) => {
                return Some(self.left?.detached_or_exited(key)?.uid);
            }
            SessionRef::Session(key) => {
                let attached = self.sessions.get(key)?;
                // Not one whose program may yet turn out not to be executable.
                if attached.started_poll != 0 || attached.session.termination().is_some() {
                    return None;
                }
                // Root may have come back to another's.
                match self.detach_view_of(key).filter(|left| !left.ends_with_client) {
                    Some(left) => return Some(left.uid),
                    None => &attached.io.client,
                }
            }
            SessionRef::Command(key) => self.commands.client_of(key)?,
        };
        Some(client.peer_uid())
    }

    /// What is known of one that can be left, or was.
    pub fn detachable(self, one: SessionRef) -> Option<EntryView<'a>> {
        match one {
            SessionRef::Session(key) => self.detach_view_of(key),
            SessionRef::Command(_) => None,
            SessionRef::Detached(key) => self.left?.detached_or_exited(key),
        }
    }

    fn detach_view_of(self, key: Key) -> Option<EntryView<'a>> {
        self.left?.by_session(key)
    }

    /// The id of one.
    pub fn id_of(self, cx: &Context, one: SessionRef) -> String {
        match (self.detachable(one), one) {
            (Some(left), _) => left.id.to_owned(),
            (None, SessionRef::Session(key)) => cx.ids.of(key),
            (None, SessionRef::Command(key)) => cx.ids.of(("command", key)),
            (None, SessionRef::Detached(_)) => String::new(),
        }
    }

    /// What is to be told of one that has a client.
    pub fn view(
        self,
        session_ref: SessionRef,
        info: Option<&SessionInfo>,
    ) -> Option<SessionView<'a>> {
        match session_ref {
            SessionRef::Session(key) => self.view_of_session(key, info),
            SessionRef::Command(key) => self.commands.view(key, info),
            // It has none.
            SessionRef::Detached(_) => None,
        }
    }

    fn view_of_session(self, key: Key, info: Option<&SessionInfo>) -> Option<SessionView<'a>> {
        let attached = self.sessions.get(key)?;
        let (io, is_handed_over) = (&attached.io, attached.session.is_handed_over());
        let master = &io.master;
        let since_start = || info.map(|info| info.started.elapsed());
        // Where nobody keeps the time the terminal has it, roughly.
        let idle = match is_handed_over {
            true => None,
            false => attached.silent_for().or_else(since_start),
        };
        let byte_counts = io.byte_counts.as_ref().filter(|_| !is_handed_over);
        Some(SessionView {
            client: &io.client,
            listener: attached.listener,
            pid: io.program.as_ref().map(ProcessHandle::pid),
            master: Some(master),
            idle: idle.or_else(|| master.idle_time()),
            is_handed_over,
            bytes: byte_counts.map(|byte_counts| byte_counts.bytes()).unzip(),
        })
    }
}
