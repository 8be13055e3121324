//! Standard streams of a command: descriptors that the client passed, or pipes of the gateway.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::command_state::CommandEffects;
use crate::session::byte_counts::ByteCounts;
use fpty::error::{Error, Result};
use fpty::sys::WriteOutcome;
use fpty::sys::accounts;
use fpty::sys::background_close::ReceivedFd;
use fpty::sys::child::{self, Pid};
use fpty::sys::passable_stdio::{PipeEnd, can_be_passed, can_be_reopened, chown_to};
use fpty::sys::peer_process::ReceivedFds;
use fpty::sys::pidfd::PidFd;
use fpty::sys::socket::Stream;

/// Descriptors of a command, and its process.
pub struct CommandIo {
    /// The client's connection.
    pub client: Stream,
    /// Standard input, where it is relayed and open.
    pub input: Option<PipeEnd>,
    /// Standard output and error, where they are relayed and open.
    pub outputs: [Option<PipeEnd>; 2],
    /// The process until it is reaped: after that the number may be another process's.
    pub program: Option<Pid>,
    /// Pidfd of the process group's leader: it serves when the leader was reaped.
    pub leader: Option<PidFd>,
    /// Byte counts, where audit, limits or statistics need them.
    pub byte_counts: Option<Box<ByteCounts>>,
}

impl CommandEffects for CommandIo {
    fn write_client(&mut self, bytes: &[u8]) -> WriteOutcome {
        self.client.write(bytes)
    }

    fn write_input(&mut self, bytes: &[u8]) -> WriteOutcome {
        let written = self.input.as_ref().map_or(WriteOutcome::Closed, |input| input.write(bytes));
        if let (Some(byte_counts), WriteOutcome::Bytes(count)) = (&mut self.byte_counts, written) {
            byte_counts.count_input(&bytes[..count]);
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

/// Streams of a program that is about to be spawned.
pub struct StdioPlan {
    /// The gateway's end of the input, where it is relayed.
    pub our_input: Option<PipeEnd>,
    /// The gateway's ends of the outputs, where they are relayed.
    pub our_outputs: [Option<PipeEnd>; 2],
    /// The program's ends.
    pub child_ends: [ChildEnd; 3],
}

/// A program's end of a stream.
pub enum ChildEnd {
    /// End of a pipe.
    Pipe(OwnedFd),
    /// Descriptor that the client has passed.
    Passed(ReceivedFd),
}

impl ChildEnd {
    /// The descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ChildEnd::Pipe(fd) => fd.as_fd(),
            ChildEnd::Passed(fd) => fd.as_fd(),
        }
    }
}

impl StdioPlan {
    /// Pipes for streams that were not passed, or that the program could not open again through
    /// /proc, where it runs as another user.
    ///
    /// # Errors
    /// A pipe cannot be made: too many descriptors.
    pub fn new(mut passed: [Option<ReceivedFd>; 3], user: Option<u32>) -> std::io::Result<Self> {
        let uid = user.unwrap_or_else(accounts::own_uid);
        for (fd, number) in passed.iter_mut().zip(0..) {
            fd.take_if(|fd| !can_be_reopened(fd.as_fd(), number, uid));
        }
        let child_end = |end: OwnedFd| {
            if let Some(user) = user {
                chown_to(&end, user);
            }
            ChildEnd::Pipe(end)
        };
        let (mut our_input, mut our_outputs) = (None, [None, None]);
        let input = match passed[0].take() {
            Some(fd) => ChildEnd::Passed(fd),
            None => {
                let (ours, end) = PipeEnd::for_input()?;
                our_input = Some(ours);
                child_end(end)
            }
        };
        let mut output = |number: usize| match passed[number].take() {
            Some(fd) => Ok(ChildEnd::Passed(fd)),
            None => PipeEnd::for_output().map(|(ours, end)| {
                our_outputs[number - 1] = Some(ours);
                child_end(end)
            }),
        };
        let child_ends = [input, output(1)?, output(2)?];
        Ok(Self { our_input, our_outputs, child_ends })
    }

    /// The streams that are relayed.
    pub fn relayed(&self) -> [bool; 3] {
        let [output, error] = &self.our_outputs;
        [self.our_input.is_some(), output.is_some(), error.is_some()]
    }
}

/// The client's descriptors by the stream that they are to become.
///
/// # Errors
/// A descriptor is none of 0, 1 and 2, or not of a kind that may be passed.
pub fn passed(names: &[u8], received_fds: ReceivedFds) -> Result<[Option<ReceivedFd>; 3]> {
    let mut passed = [None, None, None];
    // A proxy in between passes bytes alone: the streams are relayed.
    if received_fds.descriptors.is_empty() && !received_fds.truncated {
        return Ok(passed);
    }
    if received_fds.truncated || received_fds.descriptors.len() != names.len() {
        let (named, came) = (names.len(), received_fds.descriptors.len());
        return Err(Error::new(format!("{named} descriptors were offered and {came} came")));
    }
    for (name, fd) in names.iter().zip(received_fds.descriptors) {
        let number = usize::from(name.wrapping_sub(b'0'));
        match passed.get_mut(number) {
            Some(place @ None) if can_be_passed(fd.as_fd(), number) => *place = Some(fd),
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
