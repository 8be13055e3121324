//! The context that every part is given: poller, timers, buffers, listeners, limits, audit,
//! and outcomes for the loop to handle afterwards.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::deferred_queue::DeferredInput;
use super::outcome::Outcome;
use super::panic_recovery::{PanicState, RETRY_DELAY};
use super::tick_policy::TickPolicy;
use super::timers::{Timer, Timers};
use crate::config::options::GatewayConfig;
use crate::connection::limits::Limits;
use crate::connection::lingering_close::{self, CloseNotice, LingeringCloses};
use crate::connection::listeners::{self, Listeners};
use crate::connection::shared_counts::SharedCounts;
use crate::log;
use crate::observe::Observers;
use crate::observe::audit::Audit;
use crate::session::ids::SessionIds;
use crate::session::requested_command::RequestedCommands;
use crate::session::session_ref::SessionRef;
use fpty::backlog::Backlog;
use fpty::error::Result;
use fpty::sys::clock;
use fpty::sys::cpu_affinity::Concurrency;
use fpty::sys::poll::{Poller, Ready};
use fpty::sys::proc_net_tcp::ProcNetTcp;
use fpty::sys::socket::Stream;
use fpty::sys::spawn::Spawner;
use fpty::sys::splice_pipe::Pipe;
use fpty::sys::tick;

/// Bytes of one read or write.
pub const BUFFER: usize = 64 * 1024;

/// Retry interval of a log that is full.
const LOG_AGAIN: Duration = Duration::from_millis(100);
/// Retry interval of a log that has taken something.
const LOG_SOON: Duration = Duration::from_millis(2);

/// The context of the loop, for every part.
pub struct Context {
    /// The configuration.
    pub config: GatewayConfig,
    /// The ordinal of the gateway.
    pub ordinal: usize,
    /// The spawner of programs.
    pub spawner: Spawner,
    /// The listeners with their rules.
    pub listeners: Listeners,
    /// Limits, and permits under them.
    pub limits: Limits,
    /// The audit.
    pub audit: Audit,
    /// Other observers of sessions.
    pub observers: Observers,
    /// Counts and names that all gateways see.
    pub shared_counts: SharedCounts,
    /// Ids of sessions.
    pub ids: SessionIds,
    /// Commands that clients asked for.
    pub requested_commands: RequestedCommands,
    /// Lingering connections.
    pub lingering: LingeringCloses,
    /// The state of panic recovery.
    pub panics: PanicState,
    /// TCP connections within this machine (/proc/net/tcp).
    pub local_tcp: ProcNetTcp,
    outcomes: VecDeque<Outcome>,
    /// The poller (epoll).
    pub poller: Poller,
    /// The timers.
    pub timers: Timers,
    /// Events of streams, which come last in a turn.
    pub deferred_events: Vec<Ready>,
    /// The processors that can run something at the same time as the loop.
    pub parallel: Concurrency,
    tick_policy: TickPolicy,
    /// Input beyond the budget of a turn.
    pub deferred_input: DeferredInput,
    /// A flush of the log is scheduled.
    pub log_flush_is_scheduled: bool,
    /// A tidy-up is scheduled.
    pub tidy_is_scheduled: bool,
    /// The buffer of output.
    pub buffer: Box<[u8; BUFFER]>,
    /// The buffer of what a client sent, and of its input coalesced from many packets.
    /// Their capacity is BUFFER, so they never grow.
    pub input: Vec<u8>,
    pub coalesced: Vec<u8>,
    /// The pipe for splice(2); `None`: there is none.
    pub pipe: Option<Pipe>,
}

impl Context {
    /// The context of a gateway that starts, with this limit of descriptors.
    ///
    /// # Errors
    /// Programs cannot be spawned.
    pub fn new(
        config: GatewayConfig,
        ordinal: usize,
        shared_counts: SharedCounts,
        listeners: Listeners,
        audit: Audit,
        descriptors: Option<u64>,
        poller: Poller,
    ) -> Result<Self> {
        Ok(Self {
            observers: Observers::new(&config, ordinal),
            config,
            ordinal,
            spawner: Spawner::new()?,
            listeners,
            limits: Limits::new(shared_counts.clone()),
            audit,
            shared_counts,
            ids: SessionIds::new(),
            requested_commands: RequestedCommands::default(),
            lingering: LingeringCloses::new(descriptors),
            panics: PanicState::default(),
            local_tcp: ProcNetTcp::default(),
            outcomes: VecDeque::new(),
            poller,
            timers: Timers::default(),
            deferred_events: Vec::new(),
            parallel: Concurrency::now(),
            tick_policy: TickPolicy::new(clock::now()),
            deferred_input: DeferredInput::new(),
            log_flush_is_scheduled: false,
            tidy_is_scheduled: false,
            buffer: Box::new([0; BUFFER]),
            input: Vec::with_capacity(BUFFER),
            coalesced: Vec::with_capacity(BUFFER),
            pipe: Pipe::new().ok(),
        })
    }

    /// After a panic: makes pipe and buffers anew, which may hold something of the failed
    /// part, or lack what it took out.
    pub fn clear(&mut self) {
        self.pipe = Pipe::new().ok();
        self.input = Vec::with_capacity(BUFFER);
        self.coalesced = Vec::with_capacity(BUFFER);
    }

    /// Takes the input buffer's content.
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::replace(&mut self.input, Vec::with_capacity(BUFFER))
    }

    /// The command of a session of this listener; `None`: the listener is gone.
    pub fn command_of(&self, session_ref: SessionRef, listener: u16) -> Option<String> {
        match self.requested_commands.command(session_ref) {
            Some(command) => Some(command.to_string()),
            None => Some(self.listeners.rules(listener)?.command.to_string_lossy().into_owned()),
        }
    }

    /// Starts to accept, as soon as all gateways have restored their sessions: a client
    /// would not find its session before.
    pub fn start_accepting(&mut self) {
        match self.shared_counts.are_restored() {
            true => self.listeners.open(&self.poller),
            false => self.schedule(listeners::RESTORE_CHECK, Timer::Accept),
        }
    }

    /// Pauses accept(2): the next connection would find the same shortage, and the poll
    /// would spin.
    pub fn pause_accepting(&mut self) {
        if self.listeners.close(&self.poller) {
            self.schedule(listeners::ACCEPT_PAUSE, Timer::Accept);
        }
    }

    /// Hands a connection whose last byte is written to the lingering close.
    pub fn close_lingering(&mut self, client: Stream, last: CloseNotice) {
        self.close_flushing(client, Backlog::default(), last);
    }

    /// Hands a connection with output that its client has not read to the lingering close.
    pub fn close_flushing(&mut self, client: Stream, output: Backlog, last: CloseNotice) {
        if self.lingering.add(client, output, last, &self.poller, &mut self.buffer[..]) {
            self.schedule(lingering_close::CHECK_INTERVAL, Timer::LingeringClose);
        }
    }

    /// Closes lingering connections whose time is over.
    pub fn expire_lingering(&mut self) {
        if self.lingering.expire() {
            self.schedule(lingering_close::CHECK_INTERVAL, Timer::LingeringClose);
        }
    }

    /// Schedules a timer.
    pub fn schedule(&mut self, wait: Duration, timer: Timer) {
        self.timers.schedule(wait, timer, &self.poller);
    }

    /// Schedules a flush of the log, where lines wait.
    pub fn schedule_log_flush(&mut self, somebody_reads: bool) {
        if (log::has_more() || self.audit.has_waiting_lines()) && !self.log_flush_is_scheduled {
            self.log_flush_is_scheduled = true;
            self.schedule(if somebody_reads { LOG_SOON } else { LOG_AGAIN }, Timer::LogFlush);
        }
    }

    /// Flushes the log, and again later where lines are left.
    pub fn flush_log(&mut self) {
        self.log_flush_is_scheduled = false;
        log::flush();
        let took_some = self.audit.flush();
        self.schedule_log_flush(took_some);
    }

    /// After a panic of the whole gateway: looks for work that was cut short, and waits for nothing
    /// else.
    pub fn recover_unattributed(&mut self) {
        self.panics.count_unattributed(clock::now());
        self.pause_accepting();
        self.schedule(RETRY_DELAY, Timer::Reap);
        self.schedule(RETRY_DELAY, Timer::Kill);
    }

    /// Emits an outcome: the loop handles it when the running part has finished.
    pub fn push_outcome(&mut self, outcome: Outcome) {
        self.outcomes.push_back(outcome);
    }

    /// The next outcome.
    pub fn next_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// The end of a turn, with streams in it or without.
    pub fn end_turn(&mut self, now: Instant, streams: bool) {
        if self.tick_policy.end_turn(now, self.parallel, streams) {
            tick::keep_running();
        }
    }
}
