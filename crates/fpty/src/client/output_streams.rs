//! Standard output and error of a command without a terminal: each has its
//! window and its end.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::line_position::Tail;
use crate::backlog::Backlog;
use crate::error::{Context, Result};
use crate::proto::{END_OF_STREAM, encode_packet, window};
use crate::sys::poll::{Found, Several};
use crate::sys::stdio::{self, Failure, Output};
use crate::sys::stdio_pass::{self, ERROR, GivenAway, OUTPUT};

/// What becomes of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is written here.
    Open,
    /// All of it has come.
    Ended,
    /// Nobody reads it here any more.
    Gone,
    /// The program has it itself.
    Passed,
}

/// One of them.
struct One {
    number: usize,
    state: State,
    /// `None`: it is not for us to write, or no more.
    to: Option<Output>,
    failure: Failure,
    waiting: Backlog,
    taken: window::Taken,
    /// Bytes that were taken and not told.
    told: Vec<u8>,
    /// Its reader is known to have left.
    unread: bool,
    /// The last that came of it.
    tail: Tail,
}

/// Both.
pub struct Outputs {
    both: [One; 2],
    /// The number of the one that something came of last.
    last: usize,
    /// What is written to them comes to one place.
    is_one_place: bool,
    /// Standard output, where the program has it itself.
    away: Option<GivenAway>,
    /// It is asked for its reader then.
    next_look: Instant,
}

/// How often, where standard error has none any more.
const LOOK: Duration = Duration::from_millis(500);

impl One {
    fn new(number: usize) -> Result<Self> {
        let to = Output::of(stdio_pass::own(number)).context("cannot write to an output")?;
        Ok(Self {
            number,
            state: State::Open,
            to: Some(to),
            failure: Failure::default(),
            waiting: Backlog::default(),
            taken: window::Taken::default(),
            told: Vec::new(),
            unread: false,
            tail: Tail::default(),
        })
    }

    fn write(&self, bytes: &[u8]) -> Option<usize> {
        self.to.as_ref().and_then(|to| to.write_noting(bytes, &self.failure).taken())
    }

    fn show(&mut self, bytes: &[u8]) {
        if self.state != State::Open {
            return;
        }
        let taken = if self.waiting.is_empty() { self.write(bytes) } else { Some(0) };
        let Some(taken) = taken else {
            return self.give_up();
        };
        self.waiting.push(&bytes[taken..]);
        self.was_taken(taken);
    }

    fn was_taken(&mut self, count: usize) {
        if let Some(taken) = self.taken.add(count, window::OF_OUTPUT) {
            // 1 or 2.
            window::encode(self.number as u8, taken, &mut self.told);
        }
    }

    fn flush(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        let before = waiting.len();
        let read = waiting.flush(|bytes| self.write(bytes));
        if read {
            self.was_taken(before - waiting.len());
            self.waiting = waiting;
        } else {
            self.give_up();
        }
        if self.state == State::Ended && self.waiting.is_empty() {
            self.close();
        }
    }

    /// Nobody reads it: the program is to know.
    fn give_up(&mut self) {
        self.unread = true;
        self.waiting.clear();
        if self.state == State::Open {
            self.state = State::Gone;
            encode_packet(END_OF_STREAM, &[self.number as u8], &mut self.told);
        }
        self.close();
    }

    /// Whoever reads it sees its end; but what we say ourselves goes to
    /// standard error.
    fn close(&mut self) {
        if self.to.take().is_some() && self.number == OUTPUT {
            stdio_pass::give_up(self.number);
        }
    }
}

impl Outputs {
    /// Ours.
    ///
    /// # Errors
    /// One of them is closed.
    pub fn new() -> Result<Self> {
        Ok(Self {
            both: [One::new(OUTPUT)?, One::new(ERROR)?],
            last: ERROR,
            is_one_place: stdio::is_one_place(),
            away: None,
            next_look: Instant::now(),
        })
    }

    fn one(&mut self, number: usize) -> &mut One {
        &mut self.both[usize::from(number != OUTPUT)]
    }

    /// The program has those itself whose numbers these are.
    pub fn passed(&mut self, names: &[u8]) {
        // 1 as it is named.
        if names.contains(&b'1') {
            self.away = Some(GivenAway::of(OUTPUT));
        }
        for one in &mut self.both {
            if names.contains(&(b'0' + one.number as u8)) {
                one.state = State::Passed;
                one.close();
            }
        }
    }

    /// Writes what came of one of them, or keeps what is not taken.
    pub fn show(&mut self, number: usize, bytes: &[u8]) {
        self.last = number;
        let one = self.one(number);
        one.tail.shown(bytes);
        one.show(bytes);
    }

    /// Whether somebody else's line may not have ended where we write. What a program
    /// wrote by itself nobody knows: it is taken for a part of one where its output
    /// comes to the same place, not where it has that for its errors alone.
    pub fn may_end_in_a_line(&self, has_run: bool, for_a_person: bool) -> bool {
        let is_passed = |one: &One| one.state == State::Passed;
        if self.is_one_place && self.both.iter().any(is_passed) {
            return has_run;
        }
        let last = if self.is_one_place { self.last } else { ERROR };
        self.both.iter().any(|one| one.number == last && one.tail.is_in_a_line(for_a_person))
    }

    /// No more of one of them will come.
    pub fn ended(&mut self, number: usize) {
        let one = self.one(number);
        if one.state == State::Open {
            one.state = State::Ended;
        }
    }

    /// Writes what waits, as far as it is taken; appends what the server is to
    /// be told.
    pub fn flush(&mut self, packets: &mut Vec<u8>) {
        for one in &mut self.both {
            one.flush();
            packets.append(&mut one.told);
        }
    }

    /// Whether nothing waits to be written.
    pub fn are_flushed(&self) -> bool {
        self.both.iter().all(|one| one.waiting.is_empty())
    }

    /// Why one of them took no more, where that was not for want of a reader.
    pub fn failure(&self) -> Option<String> {
        let name = |number| if number == OUTPUT { "standard output" } else { "standard error" };
        let of = |one: &One| Some(format!("{}: {}", name(one.number), one.failure.reason()?));
        self.both.iter().find_map(of)
    }

    /// Whether the readers of both have left: then nobody waits for the
    /// command. That of one alone is the program's business, which gets SIGPIPE
    /// if it writes there, and else ends as it would have.
    pub fn look_whether_nobody_reads(&mut self) -> bool {
        let [output, error] = &self.both;
        error.unread && (output.unread || self.look_for_reader_away())
    }

    fn look_for_reader_away(&mut self) -> bool {
        let now = Instant::now();
        match &self.away {
            // Those of sshd: it closes all of them or none.
            Some(GivenAway::Socket) => true,
            Some(away) if now >= self.next_look => {
                self.next_look = now + LOOK;
                away.is_unread() == Some(true)
            }
            _ => false,
        }
    }

    /// When it is to be looked whether anybody reads.
    pub fn when(&self) -> Option<Instant> {
        let is_pipe = matches!(self.away, Some(GivenAway::Pipe(_)));
        (is_pipe && self.both[1].unread).then_some(self.next_look)
    }

    /// Waits for room where something is to be written, and else for the
    /// reader to leave.
    pub fn watch<'a>(&'a self, polled: &mut Several<'a>) -> [Option<usize>; 2] {
        [0, 1].map(|at: usize| {
            let one = &self.both[at];
            if one.unread {
                return None;
            }
            let writes = !one.waiting.is_empty();
            match &one.to {
                Some(to) => Some(polled.add(to.as_fd(), false, writes)),
                // Standard error stays open here.
                None if one.number == ERROR => {
                    Some(polled.add(stdio_pass::own(ERROR), false, false))
                }
                None => None,
            }
        })
    }

    /// Takes note of what the wait found.
    pub fn look(&mut self, found: &Found, at: [Option<usize>; 2]) {
        for (one, at) in self.both.iter_mut().zip(at) {
            if at.is_some_and(|at| found.hung_up(at)) && stdio_pass::is_unread(one.number) {
                one.give_up();
            }
        }
    }
}
