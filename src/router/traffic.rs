//! Bytes between a client and its terminal.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::table::{Key, Source};
use super::timers::Due;
use super::{BUFFER, GatewayLoop};
use crate::session::{Ends, Session, Verdict};
use fpty::sys::child::Pid;
use fpty::sys::pipe::Pipe;
use fpty::sys::poll::{Interest, Poller, Ready};
use fpty::sys::processors::Parallel;
use fpty::sys::pty::Master;
use fpty::sys::socket::{Stream, Transport};
use fpty::sys::{Read, Size, Written};

/// A terminal yields at most this much at once, whatever one asks for.
const ONE_READ: usize = 4096;

/// After a read of less than this there is most likely nothing more.
const MORE_LIKELY: usize = 1024;

/// Who sends as much at once is no person that types.
const BULK: u32 = 1024;

/// The first and the longest wait before looking whether the program reads
/// at the end of its input again, in milliseconds.
const END_OF_INPUT_FIRST: u16 = 20;
const END_OF_INPUT_LAST: u16 = 1000;

/// How often a client that could leave unheard is looked after.
const UNHEARD: Duration = Duration::from_secs(1);

/// How long a client may leave output unanswered that the kernel sends again
/// and again: as long as an idle one may leave keepalive probes. (By itself the
/// kernel gives up after a quarter of an hour.)
const UNANSWERED: Duration = Duration::from_secs(120);

/// How often that is looked after, while there is such output.
const UNANSWERED_LOOK: Duration = Duration::from_secs(20);

/// How often a program that closed its terminal is looked after.
const REOPENED: Duration = Duration::from_millis(200);

/// A session and what it is connected to.
pub struct Attached {
    pub session: Session,
    pub wires: Wires,
    pub transport: Transport,
    /// What the poller was told.
    pub client_interest: Interest,
    /// What the poller was told; `None`: it does not have the descriptor.
    pub terminal_interest: Option<Interest>,
    /// How much the client sent last.
    last_input: u32,
    /// How much the program wrote last.
    last_output: u32,
    /// Whether it is looked after as a terminal that may be opened again.
    reopens: bool,
    /// Whether its client is looked after as one that could leave unheard.
    unheard: bool,
    /// Whether it is looked after as one whose machine could be gone.
    unanswered: bool,
    /// How often a terminal that outlives its program still had output.
    pub drains: u8,
    /// The wait before the end of the input is looked after again, in
    /// milliseconds; 0: it has not ended.
    end_of_input: u16,
    /// When a byte last went either way; kept only for the idle timeout.
    last_traffic: Option<Box<Instant>>,
}

/// The two ends of a session.
pub struct Wires {
    pub client: Stream,
    pub master: Master,
    /// The session's process until it is reaped: then its number is no longer
    /// its own.
    pub program: Option<Pid>,
}

impl Attached {
    /// A session just begun.
    pub fn new(session: Session, wires: Wires, transport: Transport) -> Self {
        Self {
            session,
            wires,
            transport,
            client_interest: Interest::READ,
            terminal_interest: None,
            last_input: 0,
            last_output: 0,
            reopens: false,
            unheard: false,
            unanswered: false,
            drains: 0,
            end_of_input: 0,
            last_traffic: None,
        }
    }
}

impl Ends for Wires {
    fn write_terminal(&mut self, bytes: &[u8]) -> Written {
        self.master.write(bytes)
    }

    fn write_client(&mut self, bytes: &[u8]) -> Written {
        self.client.write(bytes)
    }

    fn resize(&mut self, size: Size) {
        let _ = self.master.resize(size);
    }

    /// What a key of a terminal can raise goes to whom the terminal would
    /// send it: the foreground job. Everything else is meant for the program.
    fn signal(&mut self, number: u8) {
        let number = i32::from(number);
        const OF_A_TERMINAL: [i32; 3] =
            [Signal::SIGINT as i32, Signal::SIGQUIT as i32, Signal::SIGTSTP as i32];
        if OF_A_TERMINAL.contains(&number) {
            let _ = self.master.signal_foreground(number);
        } else if let Some(program) = self.program {
            let _ = program.signal(number);
        }
    }
}

impl GatewayLoop {
    /// Whether an event is about one end of a stream, which takes a while to
    /// pass on: there is more of it, or room for what there was.
    pub(super) fn is_bulk(&mut self, ready: Ready) -> bool {
        let (key, of_client) = match Source::of(ready.token) {
            Source::Client(key) => (key, true),
            Source::Terminal(key) => (key, false),
            _ => return false,
        };
        self.sessions.get_mut(key).is_some_and(|attached| {
            let (input, output) = (attached.last_input >= BULK, attached.last_output >= BULK);
            let (more, room) = if of_client { (input, output) } else { (output, input) };
            more || (ready.write && room)
        })
    }

    /// The client sent something, takes output again, or left.
    pub(super) fn client_ready(&mut self, key: Key, ready: Ready) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        if self.config.timeout.is_some() {
            attached.note_traffic();
        }
        let Attached { session, wires, last_input, .. } = attached;
        if ready.write {
            session.client_writable(wires);
        }
        if ready.read && session.client_interest().read {
            match wires.client.read_into(&mut self.input) {
                Read::Bytes(count) => {
                    // No more than BUFFER.
                    *last_input = count as u32;
                    #[cfg(feature = "fault-injection")]
                    super::fault::strike(&self.input);
                    session.client_sent(&mut self.input, &mut self.gather, wires);
                }
                // A UNIX socket that was closed is hung up as well; one whose
                // writing half was shut down is not.
                Read::End if ready.hang_up => session.client_left(),
                Read::End => session.client_ended(),
                Read::Gone => session.client_left(),
                Read::Blocked => {}
            }
        } else if ready.hang_up {
            session.client_left();
        } else if ready.read {
            let wanted = session.client_interest();
            attached.watch_client(key, wanted, &self.poller);
        }
        self.settle(key);
    }

    /// The program wrote something, takes input again, or closed its terminal.
    pub(super) fn terminal_ready(&mut self, key: Key, ready: Ready) {
        // Whoever is alone keeps nobody waiting.
        let alone = self.sessions.len() == 1;
        let in_parallel = self.parallel != Parallel::Nothing;
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        if self.config.timeout.is_some() {
            attached.note_traffic();
        }
        if ready.write {
            attached.session.terminal_writable(&mut attached.wires);
        }
        if ready.read || ready.hang_up {
            if attached.session.terminal_interest().read {
                let poller = &self.poller;
                // With several processors the stream's client can take the one
                // read meanwhile. The poll comes first all the same: without
                // it an echo beside a stream took a third longer.
                let wait = || !alone && (poller.others_ready(ready.token) || in_parallel);
                attached.read_terminal(&mut self.buffer, &mut self.pipe, ready.hang_up, wait);
            } else if ready.hang_up {
                // A hang-up is told again and again, asked for or not: until
                // its client reads again the poller does without it.
                attached.forget_terminal(&self.poller);
            }
        }
        if attached.transport == Transport::Tcp && !attached.unanswered {
            attached.unanswered = true;
            self.after(UNANSWERED_LOOK, Due::Unanswered(key));
        }
        self.settle(key);
    }

    /// After anything that happened to a session: ends it, or waits for what
    /// it needs now.
    pub(super) fn settle(&mut self, key: Key) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        match attached.session.verdict() {
            Verdict::Lives => {}
            Verdict::Over => return self.close(key),
            Verdict::Abandoned => return self.abandon(key),
            Verdict::Starved => {
                let line = "forkptyrouter: session ended: out of memory";
                // In the midst of output that it does not read it would be
                // misread.
                if !attached.session.has_output() {
                    let _ = attached.wires.client.write(format!("\r\n{line}\r\n").as_bytes());
                }
                self.spare.log(line);
                return self.close(key);
            }
        }
        let wanted = attached.session.client_interest();
        // What is not wanted any more is taken back when it comes
        // (client_ready): most often it never does.
        if wanted.write != attached.client_interest.write
            || (wanted.read && !attached.client_interest.read)
        {
            attached.watch_client(key, wanted, &self.poller);
        }
        if !attached.session.terminal_open() {
            attached.forget_terminal(&self.poller);
            if attached.session.program_runs() && !attached.reopens {
                attached.reopens = true;
                self.after(REOPENED, Due::Reopened(key));
            }
            return;
        }
        let wanted = attached.session.terminal_interest();
        if attached.terminal_interest != Some(wanted) {
            attached.watch_terminal(key, wanted, &self.poller);
        }
        if attached.transport == Transport::Tcp && !attached.unheard && attached.session.is_deaf() {
            attached.unheard = true;
            self.after(UNHEARD, Due::Unheard(key));
            return;
        }
        if attached.end_of_input == 0 && attached.session.wants_end_of_input() {
            attached.end_of_input = END_OF_INPUT_FIRST;
            self.end_of_input(key);
        }
    }

    /// The client sends no more: whenever the program reads and nothing is
    /// left, it gets an end of file, as often as it asks; a pipe's reader
    /// would. What a client sends at once may be for several programs in turn.
    pub(super) fn end_of_input(&mut self, key: Key) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        let wait = attached.end_of_input;
        if attached.transport == Transport::Tcp
            && self.local_tcp.peer_has_closed(&attached.wires.client)
        {
            return self.abandon(key);
        }
        // Less and less often: a program that does not take it for the end
        // (IGNOREEOF) would else be told in a rage.
        attached.end_of_input = (wait * 2).min(END_OF_INPUT_LAST);
        if attached.session.wants_end_of_input() {
            attached.wires.master.end_input();
        }
        self.after(Duration::from_millis(wait.into()), Due::EndOfInput(key));
    }

    /// A client whose input the program does not read may have left: over TCP
    /// the end of what it sent comes after all that it sent.
    pub(super) fn unheard(&mut self, key: Key) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        attached.unheard = false;
        if attached.session.is_deaf() && self.local_tcp.peer_has_closed(&attached.wires.client) {
            self.abandon(key);
        } else {
            self.settle(key);
        }
    }

    /// A client may have vanished while there was output for it.
    pub(super) fn unanswered(&mut self, key: Key) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        match attached.wires.client.unanswered_for() {
            None => attached.unanswered = false,
            Some(silence) if silence >= UNANSWERED => self.abandon(key),
            Some(_) => self.after(UNANSWERED_LOOK, Due::Unanswered(key)),
        }
    }

    /// A program that closed its terminal may have opened it again.
    pub(super) fn reopened(&mut self, key: Key) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        attached.reopens = false;
        if attached.session.terminal_open() || !attached.session.program_runs() {
            return;
        }
        // Not before the client has read what there was: it would pile up.
        if !attached.session.has_output() {
            attached.session.terminal_reopened();
            attached.read_terminal(&mut self.buffer, &mut self.pipe, false, || false);
        }
        self.settle(key);
    }

    /// Looks whether a session has been idle for too long.
    pub(super) fn idle(&mut self, key: Key) {
        let (Some(timeout), Some(attached)) = (self.config.timeout, self.sessions.get_mut(key))
        else {
            return;
        };
        let idle = attached.last_traffic.as_ref().map_or(timeout, |last| last.elapsed());
        if idle < timeout {
            return self.after(timeout - idle, Due::Idle(key));
        }
        let line =
            format!("forkptyrouter: session ended: no traffic for {} seconds", timeout.as_secs());
        attached.session.dismiss(&line, &mut attached.wires);
        self.after(Duration::from_secs(5), Due::Dismissed(key));
        self.settle(key);
    }
}

impl Attached {
    /// Reads what the program wrote, as long as there is more and room for
    /// it and nobody else waits, and passes it on in one write: a terminal
    /// yields little at once, and each write wakes the client. Of one that was
    /// hung up what is left, and its end. What comes in a stream goes through
    /// the pipe, which is empty before and after. Returns whether there was
    /// anything.
    pub(super) fn read_terminal(
        &mut self,
        buffer: &mut [u8; BUFFER],
        pipe: &mut Option<Pipe>,
        hung_up: bool,
        somebody_waits: impl Fn() -> bool,
    ) -> bool {
        let mut have = 0;
        let mut ended = false;
        // That takes a system call more, so it pays where there are many reads.
        let mut none = None;
        let pipe = if self.last_output as usize > ONE_READ { pipe } else { &mut none };
        while have + ONE_READ <= BUFFER {
            let read = match pipe {
                None => self.wires.master.read(&mut buffer[have..]),
                Some(through) => match through.fill(&self.wires.master, ONE_READ) {
                    Some(read) => read,
                    None if have > 0 => break,
                    None => {
                        *pipe = None;
                        continue;
                    }
                },
            };
            match read {
                Read::Bytes(count) => {
                    have += count;
                    let more_likely = hung_up || count >= MORE_LIKELY;
                    if !more_likely || (count >= MORE_LIKELY && somebody_waits()) {
                        break;
                    }
                }
                Read::Blocked => break,
                Read::End | Read::Gone => {
                    ended = true;
                    break;
                }
            }
        }
        // No more than BUFFER.
        self.last_output = have as u32;
        let spoke = have > 0;
        if let Some(pipe) = pipe {
            have -= pipe.flush(&self.wires.client, have);
            // What the client does not take waits elsewhere: the pipe is for
            // the next one.
            if have > 0 {
                pipe.read(&mut buffer[..have]);
            }
        }
        if have > 0 {
            self.session.terminal_sent(&buffer[..have], &mut self.wires);
        }
        if ended {
            self.session.terminal_ended();
        }
        spoke
    }

    fn note_traffic(&mut self) {
        let now = Instant::now();
        **self.last_traffic.get_or_insert_with(|| Box::new(now)) = now;
    }

    fn watch_client(&mut self, key: Key, wanted: Interest, poller: &Poller) {
        let _ = poller.change(self.wires.client.as_fd(), Source::Client(key).token(), wanted);
        self.client_interest = wanted;
    }

    fn watch_terminal(&mut self, key: Key, wanted: Interest, poller: &Poller) {
        let token = Source::Terminal(key).token();
        let master = self.wires.master.as_fd();
        let _ = match self.terminal_interest {
            Some(_) => poller.change(master, token, wanted),
            // Hung up, and nobody reads: see terminal_ready.
            None if !wanted.read => return,
            None => poller.add(master, token, wanted),
        };
        self.terminal_interest = Some(wanted);
    }

    pub(super) fn forget_terminal(&mut self, poller: &Poller) {
        if self.terminal_interest.take().is_some() {
            let _ = poller.remove(self.wires.master.as_fd());
        }
    }
}
