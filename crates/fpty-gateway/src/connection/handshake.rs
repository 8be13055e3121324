//! The handshake of uwsgi mode: a pending connection waits, for a short time, for what its
//! client sends before the program starts, so that the program starts with the size of the
//! terminal, and in extended mode with the client's environment.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::client_hello::{ClientHello, Handshake, HandshakeStep, MAX_FDS};
use super::late_hello::{HELLO_TIMEOUT, LATE_HELLO_TIMEOUT, LateHello, LatePeers};
use super::lingering_close::CloseNotice;
use super::listeners::Connection;
use super::shared_counts::SharedCount;
use crate::event_loop::context::Context;
use crate::event_loop::fault_domain::FaultDomain;
use crate::event_loop::fault_injection;
use crate::event_loop::slab::{Key, Slab, Token};
use crate::event_loop::timers::{SessionTimer, Timer};
use crate::observe::audit::{Origin, RejectReason, Rejection};
use crate::process::process_table::ProcessTable;
use crate::session::relay::{AWAITS_HELLO, Sessions};
use fpty::error::reason;
use fpty::proto::{Protocol, TOO_LATE};
use fpty::sys::ReadOutcome;
use fpty::sys::clock;
use fpty::sys::peer_process::ReceivedFds;
use fpty::sys::poll::Interest;
use fpty::sys::socket::{Stream, Transport};

/// The time for a whole request, in multiples of the handshake timeout.
const TOTAL_FACTOR: u32 = 30;

/// Rejection of a half-closed request.
const CUT_SHORT: &str =
    "the connection was shut down in the midst of the request: nothing was started";

/// Rejection of a hello that comes after the program of a silent start has written. The
/// client knows its prefix ([`fpty::proto::TOO_LATE`]).
const HELLO_TOO_LATE: &str = "the program had been started for a silent client by then";

/// How long the END of a silent start waits for a late hello: the client would take it for
/// that of its own request.
const LINGER: Duration = Duration::from_millis(200);

/// A connection in its handshake.
struct PendingConnection {
    /// The connection; its origin is known after the handshake.
    connection: Connection,
    handshake: Handshake,
    /// Descriptors that came along.
    received_fds: ReceivedFds,
    /// Time at which the connection was accepted.
    since: Instant,
    /// The deadline of the next packet, and of the whole request.
    deadline: Instant,
    final_deadline: Instant,
    is_registered: bool,
}

impl PendingConnection {
    /// A connection that was just accepted, with this timeout.
    fn new(connection: Connection, handshake: Handshake, patience: Duration) -> Self {
        let since = clock::now();
        let deadline = since + patience;
        Self {
            connection,
            handshake,
            received_fds: ReceivedFds::default(),
            since,
            deadline,
            final_deadline: deadline,
            is_registered: false,
        }
    }

    /// The handshake is complete.
    fn finish(self, cx: &Context) -> (Connection, ClientHello) {
        if self.is_registered {
            // It gets another token.
            let _ = cx.poller.remove(self.connection.client.as_fd());
        }
        let hello = self.handshake.hello;
        let origin = cx.audit.origin_of(self.connection.listener, &hello);
        (Connection { origin, ..self.connection }, hello)
    }
}

/// All connections in their handshake.
#[derive(Default)]
pub struct PendingConnections {
    pending: Slab<PendingConnection>,
    late_peers: LatePeers,
}

/// A complete request; input behind it stands in the context's buffer. `None`: the handshake
/// goes on, or is over.
pub type HandshakeResult = Option<Box<ClientRequest>>;

/// A client with its complete request.
pub struct ClientRequest {
    /// The connection.
    pub connection: Connection,
    /// The hello.
    pub hello: ClientHello,
    /// Descriptors that came along.
    pub received_fds: ReceivedFds,
    /// Whether the client has shut its sending side down.
    pub ended: bool,
    /// The claim of a name for a new session.
    pub name: Option<SharedCount>,
}

impl PendingConnections {
    /// Whether the connection is still pending.
    pub fn has(&self, key: Key) -> bool {
        self.pending.has(key)
    }

    /// Closes one without a word. The poller forgets it as it closes.
    pub fn discard(&mut self, key: Key) {
        self.pending.remove(key);
    }

    /// Starts the handshake of a new connection: most clients have sent something already.
    pub fn start(
        &mut self,
        cx: &mut Context,
        client: Stream,
        transport: Transport,
        listener: u16,
    ) -> HandshakeResult {
        let rules = cx.listeners.rules(listener)?;
        let permit = cx.limits.acquire_user(rules, &client);
        let patience = self.late_peers.hello_timeout(&client, clock::now());
        let connection =
            Connection { client, transport, listener, permit, origin: Origin::default() };
        let key =
            self.pending.insert(PendingConnection::new(connection, Handshake::default(), patience));
        cx.panics.in_progress = Some(FaultDomain::PendingConnection(key));
        self.readable(cx, key, false)
    }

    /// A deadline has passed.
    pub fn timed_out(&mut self, cx: &mut Context, key: Key) -> HandshakeResult {
        let is_over = |pending: &PendingConnection| clock::now() >= pending.deadline;
        // What has come meanwhile counts: this process may have been busy, or
        // stopped.
        if self.pending.get(key).is_some_and(is_over) {
            if let Some(client_request) = self.readable(cx, key, false) {
                return Some(client_request);
            }
        }
        let pending = self.pending.get_mut(key)?;
        let (now, is_silent) = (clock::now(), !pending.handshake.hello.extended);
        if is_silent && now >= pending.deadline {
            // Such a client would be refused now. One that lists, ends or attaches to a session
            // needs no permit, and its request may be late.
            let Connection { listener, permit, .. } = &pending.connection;
            let rules = cx.listeners.rules(*listener);
            if rules.is_some_and(|rules| cx.limits.would_reject(rules, permit)) {
                pending.deadline = pending.since + LATE_HELLO_TIMEOUT;
            }
        }
        if now < pending.deadline {
            cx.schedule(pending.deadline - now, Timer::Handshake(key));
            return None;
        }
        fault_injection::point("silence");
        if is_silent {
            return self.complete(cx, key, 0, false);
        }
        let patience = cx.config.handshake_timeout;
        let (how, time) = match pending.deadline < pending.final_deadline {
            true => (": silence for", patience),
            false => (" in", patience * TOTAL_FACTOR),
        };
        let why = format!("no complete request came{how} {} seconds", time.as_secs());
        self.reject(cx, key, &format!("{why} (forkptyrouter-handshake-timeout)"))
    }

    /// The connection is readable, or hung up.
    pub fn readable(&mut self, cx: &mut Context, key: Key, hang_up: bool) -> HandshakeResult {
        let pending = self.pending.get_mut(key)?;
        let PendingConnection { connection, handshake, received_fds, .. } = pending;
        let (is_extended, input) = (handshake.hello.extended, &mut cx.input);
        // Only who has had the answer to its hello passes anything.
        let read = match connection.transport == Transport::Unix && is_extended {
            true => connection.client.read_into_with_descriptors(input, received_fds),
            false => connection.client.read_into(input),
        };
        // One that sends as many as it likes.
        if received_fds.descriptors.len() > MAX_FDS {
            self.discard(key);
            return None;
        }
        match read {
            ReadOutcome::Bytes(_) => self.decode(cx, key),
            ReadOutcome::WouldBlock if !hang_up => self.await_more(cx, key),
            // Half a request is none.
            ReadOutcome::Eof if is_extended && !hang_up => self.reject(cx, key, CUT_SHORT),
            // It only reads, where it has not closed both ways.
            ReadOutcome::Eof if !hang_up && !connection.client.has_hung_up() => {
                self.complete(cx, key, 0, true)
            }
            // It left before there was anything for it.
            ReadOutcome::WouldBlock | ReadOutcome::Eof | ReadOutcome::Closed => {
                self.discard(key);
                None
            }
        }
    }

    /// Decodes what stands in the context's buffer.
    fn decode(&mut self, cx: &mut Context, key: Key) -> HandshakeResult {
        let pending = self.pending.get_mut(key)?;
        let patience = cx.config.handshake_timeout;
        if pending.handshake.hello.extended {
            pending.deadline = pending.final_deadline.min(clock::now() + patience);
        }
        fault_injection::panic_if_requested("greeting", || &cx.input);
        let Connection { client, transport, listener, .. } = &pending.connection;
        let allows_commands = cx.listeners.rules(*listener).is_some_and(|it| it.allow_command);
        let takes_streams =
            allows_commands && cx.config.pass_stdio && *transport == Transport::Unix;
        let mut bytes = cx.input.as_slice();
        loop {
            match pending.handshake.feed(&mut bytes) {
                HandshakeStep::SendHello(answer) => {
                    // It may pass its streams from here on, and no sooner.
                    if takes_streams {
                        client.accept_descriptors();
                    }
                    let _ = client.write(&answer);
                    let now = clock::now();
                    if now - pending.since > HELLO_TIMEOUT {
                        self.late_peers.note(client, now);
                    }
                    // The timeout holds for each part of the request from here on.
                    pending.final_deadline = now + patience * TOTAL_FACTOR;
                    pending.deadline = now + patience;
                }
                HandshakeStep::Incomplete => return self.await_more(cx, key),
                HandshakeStep::Complete => {
                    let left = bytes.len();
                    return self.complete(cx, key, left, false);
                }
                HandshakeStep::Reject(why) => return self.reject(cx, key, why),
                HandshakeStep::Http => return self.reject_http(cx, key),
            }
        }
    }

    fn await_more(&mut self, cx: &mut Context, key: Key) -> HandshakeResult {
        let pending = self.pending.get_mut(key)?;
        if pending.is_registered {
            return None;
        }
        let (client, token) =
            (pending.connection.client.as_fd(), Token::PendingConnection(key).token());
        if let Err(error) = cx.poller.add(client, token, Interest::READ) {
            let why = format!("cannot wait for the client: {}", reason(&error));
            return self.reject(cx, key, &why);
        }
        pending.is_registered = true;
        let wait = pending.deadline.saturating_duration_since(clock::now());
        cx.schedule(wait, Timer::Handshake(key));
        None
    }

    /// Completes the handshake; the last `left` bytes of the buffer are for the session.
    /// `ended`: the client has shut its sending side down.
    fn complete(
        &mut self,
        cx: &mut Context,
        key: Key,
        left: usize,
        ended: bool,
    ) -> HandshakeResult {
        if self.pending.get(key).is_some_and(|pending| pending.handshake.may_be_http()) {
            return self.reject_http(cx, key);
        }
        let mut pending = self.pending.remove(key)?;
        let decode = cx.input.len() - left;
        cx.input.drain(..decode);
        let received_fds = std::mem::take(&mut pending.received_fds);
        pending.connection.client.refuse_descriptors();
        let (connection, hello) = pending.finish(cx);
        Some(Box::new(ClientRequest { connection, hello, received_fds, ended, name: None }))
    }

    /// Rejects a client, with this text.
    pub fn reject(&mut self, cx: &mut Context, key: Key, why: &str) -> HandshakeResult {
        if let Some(pending) = self.pending.remove(key) {
            let (connection, hello) = pending.finish(cx);
            cx.reject(connection, hello.extended, Rejection::because(RejectReason::Handshake, why));
        }
        None
    }

    /// Restarts the handshake of a client whose hello is late: its first packets stand in
    /// the buffer. Where the program of the silent start has written nothing, and ran, this
    /// is as if it had never been; else the client would take its output for that of the
    /// request.
    pub fn restart(&mut self, cx: &mut Context, late: LateHello) -> HandshakeResult {
        let LateHello { client, transport, listener, decoder, is_too_late } = late;
        self.late_peers.note(&client, clock::now());
        let origin = cx.audit.origin(listener, Protocol::Uwsgi);
        if is_too_late {
            // What it has shown may end within a line.
            let _ = client.write(b"\r\n");
            let text = format!("{TOO_LATE}: {HELLO_TOO_LATE}");
            let why = Rejection::because(RejectReason::Handshake, text);
            cx.reject_client(client, origin, false, &why);
            return None;
        }
        let rules = cx.listeners.rules(listener)?;
        let permit = cx.limits.acquire_user(rules, &client);
        let connection = Connection { client, transport, listener, permit, origin };
        let handshake = Handshake::after_silence(decoder.unwrap_or_default());
        let key = self.pending.insert(PendingConnection::new(connection, handshake, HELLO_TIMEOUT));
        cx.panics.in_progress = Some(FaultDomain::PendingConnection(key));
        self.decode(cx, key)
    }

    /// Rejects an HTTP client.
    fn reject_http(&mut self, cx: &mut Context, key: Key) -> HandshakeResult {
        let pending = self.pending.remove(key)?;
        let Connection { client, listener, .. } = pending.connection;
        cx.reject_http(listener, Protocol::Uwsgi, &client, true);
        cx.close_lingering(client, CloseNotice::Eof);
        None
    }
}

impl Sessions {
    /// A silent start is over: its END waits for a late hello.
    pub fn linger(&mut self, cx: &mut Context, key: Key) {
        if let Some(attached) = self.get_mut(key) {
            attached.unregister_terminal(&cx.poller);
            if std::mem::replace(&mut attached.drains, AWAITS_HELLO) != AWAITS_HELLO {
                cx.schedule(LINGER, Timer::Session(key, SessionTimer::NoticeTimeout));
            }
        }
    }

    /// Ends the session of a silent start whose client says hello now.
    pub fn take_for_late_hello(
        &mut self,
        cx: &mut Context,
        processes: &mut ProcessTable,
        key: Key,
    ) -> Option<LateHello> {
        let mut attached = self.end(cx, key)?;
        let (transport, listener) = (attached.transport, attached.listener);
        let is_too_late = attached.has_written() || !attached.session.program_runs();
        let decoder = attached.session.take_decoder();
        let _ = cx.poller.remove(attached.io.client.as_fd());
        attached.unregister_terminal(&cx.poller);
        let client = processes.release(cx, key, *attached);
        Some(LateHello { client, transport, listener, decoder, is_too_late })
    }
}
