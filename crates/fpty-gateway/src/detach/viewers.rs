//! Clients that only see what a session shows: those that watch beside the one
//! who is attached, and those that come to one that has ended. They are fed from
//! the ring, whoever writes that.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::attach_client::HAS_ENDED;
use super::entry::Waiting;
use super::registry::Left;
use super::state::State;
use super::viewer::Watcher;
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
use crate::session::timeouts::{BY_AN_OPERATOR, TIME_IS_OVER};
use fpty::backlog::Backlog;
use fpty::error::reason;
use fpty::fair_share::{self, Who};
use fpty::proto::session_key::{FoundBy, SessionKey};
use fpty::proto::{EndKind, OFFER, OFFER_RING, SESSION_KEY, SessionEnd, encode_packet, variables};
use fpty::scrollback::ScrollbackReader;
use fpty::sys::poll::{Interest, Ready};
use fpty::sys::socket::Transport;
use fpty::sys::{ReadOutcome, WriteOutcome};

/// How often it is looked for more output.
const OFTEN: Duration = Duration::from_millis(30);

/// Such clients at most, and of one user.
const MOST: usize = 256;
const MOST_OF_ONE: usize = 64;

/// Why one is seen off that may watch.
const NO_PLACE: &str = "others watch that have fewer places, and there are no more";

/// What is read of one at once: each of the few packets that it sends may be
/// worth an answer.
const ONE_READ: usize = 256;

/// What those who watch are told of an end that is not the program's own.
pub fn because(why: Gone) -> SessionEnd {
    let (ending, text) = match why {
        Gone::Operator => (EndKind::Operator, BY_AN_OPERATOR),
        Gone::Limit => (EndKind::Limit, TIME_IS_OVER),
        Gone::Idle => (EndKind::Idle, "session ended: no traffic"),
        Gone::Exit | Gone::Signal | Gone::Hangup | Gone::Lost => (EndKind::Lost, HAS_ENDED),
    };
    SessionEnd::new(ending, text)
}

impl Left {
    /// A client sees a session.
    pub(crate) fn watch(
        &mut self,
        cx: &mut Context,
        sessions: &Sessions,
        programs: &mut Programs,
        key: Key,
        waiting: Waiting,
    ) {
        let Waiting { newcomer, opening, rest, .. } = waiting;
        let refused = |why: &str| SessionEnd::new(EndKind::Refused, why);
        let who = Who::of(&newcomer.client);
        if self.watchers.iter().filter(|(_, watcher)| watcher.who == who).count() >= MOST_OF_ONE {
            return cx.turn_back(newcomer, true, refused("too many of yours watch"));
        }
        let places = self.watchers.iter().map(|(key, it)| (key, it.who, it.since));
        if let Some(key) = fair_share::in_the_way(places, who, MOST_OF_ONE, MOST) {
            if let Some(watcher) = self.watchers.get_mut(key) {
                watcher.lost(NO_PLACE);
            }
            self.end_watcher(cx, key);
        }
        let entry = self.entries.get_mut(key);
        let alone = entry.and_then(|entry| entry.state.terminal_mut());
        let is_another = alone.is_some_and(|alone| {
            alone.remains.shared_file().is_none() && alone.remains.open_file().is_ok()
        });
        let Some((ring, seen, end)) = self.seen(sessions, key) else {
            return cx.turn_back(newcomer, true, refused("out of descriptors or memory"));
        };
        // Its seat is free: it is no session.
        let Newcomer { client, transport, origin, .. } = newcomer;
        let (mut packet, mut offer) = (Vec::new(), Vec::new());
        if let Some(entry) = self.entries.get(key) {
            let id = entry.id.as_ref().to_owned();
            let its_key = SessionKey { id, secret: None, found_by: FoundBy::Viewer };
            encode_packet(SESSION_KEY, &its_key.payload(), &mut packet);
        }
        encode_packet(OFFER, &[OFFER_RING], &mut offer);
        // There is room for both in a new connection.
        let _ = client.write(&packet);
        let offered = match transport {
            Transport::Tcp => client.write(&offer),
            Transport::Unix => client.write_with_descriptors(&offer, &[ring.as_fd()]),
        };
        if !matches!(offered, WriteOutcome::Bytes(_)) {
            return;
        }
        let is_over = end.is_some();
        // Who only watches leaves its end to whoever has it.
        let watches = opening.variables.get(variables::READ_ONLY) == Some(b"1");
        let decoder = opening.decoder;
        let watcher = Watcher {
            client,
            who,
            decoder,
            seen,
            at: None,
            entry: key,
            backlog: Backlog::default(),
            since: Instant::now(),
            is_told: !is_over,
            last_line: None,
            end,
            is_last: is_over && !watches,
        };
        let last_line = match is_over {
            true => None,
            false => cx.viewed(self.subject_of(key), &origin, &watcher.client),
        };
        let watcher = Watcher { last_line, ..watcher };
        let watcher = self.watchers.insert(watcher);
        cx.faults.made = Some(Whose::Watcher(watcher));
        if let Some(entry) = self.entries.get_mut(key) {
            entry.watchers += 1;
        }
        if is_another {
            // What goes there from now on is kept there.
            self.tell_store(cx, sessions, programs, key);
        }
        let Some(there) = self.watchers.get_mut(watcher) else {
            return;
        };
        let token = Source::Client(watcher).token();
        if let Err(error) = self.poller.add(there.client.as_fd(), token, Interest::READ) {
            let why = format!("cannot wait for the client: {}", reason(&error));
            cx.doors.log_refusal(&format!("forkptyrouter: session refused: {why}"));
            there.say(&SessionEnd::new(EndKind::Refused, why).packet());
            return self.end_watcher(cx, watcher);
        }
        if !there.hear(&rest) {
            return self.end_watcher(cx, watcher);
        }
        self.look_after(cx, OFTEN);
    }

    /// What there is to see of a session, and how it has ended.
    fn seen(
        &self,
        sessions: &Sessions,
        key: Key,
    ) -> Option<(OwnedFd, ScrollbackReader, Option<SessionEnd>)> {
        let state = &self.entries.get(key)?.state;
        let (ring, end) = match (state, state.client(), state.terminal()) {
            (State::Over(over, _), ..) => (over.ring.as_fd(), Some(over.ended.clone())),
            (_, Some(client), _) => {
                (sessions.get(client.session)?.session.kept()?.remains.shared_file()?, None)
            }
            (.., alone) => (alone?.remains.shared_file()?, None),
        };
        let ring = ring.try_clone_to_owned().ok()?;
        let seen = ScrollbackReader::open(ring.try_clone().ok()?).ok()?;
        Some((ring, seen, end))
    }

    /// It said something, or has left.
    pub(crate) fn watcher_ready(&mut self, cx: &mut Context, key: Key, ready: Ready) {
        let Some(watcher) = self.watchers.get_mut(key) else {
            return;
        };
        let lives = match watcher.client.read(&mut cx.buffer[..ONE_READ]) {
            ReadOutcome::Bytes(count) => {
                fault_injection::strike("watcher", || &cx.buffer[..count]);
                watcher.hear(&cx.buffer[..count])
            }
            ReadOutcome::WouldBlock => !ready.hang_up,
            ReadOutcome::Eof | ReadOutcome::Closed => false,
        };
        if !lives {
            self.end_watcher(cx, key);
        }
    }

    /// It has seen all, or is gone.
    pub fn end_watcher(&mut self, cx: &mut Context, key: Key) {
        self.unviewed(cx, key);
        let Some(watcher) = self.watchers.remove(key) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(watcher.entry) {
            entry.watchers = entry.watchers.saturating_sub(1);
        }
        // It was told how its session ended: nobody else has to be.
        if watcher.is_last && watcher.at.is_some() && watcher.end.is_none() {
            drop(self.remove(cx, watcher.entry));
        }
        let _ = self.poller.remove(watcher.client.as_fd());
        cx.close_when_read(watcher.client, LastWord::Packet { is_answered: false });
    }

    /// What is told of a session is told of this.
    pub(crate) fn subject_of(&self, entry: Key) -> Subject {
        self.session_of(entry).map_or(Subject::Left(entry), Subject::Session)
    }

    /// Those who watch a session.
    fn watchers_at(&self, entry: Key) -> Vec<Key> {
        match self.watchers_of(entry) {
            0 => Vec::new(),
            _ => {
                let at = self.watchers.iter().filter(|(_, watcher)| watcher.entry == entry);
                at.map(|(key, _)| key).collect()
            }
        }
    }

    /// Those who watch this session are to be told how it ended.
    pub fn tell_watchers(&mut self, cx: &mut Context, session: Key, ended: &SessionEnd) {
        if let Some(entry) = self.index.of_session(session) {
            self.unwatch(cx, entry, ended);
        }
    }

    /// A session is over, and has ended so, unless that was told before: nobody looks on
    /// any more.
    pub(crate) fn unwatch(&mut self, cx: &mut Context, entry: Key, ended: &SessionEnd) {
        for key in self.watchers_at(entry) {
            if let Some(watcher) = self.watchers.get_mut(key) {
                watcher.end.get_or_insert_with(|| ended.clone());
            }
            self.unviewed(cx, key);
        }
    }

    /// The gateway is to end: those who watch are told so, as far as that is taken at
    /// once. Who can come back is no more told of this than of a gateway that is killed.
    pub fn stop(&mut self, why: EndKind, line: &str) {
        let told = (why == EndKind::Stopped).then(|| SessionEnd::new(why, line).packet());
        let keys: Vec<Key> = self.watchers.iter().map(|(key, _)| key).collect();
        for (key, told) in keys.into_iter().zip(told.iter().cycle()) {
            self.watchers.get_mut(key).map(|watcher| watcher.say(told));
        }
    }

    fn unviewed(&mut self, cx: &mut Context, key: Key) {
        let Some(watcher) = self.watchers.get_mut(key) else {
            return;
        };
        let (is_told, entry) = (std::mem::take(&mut watcher.is_told), watcher.entry);
        let subject = self.subject_of(entry);
        if let Some(watcher) = self.watchers.get(key).filter(|_| is_told) {
            cx.unviewed(subject, &watcher.client, watcher.since.elapsed(), watcher.last_line);
        }
    }

    /// Has all of them fed; when to look again.
    pub(crate) fn watched(&self, cx: &mut Context) -> Option<Duration> {
        self.watchers.iter().for_each(|(key, _)| cx.then(Outcome::FeedWatcher(key)));
        (self.watchers.len() > 0).then_some(OFTEN)
    }

    /// Gives one what there is.
    pub fn feed_watcher(&mut self, cx: &mut Context, key: Key) {
        let Some(watcher) = self.watchers.get_mut(key) else {
            return;
        };
        fault_injection::point("watching");
        if watcher.end.is_none() {
            watcher.end = match self.entries.get(watcher.entry) {
                Some(entry) => entry.state.last().map(|over| over.ended.clone()),
                None => Some(because(Gone::Lost)),
            };
        }
        if !watcher.feed() {
            self.end_watcher(cx, key);
        }
    }
}
