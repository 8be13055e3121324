//! What every part of the gateway needs: waiting, time, room for bytes, the
//! sockets and their rules, and a way to have the loop do something afterwards.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::deferred::DeferredInput;
use super::outcome::Outcome;
use super::panic_recovery::PanicState;
use super::subject::SessionRef;
use super::tick_policy::TickPolicy;
use super::timers::{Timer, Timers};
use crate::config::gateway_config::GatewayConfig;
use crate::connection::limits::Limits;
use crate::connection::lingering_close::{self, CloseNotice, LingeringCloses};
use crate::connection::listeners::{self, Listeners};
use crate::connection::shared_counts::SharedCounts;
use crate::log;
use crate::observe::audit::Audit;
use crate::session::ids::SessionIds;
use crate::session::requested_command::RequestedCommands;
use fpty::sys::cpu_affinity::Concurrency;
use fpty::sys::pipe::Pipe;
use fpty::sys::poll::{Poller, Ready};
use fpty::sys::proc_net_tcp::ProcNetTcp;
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
    pub config: GatewayConfig,
    /// The gateway's number.
    pub ordinal: usize,
    /// Starts programs.
    pub spawner: Spawner,
    /// The sockets, and what holds there.
    pub listeners: Listeners,
    /// The limits.
    pub limits: Limits,
    /// The audit, and what is known of each session.
    pub audit: Audit,
    /// What counts over all gateways.
    pub shared_counts: SharedCounts,
    /// Names for sessions.
    pub ids: SessionIds,
    /// What they have asked to have run.
    pub requested_commands: RequestedCommands,
    /// Connections to which the last word was said.
    pub lingering: LingeringCloses,
    /// What is known of panics.
    pub panics: PanicState,
    /// Connections over TCP to this machine, asked whether their other end is closed.
    pub local_tcp: ProcNetTcp,
    outcomes: VecDeque<Outcome>,
    /// What is waited for.
    pub poller: Poller,
    /// What is due when.
    pub timers: Timers,
    /// What comes last in this turn.
    pub deferred_events: Vec<Ready>,
    /// What can run at the same time as we.
    pub parallel: Concurrency,
    tick_policy: TickPolicy,
    /// What had to wait of what clients sent.
    pub deferred_input: DeferredInput,
    /// The log is tried again before long.
    pub log_flush_is_scheduled: bool,
    /// What slow programs needed is given back before long.
    pub tidy_is_scheduled: bool,
    /// Room for output.
    pub buffer: Box<[u8; BUFFER]>,
    /// What a client sent, and what of that is input, where that comes in many
    /// packets. Their capacity is BUFFER, so they never grow.
    pub input: Vec<u8>,
    pub coalesced: Vec<u8>,
    /// For the output of streams; `None` where the kernel has no such thing.
    pub pipe: Option<Pipe>,
}

/// Of a [`Context`], what is made elsewhere.
pub struct ContextParts {
    /// See [`Context`], all of them.
    pub config: GatewayConfig,
    pub ordinal: usize,
    pub shared_counts: SharedCounts,
    pub spawner: Spawner,
    pub listeners: Listeners,
    pub audit: Audit,
    pub lingering: LingeringCloses,
    pub poller: Poller,
}

impl Context {
    /// At the gateway's start.
    pub fn new(parts: ContextParts) -> Self {
        let ContextParts {
            config,
            ordinal,
            shared_counts,
            spawner,
            listeners,
            audit,
            lingering,
            poller,
        } = parts;
        Self {
            config,
            ordinal,
            spawner,
            listeners,
            limits: Limits::new(shared_counts.clone()),
            audit,
            shared_counts,
            ids: SessionIds::new(),
            requested_commands: RequestedCommands::default(),
            lingering,
            panics: PanicState::default(),
            local_tcp: ProcNetTcp::default(),
            outcomes: VecDeque::new(),
            poller,
            timers: Timers::default(),
            deferred_events: Vec::new(),
            parallel: Concurrency::now(),
            tick_policy: TickPolicy::new(Instant::now()),
            deferred_input: DeferredInput::new(),
            log_flush_is_scheduled: false,
            tidy_is_scheduled: false,
            buffer: Box::new([0; BUFFER]),
            input: Vec::with_capacity(BUFFER),
            coalesced: Vec::with_capacity(BUFFER),
            pipe: Pipe::new().ok(),
        }
    }

    /// Something panicked: what may be left in the pipe is not for the next
    /// one, and what was taken out to be put back is missing.
    pub fn clear(&mut self) {
        self.pipe = Pipe::new().ok();
        self.input = Vec::with_capacity(BUFFER);
        self.coalesced = Vec::with_capacity(BUFFER);
    }

    /// What a client sent that stands in the turn's buffer.
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::replace(&mut self.input, Vec::with_capacity(BUFFER))
    }

    /// What runs in a session or command that began at this socket; `None`: there is
    /// no such socket any more.
    pub fn command_of(&self, session_ref: SessionRef, listener: u16) -> Option<String> {
        match self.requested_commands.command(session_ref) {
            Some(command) => Some(command.to_string()),
            None => Some(self.listeners.rules(listener)?.command.to_string_lossy().into_owned()),
        }
    }

    /// Starts, or starts again, to take connections, as soon as all gateways have taken
    /// up the sessions of those before: a client would find that there are none.
    pub fn start_accepting(&mut self) {
        match self.shared_counts.are_restored() {
            true => self.listeners.open(&self.poller),
            false => self.schedule(listeners::RESTORE_CHECK, Timer::Accept),
        }
    }

    /// Stops taking connections for a moment: the next one would only find
    /// the same shortage, and the poll would spin.
    pub fn pause_accepting(&mut self) {
        if self.listeners.close(&self.poller) {
            self.schedule(listeners::ACCEPT_PAUSE, Timer::Accept);
        }
    }

    /// Closes a connection whose last word has been written, when its client
    /// has closed, or has had time to.
    pub fn close_lingering(&mut self, client: Stream, last: CloseNotice) {
        if self.lingering.add(client, last, &self.poller, &mut self.buffer[..]) {
            self.schedule(lingering_close::CHECK_INTERVAL, Timer::LingeringClose);
        }
    }

    /// Closes those that have had their time.
    pub fn expire_lingering(&mut self) {
        if self.lingering.expire() {
            self.schedule(lingering_close::CHECK_INTERVAL, Timer::LingeringClose);
        }
    }

    /// Has this done after a while.
    pub fn schedule(&mut self, wait: Duration, timer: Timer) {
        self.timers.schedule(wait, timer, &self.poller);
    }

    /// Where lines wait for the log, they are written before long.
    pub fn schedule_log_flush(&mut self, somebody_reads: bool) {
        if (log::has_more() || self.audit.has_waiting_lines()) && !self.log_flush_is_scheduled {
            self.log_flush_is_scheduled = true;
            self.schedule(if somebody_reads { LOG_SOON } else { LOG_AGAIN }, Timer::LogFlush);
        }
    }

    /// Has the loop do something when whoever is at work now has finished.
    pub fn push_outcome(&mut self, outcome: Outcome) {
        self.outcomes.push_back(outcome);
    }

    /// What the loop is to do now.
    pub fn next_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// The events of a turn were handled, with streams among them or without.
    pub fn end_turn(&mut self, now: Instant, streams: bool) {
        if self.tick_policy.end_turn(now, self.parallel, streams) {
            tick::keep_running();
        }
    }
}
