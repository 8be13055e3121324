//! Viewers: clients that view a session beside the attached one, and clients that read the end of
//! an exited session. They are fed from the scrollback, be it written by the gateway or by a client
//! that has the terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::attach_state::AttachState;
use super::detachable_session::{PendingAttach, SESSION_ENDED};
use super::registry::DetachRegistry;
use crate::connection::lingering_close::CloseNotice;
use crate::connection::listeners::Connection;
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::fault_domain::FaultDomain;
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Token};
use crate::observe::audit::EndReason;
use crate::process::supervisor::end_lines::EndLineSlot;
use crate::session::relay::Sessions;
use crate::session::session_ref::SessionRef;
use crate::session::timeouts::{ENDED_BY_OPERATOR, MAX_TIME_REACHED};
use fpty::backlog::{Backlog, SendOutcome};
use fpty::error::reason;
use fpty::fair_share::{self, Principal};
use fpty::proto::session_key::{FoundBy, SessionKey};
use fpty::proto::{
    ClientPacket, ClientPacketDecoder, EndKind, GO, HEADER, INPUT, OFFER, OFFER_RING, PING, PONG,
    RING_PIECE, SESSION_KEY, SessionEnd, TAKEN, encode_bare, encode_packet, variables,
};
use fpty::scrollback::ScrollbackReader;
use fpty::sys::clock;
use fpty::sys::poll::{Interest, Ready};
use fpty::sys::socket::{Stream, Transport};
use fpty::sys::{ReadOutcome, WriteOutcome};

/// Interval of looking for more output.
const FEED_INTERVAL: Duration = Duration::from_millis(30);

/// Most viewers, and most of one user.
const MAX_VIEWERS: usize = 256;
const MAX_VIEWERS_PER_USER: usize = 64;

/// Reason why a viewer is shown no more.
const RING_DAMAGED: &str = "cannot read the session's last output: its ring is damaged";

/// Text for a viewer that is displaced by one of another user.
const DISPLACED: &str = "other users have fewer viewers, and there is no more room";

/// Most bytes of one read: each of the few packets of a viewer may be worth an answer.
const ONE_READ: usize = 256;

/// Most bytes of output that a viewer gets at once.
const PIECE: u64 = 32 * 1024;

/// One viewer.
pub struct Viewer {
    pub(crate) client: Stream,
    pub(crate) principal: Principal,
    pub(crate) decoder: ClientPacketDecoder,
    pub(crate) seen: ScrollbackReader,
    /// Position in the output; `None`: GO was not sent.
    pub(crate) at: Option<u64>,
    pub(crate) entry: Key,
    /// Bytes that the viewer has not taken.
    pub(crate) backlog: Backlog,
    /// The session's end: sent behind all output.
    pub(crate) end: Option<SessionEnd>,
    /// The viewer is the client that an exited session was kept for.
    pub(crate) takes_exit_notice: bool,
    /// Time of the connection.
    pub(crate) since: Instant,
    /// The audit was told that the viewer has come, and not yet that it has gone.
    pub(crate) is_announced: bool,
    /// Line for the audit in case that this gateway is killed.
    pub(crate) prepared_line: Option<EndLineSlot>,
}

impl Viewer {
    /// Sends what there is. Whether the viewer stays.
    pub(crate) fn feed(&mut self) -> bool {
        let Self { client, seen, at, backlog, .. } = self;
        if !backlog.flush(|bytes| client.write(bytes).taken()) {
            return false;
        }
        let Some(at) = at.as_mut().filter(|_| backlog.is_empty()) else {
            return true;
        };
        let total = seen.total().filter(|total| total >= at);
        let Some(total) = total else {
            return self.fail(RING_DAMAGED);
        };
        let to = total.min(*at + PIECE);
        if to > *at {
            let Some(output) = seen.range(*at, to) else {
                return self.fail("its output came too fast");
            };
            *at = to;
            let mut packet = Vec::with_capacity(HEADER + output.len());
            encode_packet(INPUT, &output, &mut packet);
            return self.send(&packet);
        }
        match self.end.take() {
            Some(ended) => {
                self.send(&ended.packet());
                false
            }
            None => true,
        }
    }

    /// Sends the viewer an end for this reason. Returns that it does not stay.
    pub(crate) fn fail(&mut self, why: &str) -> bool {
        self.send(&SessionEnd::new(EndKind::Lost, why).packet());
        false
    }

    /// Sends packets. Returns whether the viewer stays.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        let given = self.backlog.send(bytes, |bytes| self.client.write(bytes).taken());
        matches!(given, SendOutcome::Sent(_))
    }

    /// Handles the viewer's packets: that it has the scrollback. Whether the viewer stays.
    pub(crate) fn on_input(&mut self, mut bytes: &[u8]) -> bool {
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut lives = true;
        while let Some(packet) = decoder.next(&mut bytes) {
            match packet {
                ClientPacket::Part(kind @ (TAKEN | OFFER), part, true)
                    if self.at.is_none() && (kind == TAKEN || part.is_empty()) =>
                {
                    let Some(total) = self.seen.total() else {
                        return self.fail(RING_DAMAGED);
                    };
                    self.at = Some(total);
                    let mut go = Vec::new();
                    // The descriptor did not arrive: the scrollback goes in packets.
                    if kind == OFFER {
                        let kept = self.seen.to_pieces(total).unwrap_or_default();
                        for piece in kept.chunks(u16::MAX.into()) {
                            encode_packet(RING_PIECE, piece, &mut go);
                        }
                    }
                    encode_packet(GO, &total.to_le_bytes(), &mut go);
                    lives &= self.send(&go);
                }
                ClientPacket::Part(PING, _, true) if self.backlog.is_empty() => {
                    lives &= self.send(&encode_bare(PONG, 0));
                }
                _ => {}
            }
        }
        self.decoder = decoder;
        lives && self.feed()
    }
}

/// END for viewers of a session whose end is not the program's own.
pub fn end_for_viewers(why: EndReason) -> SessionEnd {
    let (ending, text) = match why {
        EndReason::Operator => (EndKind::Operator, ENDED_BY_OPERATOR),
        EndReason::Limit => (EndKind::Limit, MAX_TIME_REACHED),
        EndReason::Idle => (EndKind::Idle, "session ended: no traffic"),
        EndReason::Exit | EndReason::Signal | EndReason::Hangup | EndReason::Lost => {
            (EndKind::Lost, SESSION_ENDED)
        }
    };
    SessionEnd::new(ending, text)
}

impl DetachRegistry {
    /// Adds a viewer to a session.
    pub(crate) fn add_viewer(&mut self, core: &mut Core, key: Key, pending: PendingAttach) {
        let PendingAttach { connection, hello, early_data, .. } = pending;
        let cx = &mut core.cx;
        let refused = |why: &str| SessionEnd::new(EndKind::Refused, why);
        let principal = Principal::of(&connection.client);
        if self.viewers.iter().filter(|(_, viewer)| viewer.principal == principal).count()
            >= MAX_VIEWERS_PER_USER
        {
            return cx.reject(connection, true, refused("you have too many viewers"));
        }
        let places = self.viewers.iter().map(|(key, it)| (key, it.principal, it.since));
        if let Some(key) =
            fair_share::to_evict(places, principal, MAX_VIEWERS_PER_USER, MAX_VIEWERS)
        {
            if let Some(viewer) = self.viewers.get_mut(key) {
                viewer.fail(DISPLACED);
            }
            self.end_viewer(cx, key);
        }
        let entry = self.entries.get_mut(key);
        let detached = entry.and_then(|entry| entry.state.terminal_mut());
        let is_another = detached.is_some_and(|detached| {
            detached.remains.shared_file().is_none() && detached.remains.open_file().is_ok()
        });
        let Some((ring, seen, end)) = self.open_scrollback(&core.sessions, key) else {
            return cx.reject(connection, true, refused("out of descriptors or memory"));
        };
        // The viewer's permit is free: a viewer is no session.
        let Connection { client, transport, origin, .. } = connection;
        let (mut packet, mut offer) = (Vec::new(), Vec::new());
        if let Some(entry) = self.entries.get(key) {
            let id = entry.id.as_ref().to_owned();
            let its_key = SessionKey { id, secret: None, found_by: FoundBy::Viewer };
            encode_packet(SESSION_KEY, &its_key.payload(), &mut packet);
        }
        encode_packet(OFFER, &[OFFER_RING], &mut offer);
        // A new connection has room for both packets.
        let _ = client.write(&packet);
        let offered = match transport {
            Transport::Tcp => client.write(&offer),
            Transport::Unix => client.write_with_descriptors(&offer, &[ring.as_fd()]),
        };
        if !matches!(offered, WriteOutcome::Bytes(_)) {
            return;
        }
        let has_exited = end.is_some();
        // A viewer by its own wish leaves the end to the session's client.
        let only_views = hello.variables.get(variables::READ_ONLY) == Some(b"1");
        let decoder = hello.decoder;
        let viewer = Viewer {
            client,
            principal,
            decoder,
            seen,
            at: None,
            entry: key,
            backlog: Backlog::default(),
            since: clock::now(),
            is_announced: !has_exited,
            prepared_line: None,
            end,
            takes_exit_notice: has_exited && !only_views,
        };
        let prepared_line = match has_exited {
            true => None,
            false => cx.viewer_joined(self.session_ref_of(key), &origin, &viewer.client),
        };
        let viewer = Viewer { prepared_line, ..viewer };
        let viewer = self.viewers.insert(viewer);
        cx.panics.in_progress = Some(FaultDomain::Viewer(viewer));
        if let Some(entry) = self.entries.get_mut(key) {
            entry.viewers += 1;
        }
        if is_another {
            // The supervisor gets the file that output goes to from now on.
            self.sync_supervisor(core, key);
        }
        let cx = &mut core.cx;
        let Some(there) = self.viewers.get_mut(viewer) else {
            return;
        };
        let token = Token::Client(viewer).token();
        if let Err(error) = self.poller.add(there.client.as_fd(), token, Interest::READ) {
            let why = format!("cannot wait for the client: {}", reason(&error));
            cx.listeners.log_rejection(&format!("forkptyrouter: session refused: {why}"));
            there.send(&SessionEnd::new(EndKind::Refused, why).packet());
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
    ) -> Option<(OwnedFd, ScrollbackReader, Option<SessionEnd>)> {
        let state = &self.entries.get(key)?.state;
        let (ring, end) = match (state, state.client(), state.terminal()) {
            (AttachState::Exited(over, _), ..) => (over.ring.as_fd(), Some(over.ended.clone())),
            (_, Some(client), _) => {
                (sessions.get(client.session)?.session.detach_state()?.remains.shared_file()?, None)
            }
            (.., detached) => (detached?.remains.shared_file()?, None),
        };
        let ring = ring.try_clone_to_owned().ok()?;
        let seen = ScrollbackReader::open(ring.try_clone().ok()?).ok()?;
        Some((ring, seen, end))
    }

    /// Handles an event of a viewer's connection.
    pub(crate) fn viewer_ready(&mut self, cx: &mut Context, key: Key, ready: Ready) {
        let Some(viewer) = self.viewers.get_mut(key) else {
            return;
        };
        let lives = match viewer.client.read(&mut cx.buffer[..ONE_READ]) {
            ReadOutcome::Bytes(count) => {
                fault_injection::panic_if_requested("watcher", || &cx.buffer[..count]);
                viewer.on_input(&cx.buffer[..count])
            }
            ReadOutcome::WouldBlock => !ready.hang_up,
            ReadOutcome::Eof | ReadOutcome::Closed => false,
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
        let last = CloseNotice::Packet { is_answered: false };
        cx.close_flushing(viewer.client, viewer.backlog, last);
    }

    /// The subject of an entry: the live session or the detached one.
    pub(crate) fn session_ref_of(&self, entry: Key) -> SessionRef {
        self.session_of(entry).map_or(SessionRef::Detached(entry), SessionRef::Session)
    }

    /// Tells the viewers of a live session how it ended.
    pub fn tell_viewers(&mut self, cx: &mut Context, session: Key, ended: &SessionEnd) {
        if let Some(entry) = self.index.by_session(session) {
            self.end_viewers(cx, entry, ended);
        }
    }

    /// Tells the viewers of a session how it ended, unless they know already.
    pub(crate) fn end_viewers(&mut self, cx: &mut Context, entry: Key, ended: &SessionEnd) {
        if self.entries.get(entry).is_none_or(|entry| entry.viewers == 0) {
            return;
        }
        let all = self.viewers.iter().filter(|(_, viewer)| viewer.entry == entry);
        for key in all.map(|(key, _)| key).collect::<Vec<_>>() {
            if let Some(viewer) = self.viewers.get_mut(key) {
                viewer.end.get_or_insert_with(|| ended.clone());
            }
            self.viewer_left(cx, key);
        }
    }

    /// Notifies the viewers that the gateway ends, as far as their connections take it at once. A
    /// client that can attach again reads no more than after a gateway that is killed.
    pub fn stop(&mut self, why: EndKind, line: &str) {
        if why == EndKind::Stopped {
            let told = SessionEnd::new(why, line).packet();
            for viewer in self.viewers.values_mut() {
                viewer.send(&told);
            }
        }
    }

    fn viewer_left(&mut self, cx: &mut Context, key: Key) {
        let Some(viewer) = self.viewers.get_mut(key) else {
            return;
        };
        let (is_announced, entry) = (std::mem::take(&mut viewer.is_announced), viewer.entry);
        let session_ref = self.session_ref_of(entry);
        if let Some(viewer) = self.viewers.get(key).filter(|_| is_announced) {
            cx.viewer_left(
                session_ref,
                &viewer.client,
                viewer.since.elapsed(),
                viewer.prepared_line,
            );
        }
    }

    /// Schedules the feeding of all viewers. Returns when to do so again.
    pub(crate) fn schedule_feeds(&self, cx: &mut Context) -> Option<Duration> {
        self.viewers.iter().for_each(|(key, _)| cx.push_outcome(Outcome::FeedViewer(key)));
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
                None => Some(end_for_viewers(EndReason::Lost)),
            };
        }
        if !viewer.feed() {
            self.end_viewer(cx, key);
        }
    }
}
