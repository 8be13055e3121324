//! The handshake of uwsgi mode: a pending connection waits, for a short time, for what its
//! client sends before the program starts, so that the program starts with the size of the
//! terminal, and in extended mode with the client's environment.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::client_hello::{ClientHello, Handshake, HandshakeStep};
use super::late_hello::{self, HELLO_TIMEOUT, LateHello, LatePeers};
use super::lingering_close::CloseNotice;
use super::listeners::Connection;
use super::shared_counts::SharedCount;
use crate::event_loop::context::Context;
use crate::event_loop::fault_domain::FaultDomain;
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

/// The most descriptors that a client can pass.
const MAX_FDS: usize = 3;

/// A connection in its handshake.
struct PendingConnection {
    /// The connection; its origin is known after the handshake.
    connection: Connection,
    handshake: Handshake,
    /// Descriptors that came along.
    received_fds: ReceivedFds,
    /// When it was accepted.
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
        let (received_fds, is_registered, final_deadline) =
            (ReceivedFds::default(), false, deadline);
        Self { connection, handshake, received_fds, since, deadline, final_deadline, is_registered }
    }

    /// The handshake is complete.
    fn finish(self, cx: &Context) -> (Connection, ClientHello) {
        if self.is_registered {
            // It gets another token.
            let _ = cx.poller.remove(self.connection.client.as_fd());
        }
        let hello = self.handshake.into_hello();
        let origin = cx.audit.origin_of(self.connection.listener, &hello);
        (Connection { origin, ..self.connection }, hello)
    }

    /// A hello has come: the timeout holds for each part of the request.
    fn extend_deadline(&mut self, now: Instant, patience: Duration) {
        self.final_deadline = now + patience * TOTAL_FACTOR;
        self.deadline = now + patience;
    }
}

/// All connections in their handshake.
#[derive(Default)]
pub struct PendingConnections {
    pending: Slab<PendingConnection>,
    late_peers: LatePeers,
}

/// The state of a handshake.
#[must_use]
pub enum HandshakeResult {
    /// Not complete, or closed.
    Pending,
    /// Complete; input behind the request stands in the context's buffer.
    Complete(Box<ClientRequest>),
}

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

    /// Closes one without a word.
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
        let Some(rules) = cx.listeners.rules(listener) else { return HandshakeResult::Pending };
        let permit = cx.limits.acquire_user(rules, &client);
        let patience = self.late_peers.hello_timeout(&client, transport, clock::now());
        let connection =
            Connection { client, transport, listener, permit, origin: Origin::default() };
        let key =
            self.pending.insert(PendingConnection::new(connection, Handshake::default(), patience));
        cx.panics.in_progress = Some(FaultDomain::PendingConnection(key));
        self.readable(cx, key, false)
    }

    /// A deadline has passed.
    pub fn timed_out(&mut self, cx: &mut Context, key: Key) -> HandshakeResult {
        let is_over =
            |pending_connection: &PendingConnection| clock::now() >= pending_connection.deadline;
        // What has come meanwhile counts: this process may have been busy, or
        // stopped.
        if self.pending.get(key).is_some_and(is_over) {
            if let HandshakeResult::Complete(client_request) = self.readable(cx, key, false) {
                return HandshakeResult::Complete(client_request);
            }
        }
        let Some(pending_connection) = self.pending.get_mut(key) else {
            return HandshakeResult::Pending;
        };
        let now = clock::now();
        if now < pending_connection.deadline {
            let wait = pending_connection.deadline - now;
            cx.schedule(wait, Timer::Handshake(key));
            return HandshakeResult::Pending;
        }
        crate::event_loop::fault_injection::point("silence");
        if !pending_connection.handshake.is_extended() {
            // It would be refused now. Those who list, end or come back to a session need no
            // seat, and what they want may be late.
            let rules = cx.listeners.rules(pending_connection.connection.listener);
            let final_deadline = pending_connection.since + late_hello::LATE_HELLO_TIMEOUT;
            if now < final_deadline
                && rules.is_some_and(|rules| {
                    cx.limits.would_reject(rules, &pending_connection.connection.permit)
                })
            {
                pending_connection.deadline = final_deadline;
                cx.schedule(final_deadline - now, Timer::Handshake(key));
                return HandshakeResult::Pending;
            }
            return self.complete(cx, key, 0, false);
        }
        let patience = cx.config.handshake_timeout;
        let why = match pending_connection.deadline < pending_connection.final_deadline {
            true => format!("no complete request came: silence for {} seconds", patience.as_secs()),
            false => {
                format!(
                    "no complete request came in {} seconds",
                    (patience * TOTAL_FACTOR).as_secs()
                )
            }
        };
        self.reject(cx, key, &format!("{why} (forkptyrouter-handshake-timeout)"))
    }

    /// The connection is readable, or hung up.
    pub fn readable(&mut self, cx: &mut Context, key: Key, hang_up: bool) -> HandshakeResult {
        let Some(pending_connection) = self.pending.get_mut(key) else {
            return HandshakeResult::Pending;
        };
        // Only who has had the answer to its hello passes anything.
        let passes = pending_connection.connection.transport == Transport::Unix
            && pending_connection.handshake.is_extended();
        let read = match passes {
            true => {
                let (input, received_fds) = (&mut cx.input, &mut pending_connection.received_fds);
                pending_connection.connection.client.read_into_with_descriptors(input, received_fds)
            }
            false => pending_connection.connection.client.read_into(&mut cx.input),
        };
        // One that sends as many as it likes.
        if pending_connection.received_fds.descriptors.len() > MAX_FDS {
            return self.forget(key);
        }
        match read {
            ReadOutcome::Bytes(_) => self.decode(cx, key),
            ReadOutcome::WouldBlock if !hang_up => self.await_more(cx, key),
            ReadOutcome::Eof if !hang_up => match pending_connection.handshake.is_extended() {
                // Half a request is none.
                true => self.reject(cx, key, CUT_SHORT),
                // It only reads.
                false => self.complete(cx, key, 0, true),
            },
            // It left before there was anything for it.
            ReadOutcome::WouldBlock | ReadOutcome::Eof | ReadOutcome::Closed => self.forget(key),
        }
    }

    /// Decodes what stands in the context's buffer.
    fn decode(&mut self, cx: &mut Context, key: Key) -> HandshakeResult {
        let Some(pending_connection) = self.pending.get_mut(key) else {
            return HandshakeResult::Pending;
        };
        let patience = cx.config.handshake_timeout;
        if pending_connection.handshake.is_extended() {
            pending_connection.deadline =
                pending_connection.final_deadline.min(clock::now() + patience);
        }
        crate::event_loop::fault_injection::strike("greeting", || &cx.input);
        let commands = cx
            .listeners
            .rules(pending_connection.connection.listener)
            .is_some_and(|rules| rules.allow_command);
        let takes_streams = commands && cx.config.pass_stdio;
        let mut bytes = cx.input.as_slice();
        loop {
            match pending_connection.handshake.feed(&mut bytes) {
                HandshakeStep::SendHello(answer) => {
                    // It may pass its streams from here on, and no sooner.
                    if pending_connection.connection.transport == Transport::Unix && takes_streams {
                        pending_connection.connection.client.accept_descriptors();
                    }
                    let _ = pending_connection.connection.client.write(&answer);
                    let now = clock::now();
                    if now - pending_connection.since > HELLO_TIMEOUT {
                        self.late_peers.note(
                            &pending_connection.connection.client,
                            pending_connection.connection.transport,
                            now,
                        );
                    }
                    pending_connection.extend_deadline(now, patience);
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
        let Some(pending_connection) = self.pending.get_mut(key) else {
            return HandshakeResult::Pending;
        };
        if pending_connection.is_registered {
            return HandshakeResult::Pending;
        }
        let (client, token) =
            (pending_connection.connection.client.as_fd(), Token::PendingConnection(key).token());
        if let Err(error) = cx.poller.add(client, token, Interest::READ) {
            let why = format!("cannot wait for the client: {}", reason(&error));
            return self.reject(cx, key, &why);
        }
        pending_connection.is_registered = true;
        let wait = pending_connection.deadline.saturating_duration_since(clock::now());
        cx.schedule(wait, Timer::Handshake(key));
        HandshakeResult::Pending
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
        if self
            .pending
            .get(key)
            .is_some_and(|pending_connection| pending_connection.handshake.may_be_http())
        {
            return self.reject_http(cx, key);
        }
        let Some(mut pending_connection) = self.pending.remove(key) else {
            return HandshakeResult::Pending;
        };
        let decode = cx.input.len() - left;
        cx.input.drain(..decode);
        let received_fds = std::mem::take(&mut pending_connection.received_fds);
        pending_connection.connection.client.refuse_descriptors();
        let (connection, hello) = pending_connection.finish(cx);
        HandshakeResult::Complete(Box::new(ClientRequest {
            connection,
            hello,
            received_fds,
            ended,
            name: None,
        }))
    }

    /// Rejects a client, with this text.
    pub fn reject(&mut self, cx: &mut Context, key: Key, why: &str) -> HandshakeResult {
        if let Some(pending_connection) = self.pending.remove(key) {
            let (connection, hello) = pending_connection.finish(cx);
            cx.reject(connection, hello.extended, Rejection::because(RejectReason::Handshake, why));
        }
        HandshakeResult::Pending
    }

    /// Restarts the handshake of a client whose hello is late: its first packets stand in
    /// the buffer. Where the program of the silent start has written nothing, and ran, this
    /// is as if it had never been; else the client would take its output for that of the
    /// request.
    pub fn restart(&mut self, cx: &mut Context, late: LateHello) -> HandshakeResult {
        let LateHello { client, transport, listener, decoder, is_too_late } = late;
        self.late_peers.note(&client, transport, clock::now());
        let origin = cx.audit.origin(listener, Protocol::Uwsgi);
        if is_too_late {
            // What it has shown may end within a line.
            let _ = client.write(b"\r\n");
            let text = format!("{TOO_LATE}: {HELLO_TOO_LATE}");
            let why = Rejection::because(RejectReason::Handshake, text);
            cx.reject_client(client, origin, false, &why);
            return HandshakeResult::Pending;
        }
        let Some(rules) = cx.listeners.rules(listener) else { return HandshakeResult::Pending };
        let permit = cx.limits.acquire_user(rules, &client);
        let connection = Connection { client, transport, listener, permit, origin };
        let handshake = Handshake::after_silence(decoder.unwrap_or_default());
        let key = self.pending.insert(PendingConnection::new(connection, handshake, HELLO_TIMEOUT));
        cx.panics.in_progress = Some(FaultDomain::PendingConnection(key));
        self.decode(cx, key)
    }

    /// Rejects an HTTP client.
    fn reject_http(&mut self, cx: &mut Context, key: Key) -> HandshakeResult {
        let Some(pending_connection) = self.pending.remove(key) else {
            return HandshakeResult::Pending;
        };
        let Connection { client, listener, .. } = pending_connection.connection;
        cx.reject_http(listener, Protocol::Uwsgi, &client, true);
        cx.close_lingering(client, CloseNotice::Eof);
        HandshakeResult::Pending
    }

    fn forget(&mut self, key: Key) -> HandshakeResult {
        // The poller forgets it as it closes.
        self.pending.remove(key);
        HandshakeResult::Pending
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
