//! What every part of the gateway needs: waiting, time, room for bytes, the
//! sockets and their rules, and a way to have the loop do something afterwards.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::deferred::Behind;
use super::outcome::Outcome;
use super::panic_recovery::Faults;
use super::subject::Subject;
use super::tick_policy::Exchange;
use super::timers::{Due, Timers};
use crate::config::gateway_config::Router;
use crate::connection::limits::Seats;
use crate::connection::lingering_close::{self, Closing, LastWord};
use crate::connection::listeners::{self, Doors};
use crate::connection::shared_counts::Tallies;
use crate::log;
use crate::observe::audit::Told;
use crate::session::ids::SessionIds;
use crate::session::requested_command::RequestedCommands;
use fpty::sys::pipe::Pipe;
use fpty::sys::poll::{Poller, Ready};
use fpty::sys::proc_net_tcp::LocalTcp;
use fpty::sys::processors::Parallel;
use fpty::sys::socket::Stream;
use fpty::sys::spawn::Spawner;
use fpty::sys::tick;

/// Bytes of one read from a client, and of one write to it.
pub const BUFFER: usize = 64 * 1024;

/// How often a log that takes nothing is tried again.
const LOG_AGAIN: Duration = Duration::from_millis(100);
/// And one that somebody reads.
const LOG_SOON: Duration = Duration::from_millis(2);

/// What every part is given.
pub struct Context {
    /// The options.
    pub config: Router,
    /// The gateway's number.
    pub ordinal: usize,
    /// Starts programs.
    pub spawner: Spawner,
    /// The sockets, and what holds there.
    pub doors: Doors,
    /// The limits.
    pub seats: Seats,
    /// The audit, and what is known of each session.
    pub told: Told,
    /// What counts over all gateways.
    pub tallies: Tallies,
    /// Names for sessions.
    pub ids: SessionIds,
    /// What they have asked to have run.
    pub requested_commands: RequestedCommands,
    /// Connections to which the last word was said.
    pub closing: Closing,
    /// What is known of panics.
    pub faults: Faults,
    /// Connections over TCP to this machine, asked whether their other end is closed.
    pub local_tcp: LocalTcp,
    outcomes: VecDeque<Outcome>,
    /// What is waited for.
    pub poller: Poller,
    /// What is due when.
    pub timers: Timers,
    /// What comes last in this turn.
    pub bulk: Vec<Ready>,
    /// What can run at the same time as we.
    pub parallel: Parallel,
    exchange: Exchange,
    /// What had to wait of what clients sent.
    pub behind: Behind,
    /// The log is tried again before long.
    pub log_is_due: bool,
    /// What slow programs needed is given back before long.
    pub tidy_is_due: bool,
    /// Room for output.
    pub buffer: Box<[u8; BUFFER]>,
    /// What a client sent, and what of that is input, where that comes in many
    /// packets. Their capacity is BUFFER, so they never grow.
    pub input: Vec<u8>,
    pub gather: Vec<u8>,
    /// For the output of streams; `None` where the kernel has no such thing.
    pub pipe: Option<Pipe>,
}

/// Of a [`Context`], what is made elsewhere.
pub struct Made {
    /// See [`Context`], all of them.
    pub config: Router,
    pub ordinal: usize,
    pub tallies: Tallies,
    pub spawner: Spawner,
    pub doors: Doors,
    pub told: Told,
    pub closing: Closing,
    pub poller: Poller,
}

impl Context {
    /// At the gateway's start.
    pub fn new(made: Made) -> Self {
        let Made { config, ordinal, tallies, spawner, doors, told, closing, poller } = made;
        Self {
            config,
            ordinal,
            spawner,
            doors,
            seats: Seats::new(tallies.clone()),
            told,
            tallies,
            ids: SessionIds::new(),
            requested_commands: RequestedCommands::default(),
            closing,
            faults: Faults::default(),
            local_tcp: LocalTcp::default(),
            outcomes: VecDeque::new(),
            poller,
            timers: Timers::default(),
            bulk: Vec::new(),
            parallel: Parallel::now(),
            exchange: Exchange::new(Instant::now()),
            behind: Behind::new(),
            log_is_due: false,
            tidy_is_due: false,
            buffer: Box::new([0; BUFFER]),
            input: Vec::with_capacity(BUFFER),
            gather: Vec::with_capacity(BUFFER),
            pipe: Pipe::new().ok(),
        }
    }

    /// Something panicked: what may be left in the pipe is not for the next
    /// one, and what was taken out to be put back is missing.
    pub fn clear(&mut self) {
        self.pipe = Pipe::new().ok();
        self.input = Vec::with_capacity(BUFFER);
        self.gather = Vec::with_capacity(BUFFER);
    }

    /// What a client sent that stands in the turn's buffer.
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::replace(&mut self.input, Vec::with_capacity(BUFFER))
    }

    /// What runs in a session or command that began at this socket; `None`: there is
    /// no such socket any more.
    pub fn command_of(&self, subject: Subject, door: u16) -> Option<String> {
        match self.requested_commands.command(subject) {
            Some(command) => Some(command.to_string()),
            None => Some(self.doors.rules(door)?.command.to_string_lossy().into_owned()),
        }
    }

    /// Starts, or starts again, to take connections, as soon as all gateways have taken
    /// up the sessions of those before: a client would find that there are none.
    pub fn open_doors(&mut self) {
        match self.tallies.are_complete() {
            true => self.doors.open(&self.poller),
            false => self.after(listeners::SOON, Due::Accept),
        }
    }

    /// Stops taking connections for a moment: the next one would only find
    /// the same shortage, and the poll would spin.
    pub fn pause(&mut self) {
        if self.doors.close(&self.poller) {
            self.after(listeners::PAUSE, Due::Accept);
        }
    }

    /// Closes a connection whose last word has been written, when its client
    /// has closed, or has had time to.
    pub fn close_when_read(&mut self, client: Stream, last: LastWord) {
        if self.closing.take(client, last, &self.poller, &mut self.buffer[..]) {
            self.after(lingering_close::LOOK, Due::Closing);
        }
    }

    /// Closes those that have had their time.
    pub fn look_after_closing(&mut self) {
        if self.closing.look_after() {
            self.after(lingering_close::LOOK, Due::Closing);
        }
    }

    /// Has this done after a while.
    pub fn after(&mut self, wait: Duration, due: Due) {
        self.timers.after(wait, due, &self.poller);
    }

    /// Where lines wait for the log, they are written before long.
    pub fn try_the_log_again(&mut self, somebody_reads: bool) {
        if (log::has_more() || self.told.waits()) && !self.log_is_due {
            self.log_is_due = true;
            self.after(if somebody_reads { LOG_SOON } else { LOG_AGAIN }, Due::Log);
        }
    }

    /// Has the loop do something when whoever is at work now has finished.
    pub fn then(&mut self, outcome: Outcome) {
        self.outcomes.push_back(outcome);
    }

    /// What the loop is to do now.
    pub fn next_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// The events of a turn were handled, with streams among them or without.
    pub fn ends(&mut self, now: Instant, streams: bool) {
        if self.exchange.turn(now, self.parallel, streams) {
            tick::keep();
        }
    }
}
