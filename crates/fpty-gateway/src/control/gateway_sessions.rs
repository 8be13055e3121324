//! All sessions of a gateway, to iterate and to look up: attached ones, commands, detached
//! ones.

use super::session_view::SessionView;
use crate::command::commands::Commands;
use crate::detach::{DetachRegistry, EntryView};
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::observe::audit::SessionInfo;
use crate::session::relay::Sessions;
use crate::session::selector::SessionSelector;
use crate::session::session_ref::SessionRef;
use fpty::sys::process_handle::ProcessHandle;

/// Indexes of commands come after those of sessions, which are fewer than descriptors.
const COMMANDS: usize = 1 << 31;

/// Indexes of detached sessions come after those of commands.
const DETACHED: usize = 3 << 30;

/// All sessions of a gateway.
#[derive(Clone, Copy)]
pub struct GatewaySessions<'a> {
    sessions: &'a Sessions,
    commands: &'a Commands,
    registry: Option<&'a DetachRegistry>,
}

impl<'a> GatewaySessions<'a> {
    /// All sessions of these parts.
    pub fn of(
        sessions: &'a Sessions,
        commands: &'a Commands,
        registry: Option<&'a DetachRegistry>,
    ) -> Self {
        Self { sessions, commands, registry }
    }

    /// All sessions from this index on.
    pub fn iter_from(self, index: u32) -> impl Iterator<Item = SessionRef> {
        let from = index as usize;
        let sessions = self.sessions.iter_from(from).map(|(_, key)| SessionRef::Session(key));
        let commands = self.commands.iter_from(from.saturating_sub(COMMANDS));
        let detached = self.registry.into_iter();
        let detached =
            detached.flat_map(move |registry| registry.iter_from(from.saturating_sub(DETACHED)));
        sessions
            .chain(commands.map(|(_, key)| SessionRef::Command(key)))
            .chain(detached.map(|(_, key)| SessionRef::Detached(key)))
    }

    /// The index of a session.
    pub fn index_of(one: SessionRef) -> u32 {
        let index = match one {
            SessionRef::Session(key) => key.slot(),
            SessionRef::Command(key) => COMMANDS + key.slot(),
            SessionRef::Detached(key) => DETACHED + key.slot(),
        };
        // Slots are fewer than there can be descriptors.
        index as u32
    }

    /// Matches that need no search: among sessions that can be detached, or are.
    pub fn indexed_matches(
        self,
        selector: &SessionSelector,
        uid: u32,
    ) -> impl Iterator<Item = SessionRef> {
        self.registry.into_iter().flat_map(move |registry| registry.matching(selector, uid))
    }

    /// Whether a session is among those that need no search.
    pub fn is_indexed(self, one: SessionRef) -> bool {
        self.detachable(one).is_some_and(|entry| !entry.ends_with_client)
    }

    /// The user of a session that has started, or is detached; `Some(None)`: unknown.
    pub fn user_of(self, one: SessionRef) -> Option<Option<u32>> {
        let client = match one {
            SessionRef::Detached(key) => {
                return Some(self.registry?.detached_or_exited(key)?.uid);
            }
            SessionRef::Session(key) => {
                let attached = self.sessions.get(key)?;
                // Not one whose program may yet turn out not to be executable.
                if attached.started_poll != 0 || attached.session.termination().is_some() {
                    return None;
                }
                // Root may have attached to another's.
                match self.detachable(one).filter(|entry| !entry.ends_with_client) {
                    Some(entry) => return Some(entry.uid),
                    None => &attached.io.client,
                }
            }
            SessionRef::Command(key) => self.commands.client_of(key)?,
        };
        Some(client.peer_uid())
    }

    /// The view of a session that can be detached, or was.
    pub fn detachable(self, one: SessionRef) -> Option<EntryView<'a>> {
        match one {
            SessionRef::Session(key) => self.registry?.by_session(key),
            SessionRef::Command(_) => None,
            SessionRef::Detached(key) => self.registry?.detached_or_exited(key),
        }
    }

    /// The id of a session.
    pub fn id_of(self, cx: &Context, one: SessionRef) -> String {
        match (self.detachable(one), one) {
            (Some(entry), _) => entry.id.to_owned(),
            (None, SessionRef::Session(key)) => cx.ids.of(key),
            (None, SessionRef::Command(key)) => cx.ids.of(("command", key)),
            (None, SessionRef::Detached(_)) => String::new(),
        }
    }

    /// The view of an attached session.
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
