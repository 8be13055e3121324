//! What a command is connected to: its client, and its streams, which were
//! passed to the program or are pipes of ours.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::state::Streams;
use crate::session::byte_counts::Traffic;
use fpty::error::{Error, Result};
use fpty::sys::WriteOutcome;
use fpty::sys::accounts;
use fpty::sys::child::{self, Pid};
use fpty::sys::closer::ReceivedFd;
use fpty::sys::peer_process::ReceivedFds;
use fpty::sys::pidfd::PidFd;
use fpty::sys::socket::Stream;
use fpty::sys::stdio_pass::{OutputPipe, StdinPipe, can_be_passed, can_be_reopened, chown_to};

/// The ends of a command.
pub struct Wires {
    /// Its client.
    pub client: Stream,
    /// Standard input, where it is relayed and open.
    pub input: Option<StdinPipe>,
    /// The outputs, likewise.
    pub outputs: [Option<OutputPipe>; 2],
    /// The process, until it is reaped: then its number is no longer its own.
    pub program: Option<Pid>,
    /// By this its process group is known when it was reaped.
    pub leader: Option<PidFd>,
    /// How much goes and when, where somebody wants to know.
    pub traffic: Option<Box<Traffic>>,
}

impl Streams for Wires {
    fn write_client(&mut self, bytes: &[u8]) -> WriteOutcome {
        self.client.write(bytes)
    }

    fn write_input(&mut self, bytes: &[u8]) -> WriteOutcome {
        let written = self.input.as_ref().map_or(WriteOutcome::Closed, |input| input.write(bytes));
        if let (Some(traffic), WriteOutcome::Bytes(count)) = (&mut self.traffic, written) {
            traffic.took_in(&bytes[..count]);
        }
        written
    }

    fn close_input(&mut self) {
        // The poller forgets what closes.
        self.input = None;
    }

    fn close_output(&mut self, number: u8) {
        self.outputs[usize::from(number - 1)] = None;
    }

    fn signal(&mut self, number: u8) {
        if let Some(program) = self.program {
            child::signal_group(program, number.into());
        }
    }
}

/// The streams of a program that is about to be started.
pub struct Planned {
    /// Our end of the input, where it is relayed.
    pub wires_input: Option<StdinPipe>,
    /// Our ends of the outputs, likewise.
    pub wires_outputs: [Option<OutputPipe>; 2],
    /// What the program gets.
    pub ends: [End; 3],
}

/// What a program gets as a stream.
pub enum End {
    /// Of a pipe of ours.
    Ours(OwnedFd),
    /// What its client has passed.
    Passed(ReceivedFd),
}

impl End {
    /// The descriptor.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            End::Ours(fd) => Some(fd.as_fd()),
            End::Passed(fd) => fd.as_fd(),
        }
    }
}

impl Planned {
    /// Pipes for what was not passed, or what the program could not open
    /// again: it runs as this user, where that is another one.
    pub fn new(mut passed: [Option<ReceivedFd>; 3], user: Option<u32>) -> std::io::Result<Self> {
        let uid = user.unwrap_or_else(accounts::own_uid);
        for (fd, number) in passed.iter_mut().zip(0..) {
            let can =
                |fd: &ReceivedFd| fd.as_fd().is_some_and(|fd| can_be_reopened(fd, number, uid));
            fd.take_if(|fd| !can(fd));
        }
        let given = |end: OwnedFd| {
            if let Some(user) = user {
                chown_to(&end, user);
            }
            End::Ours(end)
        };
        let (mut wires_input, mut wires_outputs) = (None, [None, None]);
        let input = match passed[0].take() {
            Some(fd) => End::Passed(fd),
            None => {
                let (ours, end) = StdinPipe::pipe()?;
                wires_input = Some(ours);
                given(end)
            }
        };
        let mut output = |number: usize| match passed[number].take() {
            Some(fd) => Ok(End::Passed(fd)),
            None => OutputPipe::pipe().map(|(ours, end)| {
                wires_outputs[number - 1] = Some(ours);
                given(end)
            }),
        };
        let ends = [input, output(1)?, output(2)?];
        Ok(Self { wires_input, wires_outputs, ends })
    }

    /// Which of the streams are relayed.
    pub fn relayed(&self) -> [bool; 3] {
        let [output, error] = &self.wires_outputs;
        [self.wires_input.is_some(), output.is_some(), error.is_some()]
    }
}

/// The client's descriptors by the stream that they are to become.
///
/// # Errors
/// They are not what they are said to be.
pub fn passed(names: &[u8], arrived: ReceivedFds) -> Result<[Option<ReceivedFd>; 3]> {
    let mut passed = [None, None, None];
    // Something in between passes bytes alone: they are relayed.
    if arrived.descriptors.is_empty() && !arrived.truncated {
        return Ok(passed);
    }
    if arrived.truncated || arrived.descriptors.len() != names.len() {
        let (named, came) = (names.len(), arrived.descriptors.len());
        return Err(Error::new(format!("{named} descriptors were offered and {came} came")));
    }
    let may_be = |fd: &ReceivedFd, number| fd.as_fd().is_some_and(|fd| can_be_passed(fd, number));
    for (name, fd) in names.iter().zip(arrived.descriptors) {
        let number = usize::from(name.wrapping_sub(b'0'));
        match passed.get_mut(number) {
            Some(place @ None) if may_be(&fd, number) => *place = Some(fd),
            Some(None) => {
                return Err(Error::new(format!(
                    "descriptor {number} is no pipe, no connected stream socket and not /dev/null"
                )));
            }
            _ => return Err(Error::new("the descriptors are not 0, 1 and 2")),
        }
    }
    Ok(passed)
}
