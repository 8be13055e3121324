//! Standard output and error of a command without a terminal: each has its
//! window and its end.

use std::time::{Duration, Instant};

use super::buffered_output::BufferedOutput;
use crate::error::{Context, Result};
use crate::proto::{END_OF_STREAM, encode_packet, window};
use crate::sys::passable_stdio::{self, ERROR, OUTPUT, PassedStream};
use crate::sys::poll::{PollResult, PollSet};
use crate::sys::stdio::{self, Output};

/// State of an output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The stream is written here.
    Open,
    /// All of the stream has come.
    Ended,
    /// The stream has no reader here any more.
    Closed,
    /// The program has it itself.
    Passed,
}

/// Standard output or standard error of the command.
struct OutputStream {
    number: usize,
    state: State,
    /// Closed where it is not for us to write, or no more.
    output: BufferedOutput,
    taken: window::Consumed,
    /// Bytes that were taken and not told.
    packets: Vec<u8>,
    /// The stream's reader is known to have left.
    unread: bool,
}

/// Standard output and standard error of the command.
pub struct OutputStreams {
    streams: [OutputStream; 2],
    /// The number of the one that something came of last.
    last: usize,
    /// Both streams are written to one file.
    is_same_file: bool,
    /// Standard output, where the program has it itself.
    passed_stdout: Option<PassedStream>,
    /// Time at which standard output's reader is looked for next.
    next_look: Instant,
    /// The last look has found no reader of standard output.
    reader_was_gone: bool,
}

/// Interval of looks for a reader, where standard error has none any more.
const READER_POLL: Duration = Duration::from_millis(500);

/// Time from the first look that finds no reader to the one that confirms it. A reader also
/// leaves when the program has ended and closed its output: then the end comes within this
/// time.
const CONFIRM_POLL: Duration = Duration::from_millis(250);

impl OutputStream {
    fn new(number: usize) -> Result<Self> {
        let output =
            Output::of(passable_stdio::standard_fd(number)).context("cannot write to an output")?;
        Ok(Self {
            number,
            state: State::Open,
            output: BufferedOutput::new(output),
            taken: window::Consumed::default(),
            packets: Vec::new(),
            unread: false,
        })
    }

    fn show(&mut self, bytes: &[u8]) {
        if self.state == State::Open {
            let taken = self.output.write(bytes);
            self.consumed(taken);
        }
    }

    /// Notes that so many bytes were taken; `None`: the stream has no reader.
    fn consumed(&mut self, count: Option<usize>) {
        let Some(count) = count else {
            return self.give_up();
        };
        if let Some(taken) = self.taken.add(count, window::OUTPUT_SIZE) {
            // 1 or 2.
            window::encode(self.number as u8, taken, &mut self.packets);
        }
    }

    fn flush(&mut self) {
        let taken = self.output.flush();
        self.consumed(taken);
        if self.state == State::Ended && self.output.is_flushed() {
            self.close();
        }
    }

    /// Gives the stream up, which has no reader: the program gets SIGPIPE.
    fn give_up(&mut self) {
        self.unread = true;
        self.output.clear();
        if self.state == State::Open {
            self.state = State::Closed;
            encode_packet(END_OF_STREAM, &[self.number as u8], &mut self.packets);
        }
        self.close();
    }

    /// Closes the stream, so that its reader sees the end; standard error stays open
    /// for the client's own lines.
    fn close(&mut self) {
        if self.output.close() && self.number == OUTPUT {
            passable_stdio::replace_by_null(self.number);
        }
    }
}

impl OutputStreams {
    /// The streams of this process.
    ///
    /// # Errors
    /// A stream is closed.
    pub fn new() -> Result<Self> {
        Ok(Self {
            streams: [OutputStream::new(OUTPUT)?, OutputStream::new(ERROR)?],
            last: ERROR,
            is_same_file: stdio::is_same_file(),
            passed_stdout: None,
            next_look: Instant::now(),
            reader_was_gone: false,
        })
    }

    fn stream(&mut self, number: usize) -> &mut OutputStream {
        &mut self.streams[usize::from(number != OUTPUT)]
    }

    /// The program has those itself whose numbers these are.
    pub fn passed(&mut self, names: &[u8]) {
        // 1 as it is named.
        if names.contains(&b'1') {
            self.passed_stdout = Some(PassedStream::of(OUTPUT));
        }
        for stream in &mut self.streams {
            if names.contains(&(b'0' + stream.number as u8)) {
                stream.state = State::Passed;
                stream.close();
            }
        }
    }

    /// Writes what came of one of them, or keeps what is not taken.
    pub fn show(&mut self, number: usize, bytes: &[u8]) {
        self.last = number;
        self.stream(number).show(bytes);
    }

    /// Whether somebody else's line may not have ended where we write. What a program
    /// wrote by itself nobody knows: it is taken for a part of one where its output
    /// comes to the same place, not where it has that for its errors alone.
    pub fn may_end_mid_line(&self, has_run: bool, for_a_person: bool) -> bool {
        let is_passed = |stream: &OutputStream| stream.state == State::Passed;
        if self.is_same_file && self.streams.iter().any(is_passed) {
            return has_run;
        }
        let last = if self.is_same_file { self.last } else { ERROR };
        self.streams
            .iter()
            .any(|stream| stream.number == last && stream.output.is_mid_line(for_a_person))
    }

    /// The server has sent the end of a stream.
    pub fn ended(&mut self, number: usize) {
        let stream = self.stream(number);
        if stream.state == State::Open {
            stream.state = State::Ended;
        }
    }

    /// Writes what waits, as far as it is taken; appends what the server is to
    /// be told.
    pub fn flush(&mut self, packets: &mut Vec<u8>) {
        for stream in &mut self.streams {
            stream.flush();
            packets.append(&mut stream.packets);
        }
    }

    /// Whether nothing waits to be written.
    pub fn are_flushed(&self) -> bool {
        self.streams.iter().all(|stream| stream.output.is_flushed())
    }

    /// The reason why a stream took no more, where that was not for want of a reader.
    pub fn failure(&self) -> Option<String> {
        let name = |number| if number == OUTPUT { "standard output" } else { "standard error" };
        let of = |stream: &OutputStream| {
            Some(format!("{}: {}", name(stream.number), stream.output.failure()?))
        };
        self.streams.iter().find_map(of)
    }

    /// Whether the readers of both have left: then nobody waits for the
    /// command. That of one alone is the program's business, which gets SIGPIPE
    /// if it writes there, and else ends as it would have.
    pub fn look_for_readers(&mut self) -> bool {
        let [output, error] = &self.streams;
        error.unread && (output.unread || self.look_for_reader_of_passed_stdout())
    }

    fn look_for_reader_of_passed_stdout(&mut self) -> bool {
        let now = Instant::now();
        match &self.passed_stdout {
            // Those of sshd: it closes all of them or none.
            Some(PassedStream::Socket) => true,
            Some(passed_stdout) if now >= self.next_look => {
                let is_gone = passed_stdout.has_no_reader() == Some(true);
                self.next_look = now + if is_gone { CONFIRM_POLL } else { READER_POLL };
                std::mem::replace(&mut self.reader_was_gone, is_gone) && is_gone
            }
            _ => false,
        }
    }

    /// Time at which to look whether standard output still has a reader.
    pub fn deadline(&self) -> Option<Instant> {
        let is_pipe = matches!(self.passed_stdout, Some(PassedStream::Pipe(_)));
        (is_pipe && self.streams[1].unread).then_some(self.next_look)
    }

    /// Waits for room where something is to be written, and else for the
    /// reader to leave.
    pub fn watch<'a>(&'a self, polled: &mut PollSet<'a>) -> [Option<usize>; 2] {
        [0, 1].map(|at: usize| {
            let stream = &self.streams[at];
            if stream.unread {
                return None;
            }
            match stream.output.fd() {
                Some(fd) => Some(polled.add(fd, false, !stream.output.is_flushed())),
                // Standard error stays open here.
                None if stream.number == ERROR => {
                    Some(polled.add(passable_stdio::standard_fd(ERROR), false, false))
                }
                None => None,
            }
        })
    }

    /// Takes note of what the wait found.
    pub fn handle_poll(&mut self, found: &PollResult, at: [Option<usize>; 2]) {
        for (stream, at) in self.streams.iter_mut().zip(at) {
            if at.is_some_and(|at| found.hung_up(at))
                && passable_stdio::has_no_reader(stream.number)
            {
                stream.give_up();
            }
        }
    }
}
