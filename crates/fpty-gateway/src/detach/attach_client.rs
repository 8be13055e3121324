//! Attach: a client asks for an existing session, waits for it, steals it, or views it.

use std::os::fd::AsFd;

use super::attach_state::AttachDecision;
use super::detachable_session::{
    Client, DetachableSession, DetachedTerminal, PendingAttach, terminal_size,
};
use super::registry::DetachRegistry;
use crate::config::rules::Rules;
use crate::connection::client_hello::ClientHello;
use crate::connection::handshake::ClientRequest;
use crate::connection::listeners::Connection;
use crate::connection::session_access::{self, UNKNOWN_UID};
use crate::control::peers::attach_request::{AttachMatch, AttachQuery, MatchQuality};
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::fault_domain::FaultDomain;
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Token};
use crate::observe::audit::timestamp;
use crate::session::relay::{LiveSession, SessionIo, Sessions};
use crate::session::session_ref::SessionRef;
use crate::session::state::Session;
use crate::session::state::extended::DetachState;
use crate::session::timeouts::TimeLimited;
use fpty::error::reason;
use fpty::proto::session_key::Secret;
use fpty::proto::{EndKind, NO_SUCH_SESSION, SessionEnd, is_session_name, variables};
use fpty::sys::clock::Timestamp;
use fpty::sys::poll::Interest;
use fpty::sys::process_handle::ProcessHandle;

/// Text for a client whose session was attached by another connection of its own.
const TAKEN_OVER: &str = "its client has attached again by another connection";

/// Added to the rank of a running session with the name: above the rank of any exited one.
const RUNNING_BONUS: u8 = 4;

/// Options of a request to attach.
struct AttachOptions {
    target: String,
    create: bool,
    steal: bool,
    read_only: bool,
}

impl AttachOptions {
    fn of(hello: &ClientHello, target: Vec<u8>) -> Self {
        let is_set = |name: &[u8]| hello.variables.get(name) == Some(b"1");
        Self {
            target: String::from_utf8_lossy(&target).into_owned(),
            create: is_set(variables::BEGIN),
            steal: is_set(variables::STEAL),
            read_only: is_set(variables::READ_ONLY),
        }
    }
}

/// Attaches a client to an existing session, or rejects it. Input after the request stands in the
/// turn's buffer. Returns a request for a new session.
pub fn attach(
    registry: Option<&mut DetachRegistry>,
    core: &mut Core,
    mut client_request: ClientRequest,
) -> Option<ClientRequest> {
    let ClientRequest { connection, hello, .. } = &mut client_request;
    let options = match std::mem::take(&mut hello.request).read() {
        Ok(Some((_, target))) => AttachOptions::of(hello, target),
        Ok(None) | Err(_) => return reject(core, client_request, "bad request"),
    };
    if options.create && !is_session_name(options.target.as_bytes()) {
        return reject(core, client_request, "bad request: no name");
    }
    let allows = |rules: &Rules| rules.detach.sessions > 0;
    let is_allowed = core.cx.listeners.rules(connection.listener).is_some_and(allows);
    match registry.filter(|_| is_allowed) {
        Some(registry) => registry.attach(core, client_request, options),
        None if options.create => Some(client_request),
        None => {
            reject(core, client_request, "sessions cannot be detached here (forkptyrouter-detach)")
        }
    }
}

fn reject(core: &mut Core, client_request: ClientRequest, why: &str) -> Option<ClientRequest> {
    let refused = SessionEnd::new(EndKind::Refused, why);
    core.cx.reject(client_request.connection, true, refused);
    None
}

/// Name of a user for a text, where it is known without a lookup that could block; else the number.
/// Clients may know each other's.
fn user_label(cx: &Context, uid: u32) -> String {
    if uid == UNKNOWN_UID {
        return String::from("somebody");
    }
    let root = || (uid == 0).then(|| String::from("root"));
    cx.audit.user_names.known(uid).or_else(root).unwrap_or_else(|| format!("user {uid}"))
}

/// Text for clients that lose a session to this user.
fn stolen_by(cx: &Context, uid: u32) -> String {
    format!("{} has taken the session", user_label(cx, uid))
}

impl DetachRegistry {
    fn attach(
        &mut self,
        core: &mut Core,
        client_request: ClientRequest,
        options: AttachOptions,
    ) -> Option<ClientRequest> {
        let ClientRequest { connection, hello, .. } = &client_request;
        let uid = session_access::uid_of(&connection.client);
        let presented_secret = hello.variables.get(variables::SECRET).and_then(Secret::from_slice);
        let by_secret = presented_secret.as_ref().and_then(|secret| {
            self.find_by_secret(&core.sessions, connection.listener, &options.target, secret)
        });
        let presented_secret = presented_secret.filter(|_| by_secret.is_some());
        let find_target =
            || self.find_target(connection.listener, uid, &options.target, options.create);
        let found = by_secret.or_else(|| find_target().map(|(_, key)| key));
        let Some(key) = found else {
            return match options.create {
                true => Some(client_request),
                false => reject(core, client_request, NO_SUCH_SESSION),
            };
        };
        let has_exited = self.entries.get(key).is_some_and(|entry| entry.state.has_exited());
        // The scrollback is offered with the terminal.
        let entry = self.entries.get_mut(key).filter(|_| !options.read_only);
        let detached = entry.and_then(|entry| entry.state.terminal_mut());
        if let Some(Err(error)) = detached.map(|detached| detached.remains.open_file()) {
            return reject(core, client_request, &error.to_string());
        }
        let ClientRequest { connection, hello, .. } = client_request;
        let early_data = core.cx.take_input();
        let pending =
            Box::new(PendingAttach { connection, hello, uid, presented_secret, early_data });
        if options.read_only || has_exited {
            self.add_viewer(core, key, *pending);
            return None;
        }
        let session = core.sessions.vacant_key();
        let client = |_: &_| Client { session, uid };
        // The session's own client may have lost its earlier connection.
        let is_its_client = pending.presented_secret.is_some();
        let steal = options.steal || is_its_client;
        let answer = self.update(key, |entry| {
            entry.state.request_attach(pending, steal, client, Timestamp::now())
        });
        match answer {
            Some(AttachDecision::Granted(detached, pending)) => {
                self.complete_attach(core, key, detached, *pending);
            }
            Some(AttachDecision::ShowExited(pending)) => self.add_viewer(core, key, *pending),
            Some(AttachDecision::InUse(pending)) => {
                let why = self.in_use(&core.cx, key);
                pending.reject(&mut core.cx, &why);
            }
            Some(AttachDecision::Wait { must_notify, displaced }) => {
                let stolen_by = match is_its_client {
                    true => TAKEN_OVER.to_owned(),
                    false => stolen_by(&core.cx, uid),
                };
                if let Some(displaced) = displaced {
                    displaced.reject(&mut core.cx, &stolen_by);
                }
                if must_notify {
                    self.ask_to_detach(&mut core.sessions, key, stolen_by);
                }
                self.schedule(&mut core.cx, key);
            }
            None => {}
        }
        None
    }

    /// The reason why a client does not get a session in use.
    fn in_use(&self, cx: &Context, key: Key) -> String {
        let state = self.entries.get(key).map(|entry| &entry.state);
        let client = state.and_then(|state| Some((state.client()?, state.since())));
        client.map_or(NO_SUCH_SESSION.to_owned(), |(client, since)| {
            let (principal, since) =
                (user_label(cx, client.uid), timestamp::rfc3339_seconds(since.wall));
            format!("{principal} is attached since {since} (--steal takes it, --read-only views)")
        })
    }

    /// Asks the attached client to detach.
    fn ask_to_detach(&mut self, sessions: &mut Sessions, key: Key, text: String) {
        let client = self.entries.get(key).and_then(|entry| entry.state.client());
        if let Some(live) = client.and_then(|client| sessions.get_mut(client.session)) {
            let told = SessionEnd { ending: EndKind::Detached, value: 1, text };
            live.session.detach_client(&told, &mut live.io);
        }
    }

    /// Attaches a client to a detached session: offers the terminal or the scrollback, and lets the
    /// client wait for GO.
    pub(crate) fn complete_attach(
        &mut self,
        core: &mut Core,
        key: Key,
        detached: Box<DetachedTerminal>,
        pending: PendingAttach,
    ) {
        let _ = self.poller.remove(&detached.master);
        fault_injection::point("coming");
        let PendingAttach { connection, mut hello, presented_secret, early_data, .. } = pending;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.secrets.rotate(presented_secret);
        let its_key = entry.secrets.key(&entry.id, entry.uid);
        let (pid, since) = (entry.pid, entry.since);
        let restored_pidfd = entry.restored_pidfd();
        let program = match restored_pidfd {
            // A program that cannot be signalled ends by other ways.
            Some(pidfd) => pidfd.try_clone().ok().map(ProcessHandle::from_pidfd),
            None => Some(ProcessHandle::child(pid)),
        };
        let is_restored = restored_pidfd.is_some();
        let Connection { client, transport, permit, listener, origin } = connection;
        let size = terminal_size(Some(&detached.master));
        let mut session = Session::from_hello(&mut hello, size);
        session.make_detachable(DetachState {
            remains: detached.remains,
            awaiting_go: true,
            relay_only: false,
        });
        let mut io = SessionIo::new(client, detached.master, program);
        io.set_recording(detached.recording);
        let session = core.sessions.insert(LiveSession::new(session, io, transport, listener));
        core.cx.panics.in_progress = Some(FaultDomain::Session(session));
        fault_injection::point("back");
        // The session holds a permit of its own.
        drop(permit);
        if !is_restored {
            core.processes.assign(pid, SessionRef::Session(session));
        }
        let Core { cx, sessions, .. } = &mut *core;
        let Some(live) = sessions.get_mut(session) else {
            return;
        };
        live.set_attached(cx, session, key, &origin);
        live.terminal_interest = Some(Interest::default());
        let poller = &cx.poller;
        let (client, terminal) = (Token::Client(session).token(), Token::Terminal(session).token());
        let registered = poller
            .add(live.io.client.as_fd(), client, Interest::READ)
            .and_then(|()| poller.add(live.io.master.as_fd(), terminal, Interest::default()));
        let LiveSession { session: state, io, .. } = live;
        if let Err(error) = registered {
            let why = format!("cannot wait for the session: {}", reason(&error));
            cx.listeners.log_rejection(&format!("forkptyrouter: session refused: {why}"));
            state.detach_client(&SessionEnd::new(EndKind::Refused, why), io);
            return cx.push_outcome(Outcome::DropClient(session));
        }
        if let Some(its_key) = its_key {
            state.send_key(&its_key, io);
        }
        let armed = io.master.arm();
        state.early_input(&hello.input, io);
        if !early_data.is_empty() {
            cx.input.clear();
            cx.input.extend_from_slice(&early_data);
            cx.deliver_input(session, state, io);
        }
        drop(armed);
        self.sync_supervisor(core, key);
        let Core { cx, sessions, .. } = core;
        self.schedule(cx, key);
        if let Some(live) = sessions.get_mut(session) {
            live.start_timers(cx, session, since.elapsed());
            fault_injection::point("back-again");
            live.offer(cx, session);
        }
        cx.push_outcome(Outcome::Settle(session));
    }

    /// The session of this id, where the secret is the session's.
    fn find_by_secret(
        &mut self,
        sessions: &Sessions,
        listener: u16,
        id: &str,
        secret: &Secret,
    ) -> Option<Key> {
        let is_it = |key: &Key| {
            self.entries
                .get(*key)
                .is_some_and(|entry| entry.listener == listener && *entry.id == *id)
        };
        let key = self.index.with_id_prefix(id).find(is_it)?;
        self.note_confirmed(sessions, key);
        self.entries.get(key)?.secrets.matches(secret).then_some(key)
    }

    /// The best match in this gateway for a search among all gateways.
    pub fn find_for_peer(
        &mut self,
        sessions: &Sessions,
        sought: &AttachQuery,
    ) -> Option<AttachMatch> {
        let target = sought.which.map(|target| target.to_string()).unwrap_or_default();
        let secret = sought.secret.as_ref();
        let client_request = secret
            .and_then(|secret| self.find_by_secret(sessions, sought.listener, &target, secret));
        let (quality, key) = match client_request {
            Some(key) => (MatchQuality::FullId, key),
            None => self.find_target(sought.listener, sought.uid, &target, false)?,
        };
        let entry = self.entries.get(key)?;
        // A running session of that name comes before exited ones.
        let is_named = quality == MatchQuality::Name && !target.is_empty();
        let above = if is_named && !entry.state.has_exited() { RUNNING_BONUS } else { 0 };
        let (rank, since) = (entry.state.rank() + above, entry.state.since().boot.as_nanos());
        Some(AttachMatch { quality, rank, since })
    }

    /// The session that a target selects: by its id; by its name, which is the user's own, for
    /// root, too; by a unique prefix of an id. An empty target: the session that was detached last
    /// and runs, else the last that has exited. An exited session is no target of a request that
    /// may `create`, which goes by name alone.
    fn find_target(
        &self,
        listener: u16,
        uid: u32,
        target: &str,
        create: bool,
    ) -> Option<(MatchQuality, Key)> {
        if uid == UNKNOWN_UID {
            return None;
        }
        if target.is_empty() {
            return self.index.default_target(listener, uid).map(|key| (MatchQuality::Name, key));
        }
        let is_known = |entry: &&DetachableSession| {
            entry.listener == listener && session_access::may_access(entry.uid, uid)
        };
        let known = |key: &Key| self.entries.get(*key).filter(is_known);
        // A session may be named like another one's id.
        if !create {
            // A full id comes before prefixes.
            let is_whole = |key: &Key| self.entries.get(*key).is_some_and(|it| *it.id == *target);
            let mut whole = self.index.with_id_prefix(target).take_while(is_whole);
            if let Some(key) = whole.find(|key| known(key).is_some()) {
                return Some((MatchQuality::FullId, key));
            }
        }
        let rank = |entry: &DetachableSession| {
            (!entry.state.has_exited(), entry.state.rank(), entry.state.since().boot)
        };
        let named = self.index.named(uid, target);
        let named = named.filter_map(|key| Some((key, self.entries.get(key)?)));
        let is_one = |entry: &DetachableSession| {
            entry.listener == listener && !(create && entry.state.has_exited())
        };
        let named = named.filter(|(_, entry)| is_one(entry));
        if let Some((key, _)) = named.max_by_key(|(_, entry)| rank(entry)) {
            return Some((MatchQuality::Name, key));
        }
        if create {
            return None;
        }
        let mut by_id = self.index.with_id_prefix(target).filter(|key| known(key).is_some());
        let key = by_id.next()?;
        by_id.next().is_none().then_some((MatchQuality::IdPrefix, key))
    }
}
