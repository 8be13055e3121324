//! The terminal itself, where the server hands it over: from then on its bytes
//! go straight from here to it and back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::error::{Error, Result};
use crate::exit_status::of_exit;
use crate::proto::{Ended, Ending, OFFER_MASTER, OFFER_PIDFD, OFFER_RING};
use crate::scrollback::Remains;
use crate::sys::child::Exit;
use crate::sys::peer_process::Passed;
use crate::sys::pidfd::PidFd;
use crate::sys::pty::Master;
use crate::sys::{Read, Size};

/// How often a terminal that its program closed is looked after: login(1) and
/// getty(8) hang up and open again.
const REOPENED: Duration = Duration::from_millis(200);

/// How long the terminal of an ended program may stay silent before the end
/// is the end, where something else holds it open; and how often it may have
/// had something to say.
const DRAIN: Duration = Duration::from_millis(50);
const DRAINS: u8 = 20;

/// How long whoever inherited a program may take to reap it.
const REAPED: Duration = Duration::from_secs(5);
const REAPED_LOOK: Duration = Duration::from_millis(50);

/// The first and the longest wait before the program is told again that the
/// input has ended.
const END_OF_INPUT_FIRST: Duration = Duration::from_millis(20);
const END_OF_INPUT_LAST: Duration = Duration::from_secs(1);

/// A terminal that was handed over.
pub struct Terminal {
    master: Master,
    program: Option<PidFd>,
    /// It is closed; it is looked at again then.
    closed: Option<Instant>,
    /// The program has ended: what is left is read until then.
    drained: Option<(Instant, u8)>,
    /// The server is gone: how the program ends is asked of the kernel.
    alone_since_end: Option<Instant>,
    /// The input has ended: the program is told then, and how long after that
    /// again.
    input_ends: Option<(Instant, Duration)>,
}

/// Whose the terminal is.
#[derive(Default)]
pub enum Takeover {
    /// The server's.
    #[default]
    Theirs,
    /// Ours, when all input before that has arrived; or the server's still,
    /// and only what it keeps of the output has come.
    Taken(Option<Terminal>),
    /// The server's for good: what it has offered was lost on the way.
    Declined,
    /// Ours.
    Ours(Terminal),
}

/// What has come of an offer.
#[derive(Debug)]
pub enum Offered {
    /// All of it; the ring of the last output, if that is among it.
    Arrived(Option<OwnedFd>),
    /// Nothing.
    Lost,
}

impl Takeover {
    /// The terminal, where it is ours to use.
    pub fn ours(&self) -> Option<&Terminal> {
        match self {
            Takeover::Ours(terminal) => Some(terminal),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub fn ours_mut(&mut self) -> Option<&mut Terminal> {
        match self {
            Takeover::Ours(terminal) => Some(terminal),
            _ => None,
        }
    }

    /// Whether we wait for the word to go on.
    pub fn is_taken(&self) -> bool {
        matches!(self, Takeover::Taken(_))
    }

    /// Takes what was offered; returns the ring of the last output, if that
    /// is among it. Where nothing has arrived there is something between us and
    /// the server that passes bytes alone (`ssh -L`, a proxy): the server is to
    /// keep all of it ([`Offered::Lost`]).
    ///
    /// # Errors
    /// It is not what an offer is made of: the server is none of ours.
    pub fn offered(&mut self, names: &[u8], arrived: Passed) -> Result<Offered> {
        if !matches!(self, Takeover::Theirs) {
            return Err(Error::new("the router offered its terminal twice"));
        }
        if !names.is_empty() && arrived.descriptors.is_empty() && !arrived.truncated {
            *self = Takeover::Declined;
            return Ok(Offered::Lost);
        }
        let (terminal, ring) = Terminal::of_offer(names, arrived)?;
        *self = Takeover::Taken(terminal);
        Ok(Offered::Arrived(ring))
    }

    /// The word to go on.
    ///
    /// # Errors
    /// Nothing was offered.
    pub fn go(&mut self) -> Result<()> {
        match std::mem::take(self) {
            Takeover::Taken(Some(terminal)) => {
                *self = Takeover::Ours(terminal);
                Ok(())
            }
            Takeover::Taken(None) => Ok(()),
            Takeover::Declined => {
                *self = Takeover::Declined;
                Ok(())
            }
            _ => Err(Error::new("the router handed over what it had not offered")),
        }
    }
}

impl Terminal {
    fn of_offer(names: &[u8], arrived: Passed) -> Result<(Option<Self>, Option<OwnedFd>)> {
        if arrived.truncated || arrived.descriptors.len() != names.len() {
            return Err(Error::new(format!(
                "the router offered {} descriptors and sent {}",
                names.len(),
                arrived.descriptors.len()
            )));
        }
        let (mut master, mut program, mut ring) = (None, None, None);
        for (name, fd) in names.iter().zip(arrived.descriptors) {
            // Nothing that is offered is one; closing it here might take long.
            let is_socket = fd.is_socket();
            let Some(fd) = (!is_socket).then(|| fd.accept()).flatten() else {
                return Err(Error::new("the router offered something unknown"));
            };
            match *name {
                OFFER_MASTER if master.is_none() => master = Some(Master::received(fd)?),
                OFFER_PIDFD if program.is_none() => program = PidFd::received(fd),
                OFFER_RING if ring.is_none() => ring = Some(fd),
                _ => return Err(Error::new("the router offered something unknown")),
            }
        }
        if master.is_none() && (ring.is_none() || names.contains(&OFFER_PIDFD)) {
            return Err(Error::new("the router offered no terminal"));
        }
        let terminal = master.map(|master| Self {
            master,
            program,
            closed: None,
            drained: None,
            alone_since_end: None,
            input_ends: None,
        });
        Ok((terminal, ring))
    }

    /// Reads what the program wrote, as much as there is room for, and keeps
    /// it where it is to be kept; how much.
    pub fn read(&mut self, buffer: &mut [u8], mut keeps: Option<&mut Remains>) -> usize {
        let mut have = 0;
        while have < buffer.len() {
            let room = &mut buffer[have..];
            let read = match &mut keeps {
                Some(remains) => remains.read(&self.master, room),
                None => self.master.read(room),
            };
            match read {
                Read::Bytes(count) => have += count,
                Read::Blocked => {
                    self.closed = None;
                    break;
                }
                Read::End | Read::Gone => {
                    self.closed = Some(Instant::now() + REOPENED);
                    break;
                }
            }
        }
        if have > 0 {
            if let Some((at, drains)) = &mut self.drained {
                if *drains < DRAINS {
                    (*at, *drains) = (Instant::now() + DRAIN, *drains + 1);
                }
            }
        }
        have
    }

    /// Writes input; how much was taken. `None`: nobody ever takes it.
    pub fn write(&self, bytes: &[u8]) -> Option<usize> {
        self.master.write(bytes).taken()
    }

    /// Its size.
    pub fn size(&self) -> Option<Size> {
        self.master.size()
    }

    /// Sets the size.
    pub fn resize(&self, size: Size) {
        let _ = self.master.resize(size);
    }

    /// Whether it is worth waiting for output.
    pub fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    /// The program has ended, says the server: what is left is read, for so
    /// long as a background job that holds the terminal open has something to
    /// say.
    pub fn program_ended(&mut self) {
        if self.drained.is_none() {
            self.drained = Some((Instant::now() + DRAIN, 0));
        }
    }

    /// Whether everything that the ended program wrote was read.
    pub fn is_drained(&self) -> bool {
        self.drained.is_some_and(|(at, _)| !self.is_open() || Instant::now() >= at)
    }

    /// There is no more input.
    pub fn end_input(&mut self) {
        if self.input_ends.is_none() {
            self.input_ends = Some((Instant::now(), END_OF_INPUT_FIRST));
        }
    }

    /// How the session ended, where the server is gone and so cannot say;
    /// `None`: it goes on.
    pub fn ended_alone(&mut self) -> Option<Ended> {
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
        let ended = *self.alone_since_end.get_or_insert_with(Instant::now);
        if let Some(exit) = self.program.as_ref().and_then(PidFd::exit) {
            return Some(if is_hung_up(exit) {
                Ended::because(Ending::Lost, "the gateway is gone, and what kept the session")
            } else {
                of_exit(exit)
            });
        }
        (self.program.is_none() || ended.elapsed() >= REAPED).then(|| {
            let why = "the gateway is gone, and this kernel does not tell the program's status";
            Ended::because(Ending::Lost, why)
        })
    }

    /// Does what is due; returns when the next thing is.
    pub fn when(&mut self, server_is_gone: bool) -> Option<Instant> {
        let now = Instant::now();
        if self.closed.is_some_and(|at| now >= at) {
            // To be found open, or closed still, by the next read.
            self.closed = None;
        }
        if let Some((at, wait)) = self.input_ends.filter(|(at, _)| now >= *at) {
            self.master.end_input();
            self.input_ends = Some((at.max(now) + wait, (wait * 2).min(END_OF_INPUT_LAST)));
        }
        let look = (server_is_gone && self.program.as_ref().is_some_and(PidFd::is_over))
            .then(|| now + REAPED_LOOK);
        [self.closed, self.drained.map(|(at, _)| at), self.input_ends.map(|(at, _)| at), look]
            .into_iter()
            .flatten()
            .min()
    }

    /// To be polled: becomes readable when the program ends.
    pub fn program(&self) -> Option<BorrowedFd<'_>> {
        self.program.as_ref().map(AsFd::as_fd)
    }
}

/// Whether a program that nobody looks after any more ended as the next gateway ends
/// it, which cannot find its session: it is hung up, and killed after the grace.
fn is_hung_up(exit: Exit) -> bool {
    let ends = [Signal::SIGHUP as i32, Signal::SIGKILL as i32];
    matches!(exit, Exit::Signal { number, .. } if ends.contains(&number))
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::OwnedFd;

    fn arrived(paths: &[&str]) -> Passed {
        let open = |path: &&str| OwnedFd::from(File::options().read(true).open(path).unwrap());
        Passed::of(paths.iter().map(open).collect())
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
            let mut takeover = Takeover::default();
            let outcome = takeover.offered(names.as_bytes(), arrived(&paths));
            assert!(outcome.is_err(), "{names} {paths:?}");
            assert!(matches!(takeover, Takeover::Theirs));
        }
        let mut cut = arrived(&["/dev/ptmx"]);
        cut.truncated = true;
        assert!(Takeover::default().offered(b"m", cut).is_err());
    }

    /// As through a proxy.
    #[test]
    fn what_was_lost_on_the_way_is_the_servers() {
        let mut takeover = Takeover::default();
        assert!(matches!(takeover.offered(b"mpr", arrived(&[])), Ok(Offered::Lost)));
        assert!(!takeover.is_taken() && takeover.ours().is_none());
        assert!(takeover.go().is_ok() && takeover.ours().is_none());
        assert!(takeover.offered(b"m", arrived(&[])).is_err());
        let mut cut = arrived(&[]);
        cut.truncated = true;
        assert!(Takeover::default().offered(b"m", cut).is_err());
    }

    #[test]
    fn the_word_comes_after_the_offer() {
        assert!(Takeover::default().go().is_err());
        let (master, _slave) =
            crate::sys::pty::open(Size { rows: 24, cols: 80 }).expect("a terminal");
        let fd = master.as_fd().try_clone_to_owned().unwrap();
        let mut takeover = Takeover::default();
        takeover.offered(b"m", Passed::of(vec![fd])).unwrap();
        assert!(takeover.is_taken() && takeover.ours().is_none());
        assert!(takeover.offered(b"m", arrived(&["/dev/ptmx"])).is_err());
        takeover.go().unwrap();
        assert!(takeover.ours().is_some());
        assert!(takeover.go().is_err());
    }
}
