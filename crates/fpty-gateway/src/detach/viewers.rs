//! Viewers: clients that view a session beside the attached one, and clients that read the end of
//! an exited session. They are fed from the scrollback, whoever writes that.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::attach_client::SESSION_ENDED;
use super::attach_state::AttachState;
use super::registry::DetachRegistry;
use super::registry_entry::PendingAttach;
use super::viewer::Viewer;
use crate::connection::lingering_close::LastWord;
use crate::connection::listeners::Newcomer;
use crate::event_loop::context::Context;
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Source};
use crate::event_loop::subject::{Subject, Whose};
use crate::observe::audit::Gone;
use crate::process::table::Programs;
use crate::session::relay::Sessions;
use crate::session::timeouts::{ENDED_BY_OPERATOR, MAX_TIME_REACHED};
use fpty::backlog::Backlog;
use fpty::error::reason;
use fpty::fair_share::{self, Who};
use fpty::proto::session_key::{Finds, SessionKey};
use fpty::proto::{Ended, Ending, KEY, OFFER, OFFER_RING, encode_packet, variables};
use fpty::scrollback::Seen;
use fpty::sys::poll::{Interest, Ready};
use fpty::sys::socket::Transport;
use fpty::sys::{Read, Written};

/// Interval of looking for more output.
const FEED_INTERVAL: Duration = Duration::from_millis(30);

/// Most viewers, and most of one user.
const MAX_VIEWERS: usize = 256;
const MAX_VIEWERS_PER_USER: usize = 64;

/// Text for a viewer that is displaced by one of another user.
const DISPLACED: &str = "others watch that have fewer places, and there are no more";

/// Most bytes of one read: each of the few packets of a viewer may be worth an answer.
const ONE_READ: usize = 256;

/// END for viewers of a session whose end is not the program's own.
pub fn end_for_viewers(why: Gone) -> Ended {
    let (ending, text) = match why {
        Gone::Operator => (Ending::Operator, ENDED_BY_OPERATOR),
        Gone::Limit => (Ending::Limit, MAX_TIME_REACHED),
        Gone::Idle => (Ending::Idle, "session ended: no traffic"),
        Gone::Exit | Gone::Signal | Gone::Hangup | Gone::Lost => (Ending::Lost, SESSION_ENDED),
    };
    Ended::because(ending, text)
}

impl DetachRegistry {
    /// Adds a viewer to a session.
    pub(crate) fn add_viewer(
        &mut self,
        cx: &mut Context,
        sessions: &Sessions,
        programs: &mut Programs,
        key: Key,
        pending: PendingAttach,
    ) {
        let PendingAttach { newcomer, opening, early_data, .. } = pending;
        let refused = |why: &str| Ended::because(Ending::Refused, why);
        let who = Who::of(&newcomer.client);
        if self.viewers.iter().filter(|(_, viewer)| viewer.who == who).count()
            >= MAX_VIEWERS_PER_USER
        {
            return cx.reject(newcomer, true, refused("too many of yours watch"));
        }
        let places = self.viewers.iter().map(|(key, it)| (key, it.who, it.since));
        if let Some(key) = fair_share::in_the_way(places, who, MAX_VIEWERS_PER_USER, MAX_VIEWERS) {
            if let Some(viewer) = self.viewers.get_mut(key) {
                viewer.fail(DISPLACED);
            }
            self.end_viewer(cx, key);
        }
        let entry = self.entries.get_mut(key);
        let detached = entry.and_then(|entry| entry.state.terminal_mut());
        let is_another = detached.is_some_and(|detached| {
            detached.remains.file().is_none() && detached.remains.open_file().is_ok()
        });
        let Some((ring, seen, end)) = self.open_scrollback(sessions, key) else {
            return cx.reject(newcomer, true, refused("out of descriptors or memory"));
        };
        // The viewer's permit is free: a viewer is no session.
        let Newcomer { client, transport, origin, .. } = newcomer;
        let (mut packet, mut offer) = (Vec::new(), Vec::new());
        if let Some(entry) = self.entries.get(key) {
            let id = entry.id.as_ref().to_owned();
            let its_key = SessionKey { id, secret: None, finds: Finds::Watcher };
            encode_packet(KEY, &its_key.payload(), &mut packet);
        }
        encode_packet(OFFER, &[OFFER_RING], &mut offer);
        // A new connection has room for both packets.
        let _ = client.write(&packet);
        let offered = match transport {
            Transport::Tcp => client.write(&offer),
            Transport::Unix => client.write_with_descriptors(&offer, &[ring.as_fd()]),
        };
        if !matches!(offered, Written::Bytes(_)) {
            return;
        }
        let has_exited = end.is_some();
        // A viewer by its own wish leaves the end to the session's client.
        let watches = opening.variables.get(variables::READ_ONLY) == Some(b"1");
        let decoder = opening.decoder;
        let viewer = Viewer {
            client,
            who,
            decoder,
            seen,
            at: None,
            entry: key,
            backlog: Backlog::default(),
            since: Instant::now(),
            is_announced: !has_exited,
            prepared_line: None,
            end,
            takes_exit_notice: has_exited && !watches,
        };
        let prepared_line = match has_exited {
            true => None,
            false => cx.viewer_joined(self.subject_of(key), &origin, &viewer.client),
        };
        let viewer = Viewer { prepared_line, ..viewer };
        let viewer = self.viewers.insert(viewer);
        cx.faults.made = Some(Whose::Viewer(viewer));
        if let Some(entry) = self.entries.get_mut(key) {
            entry.viewers += 1;
        }
        if is_another {
            // The supervisor gets the file that output goes to from now on.
            self.sync_supervisor(cx, sessions, programs, key);
        }
        let Some(there) = self.viewers.get_mut(viewer) else {
            return;
        };
        let token = Source::Client(viewer).token();
        if let Err(error) = self.poller.add(there.client.as_fd(), token, Interest::READ) {
            let why = format!("cannot wait for the client: {}", reason(&error));
            cx.doors.log_refusal(&format!("forkptyrouter: session refused: {why}"));
            there.send(&Ended::because(Ending::Refused, why).packet());
            return self.end_viewer(cx, viewer);
        }
        if !there.on_input(&early_data) {
            return self.end_viewer(cx, viewer);
        }
        self.wake_in(cx, FEED_INTERVAL);
    }

    /// A copy of the scrollback, and the session's end.
    fn open_scrollback(
        &self,
        sessions: &Sessions,
        key: Key,
    ) -> Option<(OwnedFd, Seen, Option<Ended>)> {
        let state = &self.entries.get(key)?.state;
        let (ring, end) = match (state, state.client(), state.terminal()) {
            (AttachState::Exited(over, _), ..) => (over.ring.as_fd(), Some(over.ended.clone())),
            (_, Some(client), _) => {
                (sessions.get(client.session)?.session.detach_state()?.remains.file()?, None)
            }
            (.., detached) => (detached?.remains.file()?, None),
        };
        let ring = ring.try_clone_to_owned().ok()?;
        let seen = Seen::received(ring.try_clone().ok()?).ok()?;
        Some((ring, seen, end))
    }

    /// Handles an event of a viewer's connection.
    pub(crate) fn viewer_ready(&mut self, cx: &mut Context, key: Key, ready: Ready) {
        let Some(viewer) = self.viewers.get_mut(key) else {
            return;
        };
        let lives = match viewer.client.read(&mut cx.buffer[..ONE_READ]) {
            Read::Bytes(count) => {
                fault_injection::strike("watcher", || &cx.buffer[..count]);
                viewer.on_input(&cx.buffer[..count])
            }
            Read::Blocked => !ready.hang_up,
            Read::End | Read::Gone => false,
        };
        if !lives {
            self.end_viewer(cx, key);
        }
    }

    /// Ends a viewer that has read everything, or is gone.
    pub fn end_viewer(&mut self, cx: &mut Context, key: Key) {
        self.viewer_left(cx, key);
        let Some(viewer) = self.viewers.remove(key) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(viewer.entry) {
            entry.viewers = entry.viewers.saturating_sub(1);
        }
        // This client was sent the end: the exited session is kept for no other.
        if viewer.takes_exit_notice && viewer.at.is_some() && viewer.end.is_none() {
            drop(self.remove(cx, viewer.entry));
        }
        let _ = self.poller.remove(viewer.client.as_fd());
        cx.close_when_read(viewer.client, LastWord::Packet { is_answered: false });
    }

    /// The subject of an entry: the live session or the detached one.
    pub(crate) fn subject_of(&self, entry: Key) -> Subject {
        self.session_of(entry).map_or(Subject::Detached(entry), Subject::Session)
    }

    /// Keys of a session's viewers.
    fn viewer_keys(&self, entry: Key) -> Vec<Key> {
        match self.viewers_of(entry) {
            0 => Vec::new(),
            _ => {
                let at = self.viewers.iter().filter(|(_, viewer)| viewer.entry == entry);
                at.map(|(key, _)| key).collect()
            }
        }
    }

    /// Tells the viewers of a live session how it ended.
    pub fn tell_viewers(&mut self, cx: &mut Context, session: Key, ended: &Ended) {
        if let Some(entry) = self.index.by_session(session) {
            self.end_viewers(cx, entry, ended);
        }
    }

    /// Tells the viewers of a session how it ended, unless they know already.
    pub(crate) fn end_viewers(&mut self, cx: &mut Context, entry: Key, ended: &Ended) {
        for key in self.viewer_keys(entry) {
            if let Some(viewer) = self.viewers.get_mut(key) {
                viewer.end.get_or_insert_with(|| ended.clone());
            }
            self.viewer_left(cx, key);
        }
    }

    /// Notifies the viewers that the gateway ends, as far as their connections take it at once. A
    /// client that can attach again reads no more than after a gateway that is killed.
    pub fn stop(&mut self, why: Ending, line: &str) {
        let told = (why == Ending::Stopped).then(|| Ended::because(why, line).packet());
        let keys: Vec<Key> = self.viewers.iter().map(|(key, _)| key).collect();
        for (key, told) in keys.into_iter().zip(told.iter().cycle()) {
            self.viewers.get_mut(key).map(|viewer| viewer.send(told));
        }
    }

    fn viewer_left(&mut self, cx: &mut Context, key: Key) {
        let Some(viewer) = self.viewers.get_mut(key) else {
            return;
        };
        let (is_announced, entry) = (std::mem::take(&mut viewer.is_announced), viewer.entry);
        let subject = self.subject_of(entry);
        if let Some(viewer) = self.viewers.get(key).filter(|_| is_announced) {
            cx.viewer_left(subject, &viewer.client, viewer.since.elapsed(), viewer.prepared_line);
        }
    }

    /// Schedules the feeding of all viewers. Returns when to do so again.
    pub(crate) fn schedule_feeds(&self, cx: &mut Context) -> Option<Duration> {
        self.viewers.iter().for_each(|(key, _)| cx.then(Outcome::FeedViewer(key)));
        (self.viewers.len() > 0).then_some(FEED_INTERVAL)
    }

    /// Feeds one viewer.
    pub fn feed_viewer(&mut self, cx: &mut Context, key: Key) {
        let Some(viewer) = self.viewers.get_mut(key) else {
            return;
        };
        fault_injection::point("watching");
        if viewer.end.is_none() {
            viewer.end = match self.entries.get(viewer.entry) {
                Some(entry) => entry.state.exited().map(|over| over.ended.clone()),
                None => Some(end_for_viewers(Gone::Lost)),
            };
        }
        if !viewer.feed() {
            self.end_viewer(cx, key);
        }
    }
}
