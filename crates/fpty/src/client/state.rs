//! The state of a session, and what each of its parts does with it: show output, send
//! a packet, tell the person something.

use std::time::{Duration, Instant};

use super::buffered_output::BufferedOutput;
use super::config::ClientConfig;
use super::connect::Connection;
use super::decoder::ServerDecoder;
use super::detachable::Detachable;
use super::escape::EscapeFilter;
use super::handover::Handover;
use super::reconnect::Reconnect;
use crate::backlog::Backlog;
use crate::proto::session_key::SessionKey;
use crate::proto::{self, Protocol, SessionEnd};
use crate::sys::peer_process::ReceivedFds;
use crate::sys::signal::Signals;
use crate::sys::stdio;
use crate::sys::termios::RawMode;
use crate::sys::{Size, pty};

/// Bytes of one read.
const BUFFER: usize = 64 * 1024;

/// How long input waits for the server to say which mode it speaks. A gateway
/// that knows only the plain one says nothing if its program does not.
const HELLO_TIMEOUT: Duration = Duration::from_millis(100);

/// So much input goes to a server that does not say it, in bytes, before it is
/// waited for longer, and how long: a gateway of ours that is busy, or stopped,
/// keeps no more of what comes before the request.
pub const MAX_EARLY: usize = 64 * 1024;
pub const EARLY_TIMEOUT: Duration = Duration::from_secs(3);

/// Time that a server may take to say hello where only the extended mode will do.
pub const EXTENDED_TIMEOUT: Duration = Duration::from_secs(10);

/// State of our input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputState {
    /// Standard input is open.
    Open,
    /// Standard input has ended: when, and when the server last said something.
    Ended(Instant, Instant),
    /// The server knows.
    EndSent,
}

/// The state of a session over one connection.
pub struct Session<'a> {
    pub(super) config: &'a ClientConfig,
    pub(super) connection: Connection,
    pub(super) signals: Signals,
    /// Our output, and what it has not taken yet.
    pub(super) output: BufferedOutput,
    /// Restores the terminal when the session is dropped, a panic included.
    pub(super) terminal: Option<RawMode>,
    /// Whether the terminal's signals reach us.
    pub(super) is_controlling_terminal: bool,
    pub(super) escapes: Option<EscapeFilter>,
    pub(super) decoder: ServerDecoder,
    pub(super) handover: Handover,
    /// Descriptors that came, until the packet that names them is complete.
    pub(super) received: ReceivedFds,
    /// Input that waits for the word how to send it.
    pub(super) held: Vec<u8>,
    /// Time until which input is held for a server that has not said its mode.
    pub(super) held_until: Option<Instant>,
    /// How much input went nevertheless, and until when there is a bound to that.
    pub(super) early: usize,
    /// Early input while it is little, for another attempt.
    pub(super) early_input: Option<Vec<u8>>,
    pub(super) early_until: Option<Instant>,
    /// Output that our terminal has not taken yet.
    pub(super) to_terminal: Backlog,
    pub(super) resize_due: bool,
    /// The size that was said last.
    pub(super) sent_size: Option<Size>,
    pub(super) next_look: Option<Instant>,
    pub(super) input: InputState,
    /// The first bytes of a server that speaks plainly, and the last.
    pub(super) first_bytes: Vec<u8>,
    pub(super) last_bytes: Vec<u8>,
    /// Output that may be a refusal, until then.
    pub(super) withheld: Option<(Vec<u8>, Instant)>,
    pub(super) ended: Option<SessionEnd>,
    /// The way to detach the session and to attach again.
    pub(super) detachable: Detachable,
    /// The way back to the session if the connection breaks.
    pub(super) reconnect: Reconnect,
    pub(super) buffer: Vec<u8>,
    pub(super) shown: Vec<u8>,
}

impl<'a> Session<'a> {
    /// A session just connected.
    pub fn new(
        config: &'a ClientConfig,
        connection: Connection,
        signals: Signals,
        output: BufferedOutput,
        terminal: Option<RawMode>,
    ) -> Self {
        Self {
            escapes: config.escape.filter(|_| terminal.is_some()).map(EscapeFilter::new),
            config,
            connection,
            signals,
            output,
            terminal,
            is_controlling_terminal: stdio::is_controlling_terminal(),
            decoder: ServerDecoder::Plain,
            handover: Handover::default(),
            received: ReceivedFds::default(),
            held: Vec::new(),
            held_until: None,
            early: 0,
            early_input: Some(Vec::new()),
            early_until: None,
            to_terminal: Backlog::default(),
            resize_due: false,
            sent_size: None,
            next_look: None,
            input: InputState::Open,
            first_bytes: Vec::new(),
            last_bytes: Vec::new(),
            withheld: None,
            ended: None,
            detachable: Detachable::default(),
            reconnect: Reconnect::default(),
            buffer: vec![0; BUFFER],
            shown: Vec::new(),
        }
    }

    /// Begins after the hello: waits for the server's mode, and sends the terminal's
    /// size, which every server understands.
    pub fn greet(&mut self) {
        self.decoder = ServerDecoder::after_hello();
        let patience = if self.needs_extended() { EXTENDED_TIMEOUT } else { HELLO_TIMEOUT };
        self.held_until = Some(Instant::now() + patience);
        self.resize_due = true;
        self.send_size();
    }

    /// Notes that the terminal's size may have changed.
    pub(super) fn size_changed(&mut self) {
        self.resize_due = self.config.protocol == Protocol::Uwsgi;
    }

    /// Sends the terminal's size to whoever sets it, where it has changed.
    pub(super) fn send_size(&mut self) {
        let nobody_hears = self.connection.has_ended && self.handover.terminal().is_none();
        if !self.resize_due || self.handover.is_accepted() || nobody_hears || self.config.read_only
        {
            return;
        }
        self.resize_due = false;
        let Some(size) = pty::own_size() else {
            return;
        };
        self.sent_size = Some(size);
        self.set_size(size);
        self.detachable.resized(size);
    }

    /// Gives the program a terminal of this size.
    pub(super) fn set_size(&mut self, size: Size) {
        match self.handover.terminal() {
            Some(ours) => ours.resize(size),
            None => self.connection.send(&proto::encode_rows_and_cols(size.rows, size.cols)),
        }
    }

    /// Whether only a server that speaks the extended mode will do.
    pub(super) fn needs_extended(&self) -> bool {
        self.config.needs_extended() || self.reconnect.is_reconnecting()
    }

    /// Whether input is kept: the server has not said which mode it speaks, or
    /// the terminal is on its way to us.
    pub(super) fn holds_input(&self) -> bool {
        (self.decoder.is_undecided() && self.held_until.is_some()) || self.handover.is_accepted()
    }

    /// Whether the server has not said which mode it speaks for a while, and
    /// may yet.
    pub(super) fn may_become_extended(&self) -> bool {
        self.decoder.is_undecided() && self.early_until.is_some_and(|at| Instant::now() < at)
    }

    /// Whether the server knows only plain uwsgi mode, or raw mode.
    pub(super) fn is_plain_mode(&self) -> bool {
        !self.decoder.is_extended() && !self.holds_input()
    }

    /// Whether anybody is there who takes input.
    pub(super) fn is_alive(&self) -> bool {
        self.ended.is_none() && (!self.connection.has_ended || self.handover.terminal().is_some())
    }

    /// Writes output, or keeps what is not taken.
    pub(super) fn show(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            // Where nobody takes it, the next flush says so.
            let _ = self.output.write(bytes);
        }
    }

    /// Says something beside the output, on a line of its own.
    pub(super) fn notice(&self, text: &str) {
        let name = self.config.name;
        match self.terminal {
            Some(_) => stdio::say_raw(&format!("{name} {text}")),
            None => {
                if stdio::is_same_file() && self.output.is_mid_line(true) {
                    stdio::end_line();
                }
                stdio::say(&format!("{name} {text}"));
            }
        }
    }

    /// Shows something although nobody waits for our output any more.
    pub(super) fn show_and_flush(&mut self, bytes: &[u8]) {
        self.show(bytes);
        self.output.flush_with_timeout();
    }

    /// The argument of `--attach` that finds this session again.
    pub(super) fn attach_argument(&self) -> Option<String> {
        self.reconnect.key.as_ref().map(SessionKey::attach_argument)
    }
}
