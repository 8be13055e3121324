//! Detach: a client leaves, is lost or is dropped, and the session goes on.

use std::os::fd::{AsFd, OwnedFd};

use super::attach_state::{self, ReleasedSession};
use super::detachable_session::{
    Client, DetachableSession, DetachedCount, DetachedTerminal, ExitedSession, SESSION_ENDED,
    claim_detached, terminal_size,
};
use super::detached_terminal::drain_terminal;
use super::registry::DetachRegistry;
use crate::connection::lingering_close::CloseNotice;
use crate::connection::shared_counts::SharedCount;
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::fault_injection;
use crate::event_loop::slab::{Key, Token};
use crate::log::log;
use crate::observe::audit;
use crate::process::hang_up::MasterCopies;
use crate::session::relay::{LiveSession, Sessions};
use fpty::backlog::Backlog;
use fpty::error::reason;
use fpty::proto::{EndKind, SessionEnd};
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::clock::Timestamp;
use fpty::sys::poll::Interest;
use fpty::sys::socket::Stream;

/// Most exited sessions that are kept.
const MAX_EXITED: usize = 100;

/// Text for a client that may not detach.
pub const DETACH_NOT_ALLOWED: &str = "it is not allowed here (forkptyrouter-detach)";

/// Cause of a detach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachCause {
    /// The client has asked to detach.
    Requested,
    /// The client's connection is lost.
    Lost,
    /// The client does not confirm or detach in time.
    Dropped,
    /// The session is over, and the client has all output.
    Closing,
}

/// State in which a session goes on without its client.
enum DetachAs {
    /// The program runs. A new scrollback, where another process has corrupted the one that was
    /// shared.
    Running(Option<Box<ScrollbackWriter>>),
    /// The program has ended, and no client was sent the END.
    Exited(SessionEnd),
}

impl DetachRegistry {
    /// Detaches the client if the session may go on without it. Whether the session goes on.
    ///
    /// # Errors
    /// The client may not detach, and stays.
    pub fn try_detach(
        &mut self,
        core: &mut Core,
        session: Key,
        why: DetachCause,
    ) -> Result<bool, String> {
        let Some((key, detach_as, how)) = self.plan_detach(core, session, why)? else {
            return Ok(false);
        };
        // By the id a client attaches again.
        let id = self.entries.get(key).map(|entry| entry.id.clone());
        let client = self.detach(core, session, key, detach_as, how);
        let Some((client, mut output)) = client.filter(|_| why != DetachCause::Lost) else {
            return Ok(true);
        };
        // The supervisor has the session, whatever becomes of this gateway: now the client is told,
        // who may not have read all output yet.
        if let Some(id) = id.filter(|_| why == DetachCause::Requested) {
            output.push(&SessionEnd::new(EndKind::Detached, &*id).packet());
        }
        if !output.is_empty() {
            let last = CloseNotice::Packet { is_answered: false };
            core.cx.close_flushing(client, output, last);
        }
        Ok(true)
    }

    /// Claims a place in the quota of detached sessions, or says why there is none.
    fn claim_quota(
        &self,
        cx: &Context,
        listener: u16,
        entry: Option<&DetachableSession>,
    ) -> Result<[SharedCount; 2], String> {
        let detach = cx.listeners.rules(listener).map(|rules| &rules.detach);
        let most = detach.map_or(0, |detach| u64::from(detach.sessions));
        let most_of_one = detach.map_or(0, |detach| detach.max_per_user() as u64);
        if most == 0 {
            return Err(DETACH_NOT_ALLOWED.to_owned());
        }
        let Some(uid) = entry.map(|entry| entry.uid) else {
            return Err(String::from("this session cannot be detached"));
        };
        let all = self.shared_counts.claim(DetachedCount::PerSocket(listener), most);
        let all = all.map_err(|_| format!("{most} sessions are without a client already"))?;
        // root may have all of them.
        let most_of_one = if uid == 0 { most } else { most_of_one };
        let own = self.shared_counts.claim(DetachedCount::PerUser(listener, uid), most_of_one);
        let own = own.map_err(|_| {
            let before = self.shared_counts.total(DetachedCount::PerUser(listener, uid));
            format!("{before} sessions of yours are without a client already (detach-user)")
        })?;
        Ok([all, own])
    }

    /// Plans the detach of a client; `None`: the session ends. Everything that the session needs to
    /// go on is reserved before anybody is told that it does.
    ///
    /// # Errors
    /// The client may not detach, and stays.
    fn plan_detach(
        &mut self,
        core: &mut Core,
        session: Key,
        why: DetachCause,
    ) -> Result<Option<(Key, DetachAs, audit::DetachReason)>, String> {
        let key = self.index.by_session(session);
        let entry = key.and_then(|key| self.entries.get(key)).filter(|it| it.no_detach.is_none());
        let Core { cx, sessions, .. } = core;
        let Some(live) = sessions.get_mut(session) else {
            return Ok(None);
        };
        let next = entry.and_then(|entry| entry.state.pending());
        let has_pending = next.is_some();
        let how = match (next, why) {
            // The same client has attached by another connection.
            (Some(pending), _) if pending.presented_secret.is_some() => audit::DetachReason::Lost,
            (Some(pending), _) => audit::DetachReason::Stolen(pending.uid),
            (None, DetachCause::Requested) => audit::DetachReason::Requested,
            (None, DetachCause::Lost | DetachCause::Dropped | DetachCause::Closing) => {
                audit::DetachReason::Lost
            }
        };
        let place = match (entry, why) {
            // The pending client attaches at once: the session is not detached for long.
            (Some(entry), _) if why == DetachCause::Dropped || has_pending => {
                Some(claim_detached(&self.shared_counts, entry.listener, entry.uid))
            }
            (_, DetachCause::Requested) => Some(self.claim_quota(cx, live.listener, entry)?),
            (Some(_), DetachCause::Lost) => self.claim_quota(cx, live.listener, entry).ok(),
            (None, DetachCause::Lost) | (_, DetachCause::Dropped | DetachCause::Closing) => None,
        };
        let (Some(key), Some(entry)) = (key, entry) else {
            return Ok(None);
        };
        // Who terminated the session meant the program.
        if live.session.termination().is_some() {
            return Ok(None);
        }
        if let Some(ended) = live.session.take_unsent_end(has_pending) {
            return Ok(Some((key, DetachAs::Exited(ended), how)));
        }
        let may_not =
            why == DetachCause::Lost && !has_pending && !live.session.may_outlive_client();
        if why == DetachCause::Closing || may_not || place.is_none() || live.io.program.is_none() {
            return Ok(None);
        }
        match self.reserve(cx, live, key) {
            Ok(remains) => {
                if let Some(entry) = self.entries.get_mut(key) {
                    entry.detached_claims = place;
                }
                Ok(Some((key, DetachAs::Running(remains), how)))
            }
            Err(error) if why == DetachCause::Requested => Err(error),
            Err(error) => {
                let id = &entry.id;
                log(&format!("forkptyrouter: session {id} cannot go on without a client: {error}"));
                Ok(None)
            }
        }
    }

    /// Reserves what a detached terminal needs.
    fn reserve(
        &self,
        cx: &Context,
        live: &mut LiveSession,
        key: Key,
    ) -> Result<Option<Box<ScrollbackWriter>>, String> {
        fault_injection::point("reserving");
        let is_handed_over = live.session.is_handed_over();
        let detach_state = live.session.detach_state_mut();
        // Another process may have written into a shared scrollback.
        let is_good = detach_state
            .is_some_and(|detach_state| !is_handed_over || detach_state.remains.catch_up().is_ok());
        let remains = match is_good {
            true => None,
            false => {
                let buffer =
                    cx.listeners.rules(live.listener).map_or(0, |rules| rules.detach.buffer);
                let size = terminal_size(Some(&live.io.master));
                let made = ScrollbackWriter::new(buffer as usize, size);
                Some(Box::new(made.map_err(|error| error.to_string())?))
            }
        };
        let (master, token) = (live.io.master.as_fd(), Token::Terminal(key).token());
        let waits = self.poller.add(master, token, Interest::READ);
        waits.map_err(|error| format!("cannot wait for its terminal: {}", reason(&error)))?;
        Ok(remains)
    }

    /// Detaches the client. Returns its connection, with output that it has not read.
    fn detach(
        &mut self,
        core: &mut Core,
        session: Key,
        key: Key,
        detach_as: DetachAs,
        how: audit::DetachReason,
    ) -> Option<(Stream, Backlog)> {
        match detach_as {
            DetachAs::Running(remains) => {
                let mut live = core.sessions.detach(&mut core.cx, session, key, how)?;
                fault_injection::point("leaving");
                live.unregister_both(&core.cx);
                self.finish_detach(core, key, *live, remains)
            }
            DetachAs::Exited(ended) => {
                let Core { cx, sessions, .. } = &mut *core;
                let ring = final_output(cx, sessions, session);
                let command = self.command_of(cx, key);
                self.end_viewers(cx, key, &ended);
                let mut live = sessions.end(cx, session);
                if let Some(live) = &mut live {
                    live.unregister_both(cx);
                }
                match ring {
                    Some(ring) => {
                        let last = ExitedSession { ring, ended, command };
                        self.set_exited(core, key, last);
                    }
                    None => self.forget_entry(&mut core.cx, key),
                }
                let LiveSession { mut session, io, .. } = *live?;
                Some((io.client, session.take_output()))
            }
        }
    }

    fn finish_detach(
        &mut self,
        core: &mut Core,
        key: Key,
        live: LiveSession,
        remains: Option<Box<ScrollbackWriter>>,
    ) -> Option<(Stream, Backlog)> {
        let was_handed_over = live.session.is_handed_over();
        let LiveSession { mut session, mut io, .. } = live;
        if let Some(entry) = self.entries.get_mut(key).filter(|_| !session.is_awaiting_go()) {
            entry.secrets.confirm();
        }
        // The recording goes on with the terminal.
        let recording =
            io.byte_counts.as_mut().and_then(|byte_counts| byte_counts.recording.take());
        let master = io.master;
        if master.is_shared() {
            master.take_back();
        }
        let detach_state = remains.map(|remains| *remains);
        let Some(mut remains) = detach_state.or_else(|| Some(session.take_detach_state()?.remains))
        else {
            self.forget_entry(&mut core.cx, key);
            return None;
        };
        if was_handed_over {
            // Output since the last look, from before the client was detached. Where that is
            // corrupt the scrollback goes on from the last good state.
            let _ = remains.catch_up();
        } else {
            // Queries of the program from before (DA1) were answered by the client's terminal. (The
            // client's own writes to the scrollback are looked at from its last count on.)
            remains.take_da1_request();
        }
        let detached = Box::new(DetachedTerminal::new(master, remains, recording));
        let next = core.sessions.vacant_key();
        let result = self.update(key, |entry| {
            let client = |uid: u32| Client { session: next, uid };
            entry.state.detach(detached, |pending| client(pending.uid), Timestamp::now())
        });
        match result {
            Some(attach_state::DetachResult::PassedOn(detached, pending)) => {
                self.complete_attach(core, key, detached, *pending);
            }
            Some(attach_state::DetachResult::Detached) => {
                self.sync_supervisor(core, key);
                self.schedule(&mut core.cx, key);
            }
            // The session is gone.
            Some(attach_state::DetachResult::NotAttached(detached)) => {
                let _ = self.poller.remove(&detached.master);
                if let Some(program) = io.program {
                    core.processes.hang_up_terminal(
                        &mut core.cx,
                        &detached.master,
                        program,
                        MasterCopies::Revoked,
                    );
                }
            }
            None => {}
        }
        Some((io.client, session.take_output()))
    }

    /// The program of a session has ended: the session is kept as exited.
    pub(crate) fn set_exited(&mut self, core: &mut Core, key: Key, last: ExitedSession) {
        let waited = self.update(key, |entry| entry.state.exit(last, Timestamp::now()));
        while let Some(key) = self.index.oldest_exited(MAX_EXITED) {
            drop(self.remove(&mut core.cx, key));
        }
        self.sync_supervisor(core, key);
        self.schedule(&mut core.cx, key);
        if let Some(Some(pending)) = waited {
            self.add_viewer(core, key, *pending);
        }
    }

    /// Forgets a session with a client that is over.
    pub fn forget_session(&mut self, cx: &mut Context, session: Key) {
        if let Some(key) = self.index.by_session(session) {
            self.forget_entry(cx, key);
        }
    }

    /// Forgets an entry; a client that waits for it is rejected.
    pub(crate) fn forget_entry(&mut self, cx: &mut Context, key: Key) {
        let Some(entry) = self.remove(cx, key) else {
            return;
        };
        if let Some(pending) = entry.state.release().pending {
            pending.reject(cx, SESSION_ENDED);
        }
    }

    /// Drops the entries of live sessions that a panic has removed.
    pub fn drop_orphaned_entries(&mut self, core: &mut Core) {
        let Core { cx, sessions, processes } = core;
        let is_lost = |entry: &DetachableSession| {
            entry.state.client().is_some_and(|it| !sessions.has(it.session))
        };
        let all = self.entries.iter();
        let lost: Vec<Key> = all.filter(|(_, one)| is_lost(one)).map(|(key, _)| key).collect();
        for key in lost {
            let Some(entry) = self.remove(cx, key) else {
                continue;
            };
            let ReleasedSession { program, pending, .. } = entry.state.release();
            // Processes of this gateway are seen to by hang_up_orphans.
            if let Some(pidfd) = program.and_then(|program| program.pidfd) {
                processes.killer.terminate(cx, pidfd);
            }
            if let Some(pending) = pending {
                pending.reject(cx, SESSION_ENDED);
            }
        }
    }
}

impl LiveSession {
    /// Unregisters both ends: tokens lead nowhere from now on, and other processes may have copies
    /// of the descriptors.
    fn unregister_both(&mut self, cx: &Context) {
        let _ = cx.poller.remove(self.io.client.as_fd());
        self.unregister_terminal(&cx.poller);
    }
}

/// Scrollback of a session whose program has ended and whose client was not sent END: the next
/// client reads it.
fn final_output(cx: &mut Context, sessions: &mut Sessions, session: Key) -> Option<OwnedFd> {
    let live = sessions.get_mut(session)?;
    let was_handed_over = live.session.is_handed_over();
    let mut detach_state = live.session.take_detach_state()?.remains;
    if was_handed_over {
        detach_state.catch_up().ok()?;
        // Takes back the terminal with the program's last output.
        live.io.master.take_back();
    }
    let recording = live.io.recording().map(AsRef::as_ref);
    drain_terminal(cx, &live.io.master, &mut detach_state, recording);
    detach_state.share_file().ok()
}
