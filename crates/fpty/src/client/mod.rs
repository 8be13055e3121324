//! `--pty-connect` and `--pty-uconnect`: connects the terminal that a person
//! sits at, or a script's pipes, to a pty server.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | the loop: keys to the server, output from it, signals |
//! | `escape.rs` | `~.` and its like |

mod escape;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;

use crate::error::{Context, Result};
use crate::proto::{self, Protocol};
use crate::relay::Backlog;
use crate::sys::peer::Sender;
use crate::sys::signal::{Arrived, Signals, stop_ourselves};
use crate::sys::socket::{Stream, connect};
use crate::sys::stdio::{self, Output};
use crate::sys::termios::RawMode;
use crate::sys::{Read, pty};

use escape::{Escapes, Typed};

/// Exit status of a normal end.
pub const NORMAL: i32 = 0;
/// Exit status when no session came about.
pub const NOT_ATTACHED: i32 = 255;
/// Exit status when the connection broke.
pub const LOST: i32 = 254;

/// How long a server may take to answer a TCP connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of one read.
const BUFFER: usize = 64 * 1024;

/// Input that may wait for the server before no more is read.
const INPUT_LIMIT: usize = 64 * 1024;

/// After the end of our input the server is told of it when it has been
/// silent for so long, or after so long in all: the C router ends the session
/// at once when it hears of it, whatever output is under way.
const QUIET: Duration = Duration::from_millis(100);
const QUIET_AT_LAST: Duration = Duration::from_secs(1);

/// The signals that we take by reading them.
const SIGNALS: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// The client's configuration.
#[derive(Clone, Debug)]
pub struct Client {
    /// The router's address.
    pub address: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether Ctrl-C, Ctrl-\ and Ctrl-Z are signals here.
    pub isig: bool,
    /// Whether `~.` and its like mean something.
    pub escapes: bool,
}

/// Why a session is over.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The server ended it.
    Normal,
    /// The person left by `~.`.
    Left,
    /// The connection broke.
    Lost(&'static str),
    /// A signal ended us.
    Signal(Signal),
    /// Nobody reads our output.
    OutputClosed,
}

/// Runs a session and returns the status to exit with.
pub fn run(config: &Client) -> i32 {
    match attach(config) {
        Ok(end) => {
            let (status, line) = match end {
                End::Normal => (NORMAL, None),
                End::Left => (NORMAL, Some(format!("left {}", config.address))),
                End::Lost(why) => {
                    (LOST, Some(format!("connection to {} lost: {why}", config.address)))
                }
                End::Signal(signal) => (128 + signal as i32, Some(format!("ended by {signal}"))),
                End::OutputClosed => (128 + Signal::SIGPIPE as i32, None),
            };
            if let Some(line) = line {
                stdio::say(&format!("[pty] {line}"));
            }
            status
        }
        Err(error) => {
            stdio::say(&format!("[pty] {error}"));
            NOT_ATTACHED
        }
    }
}

fn attach(config: &Client) -> Result<End> {
    let stream = connect(&config.address, PATIENCE)?;
    // Before the terminal changes, so that nothing can end us in between.
    let signals = Signals::instead_of_handlers(&SIGNALS).context("cannot read signals")?;
    let output = Output::stdout().context("cannot write to standard output")?;
    let terminal = match stdio::stdin_is_a_terminal() {
        true => Some(RawMode::enter(config.isig).context("cannot set the terminal's mode")?),
        false => None,
    };
    let mut session = Session {
        escapes: (config.escapes && terminal.is_some()).then(Escapes::new),
        config,
        stream,
        signals,
        output,
        terminal,
        to_server: Backlog::default(),
        to_output: Backlog::default(),
        resize_due: config.protocol == Protocol::Uwsgi,
        input: Input::Open,
        server_ended: false,
        lost: None,
        sender: None,
        buffer: vec![0; BUFFER],
        passed: Vec::new(),
    };
    Ok(session.run())
}

/// Where our input stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// There may be more.
    Open,
    /// It ended at the first time; the server last said something at the second.
    Ended(Instant, Instant),
    /// The server knows.
    Told,
}

/// A session as the client sees it.
struct Session<'a> {
    config: &'a Client,
    stream: Stream,
    signals: Signals,
    output: Output,
    /// Restores the terminal when the session is dropped, a panic included.
    terminal: Option<RawMode>,
    escapes: Option<Escapes>,
    /// What the server has not taken yet: whole packets in uwsgi mode.
    to_server: Backlog,
    /// What our output has not taken yet.
    to_output: Backlog,
    resize_due: bool,
    input: Input,
    server_ended: bool,
    lost: Option<&'static str>,
    sender: Option<Sender>,
    buffer: Vec<u8>,
    passed: Vec<u8>,
}

impl Session<'_> {
    fn run(&mut self) -> End {
        loop {
            if let Some(end) = self.flush() {
                return end;
            }
            if self.server_ended && self.to_output.is_empty() {
                return self.how_it_ended();
            }
            let ready = self.wait();
            if ready.signal {
                while let Some(arrived) = self.signals.next() {
                    if let Some(end) = self.signal(arrived) {
                        return end;
                    }
                }
            }
            if ready.server {
                if let Some(end) = self.server_said() {
                    return end;
                }
            }
            if ready.input {
                if let Some(end) = self.typed() {
                    return end;
                }
            }
            if ready.output_closed {
                return End::OutputClosed;
            }
        }
    }

    /// Waits until one of the ends has something, or takes something.
    fn wait(&mut self) -> Ready {
        let stopped = self.terminal.as_ref().is_some_and(|terminal| !terminal.is_raw());
        let reads_server = !self.server_ended && self.to_output.is_empty();
        let reads_input = self.input == Input::Open
            && !stopped
            && !self.server_ended
            && self.to_server.len() < INPUT_LIMIT;

        let mut server = PollFlags::empty();
        server.set(PollFlags::POLLIN, reads_server);
        server.set(PollFlags::POLLOUT, !self.to_server.is_empty());
        let mut output = PollFlags::empty();
        output.set(PollFlags::POLLOUT, !self.to_output.is_empty());
        // An end that is not waited for is left out: poll(2) tells a hang-up
        // uncalled for, again and again.
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let server_at = (!server.is_empty()).then(|| {
            polled.push(PollFd::new(self.stream.as_fd(), server));
            polled.len() - 1
        });
        let input_at = reads_input.then(|| {
            polled.push(PollFd::new(stdio::stdin(), PollFlags::POLLIN));
            polled.len() - 1
        });
        // Output that is a pipe whose reader has gone is worth knowing even
        // while there is nothing to write.
        polled.push(PollFd::new(self.output.as_fd(), output));
        let output_at = polled.len() - 1;

        let timeout = self.quiet_in().map_or(PollTimeout::NONE, |wait| {
            let millis = u16::try_from(wait.as_millis() + 1).unwrap_or(u16::MAX);
            PollTimeout::from(millis)
        });
        let _ = nix::poll::poll(&mut polled, timeout);
        let at =
            |index: Option<usize>| index.is_some_and(|index| polled[index].any() == Some(true));
        let output_closed = polled[output_at]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL));
        Ready {
            signal: at(Some(0)),
            server: reads_server && at(server_at),
            input: at(input_at),
            output_closed,
        }
    }

    /// Writes what waits, as far as it is taken.
    fn flush(&mut self) -> Option<End> {
        if self.resize_due && self.to_server.is_empty() && !self.server_ended {
            self.resize_due = false;
            if let Some(size) = pty::size_of_ours() {
                self.to_server.push(&proto::encode_rows_and_cols(size.rows, size.cols));
            }
        }
        if !self.server_ended && !self.to_server.flush(|bytes| self.stream.write(bytes).taken()) {
            // What it said before it went is still to be read.
            self.to_server.clear();
        }
        if self.to_server.is_empty() && self.quiet_in() == Some(Duration::ZERO) {
            self.stream.end();
            self.input = Input::Told;
        }
        let read = self.to_output.flush(|bytes| self.output.write(bytes).taken());
        (!read).then_some(End::OutputClosed)
    }

    /// How long until the server is told of the end of our input, where it
    /// is to be told.
    fn quiet_in(&self) -> Option<Duration> {
        let Input::Ended(ended, heard) = self.input else {
            return None;
        };
        let now = Instant::now();
        let quiet = (heard + QUIET).min(ended + QUIET_AT_LAST);
        self.to_server.is_empty().then(|| quiet.saturating_duration_since(now))
    }

    fn server_said(&mut self) -> Option<End> {
        match self.stream.read_noting_sender(&mut self.buffer, &mut self.sender) {
            Read::Bytes(count) => {
                self.to_output.push(&self.buffer[..count]);
                if let Input::Ended(_, heard) = &mut self.input {
                    *heard = Instant::now();
                }
                None
            }
            Read::Blocked => None,
            Read::End => {
                self.server_ended = true;
                None
            }
            Read::Gone => {
                self.lost = Some("reset by the server");
                self.server_ended = true;
                None
            }
        }
    }

    fn typed(&mut self) -> Option<End> {
        let count = match stdio::read(stdio::stdin(), &mut self.buffer) {
            Read::Bytes(count) => count,
            Read::Blocked => return None,
            Read::End => {
                let now = Instant::now();
                self.input = Input::Ended(now, now);
                return None;
            }
            // The terminal is gone, and the person with it.
            Read::Gone => return Some(End::Signal(Signal::SIGHUP)),
        };
        let mut at = 0;
        while at < count {
            let mut passed = std::mem::take(&mut self.passed);
            passed.clear();
            let (typed, taken) = match &mut self.escapes {
                Some(escapes) => escapes.filter(&self.buffer[at..count], &mut passed),
                None => {
                    passed.extend_from_slice(&self.buffer[at..count]);
                    (Typed::Pass, count - at)
                }
            };
            at += taken;
            self.send_input(&passed);
            self.passed = passed;
            match typed {
                Typed::Pass => {}
                Typed::Leave => return Some(End::Left),
                Typed::Help => self.to_output.push(escape::HELP.as_bytes()),
                Typed::Suspend => self.suspend(),
            }
        }
        None
    }

    fn send_input(&mut self, bytes: &[u8]) {
        match self.config.protocol {
            Protocol::Raw => self.to_server.push(bytes),
            Protocol::Uwsgi => {
                let mut packets = Vec::with_capacity(bytes.len() + 8);
                proto::encode_input(bytes, &mut packets);
                self.to_server.push(&packets);
            }
        }
    }

    fn signal(&mut self, Arrived { signal, by_terminal }: Arrived) -> Option<End> {
        match signal {
            Signal::SIGWINCH => self.resize_due = self.config.protocol == Protocol::Uwsgi,
            // We stopped and go on.
            Signal::SIGCONT => self.resume(),
            // A key's signal is meant for whoever works at the other end,
            // where there is a packet for it.
            Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTSTP
                if by_terminal && self.config.protocol == Protocol::Uwsgi =>
            {
                // Between 1 and 31.
                self.to_server.push(&proto::encode_signal(signal as u8));
            }
            Signal::SIGTSTP => self.suspend(),
            other => return Some(End::Signal(other)),
        }
        None
    }

    /// Stops us, with the terminal as it was before.
    fn suspend(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.suspend();
        }
        stop_ourselves();
        self.resume();
    }

    /// Goes on after a stop; in the background the terminal is not ours, and
    /// the next SIGCONT says more.
    fn resume(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            if !stdio::in_foreground() || terminal.resume().is_err() {
                return;
            }
        }
        self.resize_due = self.config.protocol == Protocol::Uwsgi;
    }

    /// Whether the session came to its end, or the server to its own.
    fn how_it_ended(&self) -> End {
        match self.lost {
            Some(why) => End::Lost(why),
            None if self.sender.as_ref().is_some_and(Sender::has_ended) => {
                End::Lost("the server is gone")
            }
            None => End::Normal,
        }
    }
}

/// What a wait found.
struct Ready {
    signal: bool,
    server: bool,
    input: bool,
    output_closed: bool,
}
