//! The handover of the terminal: the server sends its master, and from then on the bytes
//! do not pass through the server.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::error::{Error, Result};
use crate::exit_status::session_end;
use crate::proto::{EndKind, OFFER_MASTER, OFFER_PIDFD, OFFER_RING, SessionEnd};
use crate::scrollback::ScrollbackWriter;
use crate::sys::child::Exit;
use crate::sys::peer_process::ReceivedFds;
use crate::sys::pidfd::PidFd;
use crate::sys::pty::Master;
use crate::sys::{ReadOutcome, Size};

/// How often a terminal that its program closed is looked after: login(1) and
/// getty(8) hang up and open again.
const REOPEN_POLL: Duration = Duration::from_millis(200);

/// How long the terminal of an ended program may stay silent before the end
/// is the end, where something else holds it open; and how often it may have
/// had something to say.
const DRAIN_SILENCE: Duration = Duration::from_millis(50);
const MAX_DRAINS: u8 = 20;

/// Time that the process which inherited a program may take to reap it.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);
const REAP_POLL: Duration = Duration::from_millis(50);

/// The first and the longest wait before the program is told again that the
/// input has ended.
const EOF_RETRY_FIRST: Duration = Duration::from_millis(20);
const EOF_RETRY_MAX: Duration = Duration::from_secs(1);

/// A terminal that was handed over.
pub struct HandedOverTerminal {
    master: Master,
    program: Option<PidFd>,
    /// The slave is closed; when the master is read again.
    closed: Option<Instant>,
    /// The program has ended: what is left is read until then.
    drain_until: Option<(Instant, u8)>,
    /// The server is gone: how the program ends is asked of the kernel.
    orphan_ended_at: Option<Instant>,
    /// The input has ended: the program is told then, and how long after that
    /// again.
    input_ends: Option<(Instant, Duration)>,
}

/// The state of the handover: who has the terminal's master.
#[derive(Default)]
pub enum Handover {
    /// The server's.
    #[default]
    NotOffered,
    /// The offer was accepted; the master waits for GO, or only the ring was offered.
    Accepted(Option<HandedOverTerminal>),
    /// The server's for good: what it has offered was lost on the way.
    NotArrived,
    /// The client has the master, and reads and writes it.
    HandedOver(HandedOverTerminal),
}

/// Result of an offer of descriptors.
#[derive(Debug)]
pub enum OfferOutcome {
    /// All of the descriptors; the ring of the last output, if that is among them.
    Arrived(Option<OwnedFd>),
    /// No descriptor has arrived.
    Lost,
}

impl Handover {
    /// The terminal, where it is ours to use.
    pub fn terminal(&self) -> Option<&HandedOverTerminal> {
        match self {
            Handover::HandedOver(terminal) => Some(terminal),
            _ => None,
        }
    }

    /// The terminal that was handed over, to be changed.
    pub fn terminal_mut(&mut self) -> Option<&mut HandedOverTerminal> {
        match self {
            Handover::HandedOver(terminal) => Some(terminal),
            _ => None,
        }
    }

    /// Whether we wait for the word to go on.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Handover::Accepted(_))
    }

    /// Takes what was offered; returns the ring of the last output, if that
    /// is among it. Where nothing has arrived there is something between us and
    /// the server that passes bytes alone (`ssh -L`, a proxy): the server is to
    /// keep all of it ([`OfferOutcome::Lost`]).
    ///
    /// # Errors
    /// The descriptors are not those of an offer: the server is none of ours.
    pub fn accept_offer(&mut self, names: &[u8], received: ReceivedFds) -> Result<OfferOutcome> {
        if !matches!(self, Handover::NotOffered) {
            return Err(Error::new("the gateway offered its terminal twice"));
        }
        if !names.is_empty() && received.descriptors.is_empty() && !received.truncated {
            *self = Handover::NotArrived;
            return Ok(OfferOutcome::Lost);
        }
        let (terminal, ring) = HandedOverTerminal::of_offer(names, received)?;
        *self = Handover::Accepted(terminal);
        Ok(OfferOutcome::Arrived(ring))
    }

    /// The word to go on.
    ///
    /// # Errors
    /// Nothing was offered.
    pub fn go(&mut self) -> Result<()> {
        *self = match std::mem::take(self) {
            Handover::Accepted(Some(terminal)) => Handover::HandedOver(terminal),
            Handover::Accepted(None) => Handover::NotOffered,
            Handover::NotArrived => Handover::NotArrived,
            _ => return Err(Error::new("the gateway handed over what it had not offered")),
        };
        Ok(())
    }
}

impl HandedOverTerminal {
    fn of_offer(names: &[u8], received: ReceivedFds) -> Result<(Option<Self>, Option<OwnedFd>)> {
        if received.truncated || received.descriptors.len() != names.len() {
            return Err(Error::new(format!(
                "the gateway offered {} descriptors and sent {}",
                names.len(),
                received.descriptors.len()
            )));
        }
        let (mut master, mut program, mut ring) = (None, None, None);
        for (name, fd) in names.iter().zip(received.descriptors) {
            // Nothing that is offered is one; closing it here might take long.
            let is_socket = fd.is_socket();
            let Some(fd) = (!is_socket).then(|| fd.accept()) else {
                return Err(Error::new("the gateway offered something unknown"));
            };
            match *name {
                OFFER_MASTER if master.is_none() => master = Some(Master::received(fd)?),
                OFFER_PIDFD if program.is_none() => program = PidFd::received(fd),
                OFFER_RING if ring.is_none() => ring = Some(fd),
                _ => return Err(Error::new("the gateway offered something unknown")),
            }
        }
        if master.is_none() && (ring.is_none() || names.contains(&OFFER_PIDFD)) {
            return Err(Error::new("the gateway offered no terminal"));
        }
        let terminal = master.map(|master| Self {
            master,
            program,
            closed: None,
            drain_until: None,
            orphan_ended_at: None,
            input_ends: None,
        });
        Ok((terminal, ring))
    }

    /// Reads what the program wrote, as much as there is room for, and keeps
    /// it where it is to be kept; how much.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        mut scrollback: Option<&mut ScrollbackWriter>,
    ) -> usize {
        let mut have = 0;
        while have < buffer.len() {
            let room = &mut buffer[have..];
            let read = match &mut scrollback {
                Some(remains) => remains.read(&self.master, room),
                None => self.master.read(room),
            };
            match read {
                ReadOutcome::Bytes(count) => have += count,
                ReadOutcome::WouldBlock => {
                    self.closed = None;
                    break;
                }
                ReadOutcome::Eof | ReadOutcome::Closed => {
                    self.closed = Some(Instant::now() + REOPEN_POLL);
                    break;
                }
            }
        }
        if have > 0 {
            if let Some((at, drains)) = &mut self.drain_until {
                if *drains < MAX_DRAINS {
                    (*at, *drains) = (Instant::now() + DRAIN_SILENCE, *drains + 1);
                }
            }
        }
        have
    }

    /// Writes input; how much was taken. `None`: nobody ever takes it.
    pub fn write(&self, bytes: &[u8]) -> Option<usize> {
        self.master.write(bytes).taken()
    }

    /// The terminal's size.
    pub fn size(&self) -> Option<Size> {
        self.master.size()
    }

    /// Sets the size.
    pub fn resize(&self, size: Size) {
        let _ = self.master.resize(size);
    }

    /// Whether more output may come.
    pub fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    /// The program has ended, says the server: what is left is read, for so
    /// long as a background job that holds the terminal open has something to
    /// say.
    pub fn program_ended(&mut self) {
        if self.drain_until.is_none() {
            self.drain_until = Some((Instant::now() + DRAIN_SILENCE, 0));
        }
    }

    /// Whether everything that the ended program wrote was read.
    pub fn is_drained(&self) -> bool {
        self.drain_until.is_some_and(|(at, _)| !self.is_open() || Instant::now() >= at)
    }

    /// The end of the input: the program is to read an end of file.
    pub fn end_input(&mut self) {
        if self.input_ends.is_none() {
            self.input_ends = Some((Instant::now(), EOF_RETRY_FIRST));
        }
    }

    /// The end of the session, where the server is gone and so cannot report it;
    /// `None`: the session goes on.
    pub fn end_without_server(&mut self) -> Option<SessionEnd> {
        let over = match &self.program {
            Some(program) => program.is_over(),
            None => !self.is_open(),
        };
        if !over {
            return None;
        }
        self.program_ended();
        if !self.is_drained() {
            return None;
        }
        let ended = *self.orphan_ended_at.get_or_insert_with(Instant::now);
        if let Some(exit) = self.program.as_ref().and_then(PidFd::exit) {
            return Some(if is_ended_by_next_gateway(exit) {
                SessionEnd::new(EndKind::Lost, "the gateway is gone, and what kept the session")
            } else {
                session_end(exit)
            });
        }
        (self.program.is_none() || ended.elapsed() >= REAP_TIMEOUT).then(|| {
            let why = "the gateway is gone, and this kernel does not tell the program's status";
            SessionEnd::new(EndKind::Lost, why)
        })
    }

    /// Does what is due; returns when the next thing is.
    pub fn run_timers(&mut self, server_closed: bool) -> Option<Instant> {
        let now = Instant::now();
        if self.closed.is_some_and(|at| now >= at) {
            // To be found open, or closed still, by the next read.
            self.closed = None;
        }
        if let Some((at, wait)) = self.input_ends.filter(|(at, _)| now >= *at) {
            self.master.end_input();
            self.input_ends = Some((at.max(now) + wait, (wait * 2).min(EOF_RETRY_MAX)));
        }
        let look = (server_closed && self.program.as_ref().is_some_and(PidFd::is_over))
            .then(|| now + REAP_POLL);
        [self.closed, self.drain_until.map(|(at, _)| at), self.input_ends.map(|(at, _)| at), look]
            .into_iter()
            .flatten()
            .min()
    }

    /// The program's pidfd, to be polled: readable when the program has ended.
    pub fn program(&self) -> Option<BorrowedFd<'_>> {
        self.program.as_ref().map(AsFd::as_fd)
    }
}

/// Whether a program that nobody looks after any more ended as the next gateway ends
/// it, which cannot find its session: it is hung up, and killed after the grace.
fn is_ended_by_next_gateway(exit: Exit) -> bool {
    let ends = [Signal::SIGHUP as i32, Signal::SIGKILL as i32];
    matches!(exit, Exit::Signal { number, .. } if ends.contains(&number))
}

impl AsFd for HandedOverTerminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::OwnedFd;

    fn received(paths: &[&str]) -> ReceivedFds {
        let open = |path: &&str| OwnedFd::from(File::options().read(true).open(path).unwrap());
        ReceivedFds::of(paths.iter().map(open).collect())
    }

    #[test]
    fn only_a_terminal_is_taken() {
        for (names, paths) in [
            ("", vec![]),
            ("mp", vec!["/dev/ptmx"]),
            ("m", vec!["/dev/ptmx", "/dev/ptmx"]),
            ("", vec!["/dev/ptmx"]),
            ("m", vec!["/dev/null"]),
            ("m", vec!["/"]),
            ("m", vec!["/etc/passwd"]),
            ("mm", vec!["/dev/ptmx", "/dev/ptmx"]),
            ("p", vec!["/dev/ptmx"]),
            ("x", vec!["/dev/ptmx"]),
            ("rr", vec!["/dev/null", "/dev/null"]),
            ("pr", vec!["/dev/null", "/dev/null"]),
        ] {
            let mut handover = Handover::default();
            let outcome = handover.accept_offer(names.as_bytes(), received(&paths));
            assert!(outcome.is_err(), "{names} {paths:?}");
            assert!(matches!(handover, Handover::NotOffered));
        }
        let mut cut = received(&["/dev/ptmx"]);
        cut.truncated = true;
        assert!(Handover::default().accept_offer(b"m", cut).is_err());
    }

    /// An offer without descriptors, as through a proxy.
    #[test]
    fn what_was_lost_on_the_way_is_the_servers() {
        let mut handover = Handover::default();
        assert!(matches!(handover.accept_offer(b"mpr", received(&[])), Ok(OfferOutcome::Lost)));
        assert!(!handover.is_accepted() && handover.terminal().is_none());
        assert!(handover.go().is_ok() && handover.terminal().is_none());
        assert!(handover.accept_offer(b"m", received(&[])).is_err());
        let mut cut = received(&[]);
        cut.truncated = true;
        assert!(Handover::default().accept_offer(b"m", cut).is_err());
    }

    #[test]
    fn the_word_comes_after_the_offer() {
        assert!(Handover::default().go().is_err());
        let (master, _slave) =
            crate::sys::pty::open(Size { rows: 24, cols: 80 }).expect("a terminal");
        let fd = master.as_fd().try_clone_to_owned().unwrap();
        let mut handover = Handover::default();
        handover.accept_offer(b"m", ReceivedFds::of(vec![fd])).unwrap();
        assert!(handover.is_accepted() && handover.terminal().is_none());
        assert!(handover.accept_offer(b"m", received(&["/dev/ptmx"])).is_err());
        handover.go().unwrap();
        assert!(handover.terminal().is_some());
        assert!(handover.go().is_err());
    }
}
