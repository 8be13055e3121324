//! The gateway: gives every client that connects a terminal of its own with
//! a program of the instance behind it.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | the loop: waits, and hands each event to whom it concerns |
//! | `doors.rs` | the sockets; what is said to those who cannot come in |
//! | `admission.rs` | who may come in |
//! | `seats.rs` | how many there may be, and how fast they may come |
//! | `attach.rs` | a client connects: its terminal and its program |
//! | `greet.rs` | what a client says before its program starts |
//! | `latecomers.rs` | who is waited for longer before that |
//! | `requests.rs` | which program a client asks for |
//! | `command.rs` | commands without a terminal |
//! | `web.rs` | web pages that come where a terminal is |
//! | `handover.rs` | the terminal itself is given to a client |
//! | `behind.rs` | clients that ask for more than one turn has time for |
//! | `traffic.rs` | bytes between a client and its terminal |
//! | `quiet.rs` | ends that nothing tells of, and the end of the input |
//! | `depart.rs` | a session ends |
//! | `detached.rs` | what becomes of a session whose client leaves, or comes |
//! | `closing.rs` | connections to which the last word was said |
//! | `programs.rs` | programs: hung up, outlived, killed, reaped |
//! | `aftercare.rs` | what becomes of sessions when the gateway itself ends |
//! | `last_words.rs` | what is told of a session by another process |
//! | `left/` | sessions that can be left and found again |
//! | `told/` | what is told of sessions: audit, counters |
//! | `listing/` | clients that ask who is there, and end sessions |
//! | `siblings.rs` | what gateways ask each other |
//! | `record/` | recordings, and the process that writes them |
//! | `stats/` | the statistics and their clients |
//! | `context.rs` | what every part is given |
//! | `outcome.rs` | what parts have the loop do |
//! | `recovery.rs`, `fault.rs` | what a panic ends; panics on demand, for tests |
//! | `exchange.rs` | programs that answer each other in quick succession |
//! | `ids.rs` | the names of sessions |
//! | `table.rs`, `timers.rs` | sessions by number, and what is due when |

mod admission;
pub mod aftercare;
mod attach;
mod behind;
mod closing;
mod command;
mod context;
mod depart;
mod detached;
mod doors;
mod exchange;
mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod greet;
mod handover;
mod ids;
mod last_words;
mod latecomers;
mod left;
mod listing;
mod outcome;
mod programs;
mod quiet;
pub mod record;
mod recovery;
mod requests;
pub mod seats;

pub mod siblings;
mod stats;
mod table;
mod timers;
pub mod told;
mod traffic;
mod web;

use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::config::router::Router;
use crate::config::rules::Rules;
use crate::uwsgi::gateway::Gateway;
use crate::uwsgi::log::{self, log};
use crate::uwsgi::server;
use crate::uwsgi::sockets::Role;
use fpty::error::{Context as _, Result};
use fpty::proto::{Ending, Protocol};
use fpty::sys::clock::Timestamp;
use fpty::sys::poll::{Interest, Poller, Ready};
use fpty::sys::signal::{Signals, block, own_dispositions};
use fpty::sys::spawn::{Program, Spawner};

use closing::Closing;
use command::Commands;
use context::{Context, Made};
use depart::{Copies, Departures};
use doors::{Door, Doors};
use greet::Caller;
use latecomers::Latecomers;
use left::Left;
use left::adopt::{Found, NOT_HEARD, Restored};
use left::bound::{self, Past};
use left::record::{Held, Record};
use listing::Inquirers;
use outcome::Outcome;
use programs::Programs;
use record::Recorder;
use recovery::{Faults, Whose};
use seats::Seats;
use siblings::Siblings;
use stats::Statistics;
use table::{Key, Source, Table};
use timers::Due;
use told::{Subject, Told};
use traffic::Attached;
use web::Beginnings;

/// How often a log that takes nothing is tried again.
const LOG_AGAIN: Duration = Duration::from_millis(100);
/// And one that somebody reads.
const LOG_SOON: Duration = Duration::from_millis(2);

/// One gateway process: parts with a state of their own, and what concerns
/// more than one of them.
struct GatewayLoop {
    cx: Context,
    /// Clients whose program has not started.
    callers: Table<Caller>,
    latecomers: Latecomers,
    sessions: Table<Attached>,
    beginnings: Beginnings,
    commands: Commands,
    inquirers: Inquirers,
    /// `None`: no session can outlive the gateway.
    left: Option<Box<Left>>,
    departures: Departures,
    programs: Programs,
    children: Signals,
    statistics: Statistics,
    recorder: Option<Box<Recorder>>,
    siblings: Siblings,
    faults: Faults,
}

/// Runs a gateway; returns only when it cannot go on.
pub fn run(gateway: Gateway, config: Router) -> Result<()> {
    // Where it cannot go on its clients' connections are others' to end.
    let mut router = ManuallyDrop::new(GatewayLoop::new(&gateway, config)?);
    let router: &mut GatewayLoop = &mut router;
    loop {
        let wait = router.wait();
        gateway.rests();
        let count = router.cx.poller.wait(wait).context("cannot wait for events")?;
        gateway.works();
        for index in 0..count {
            let ready = router.cx.poller.ready(index);
            if router.is_bulk(ready) {
                router.cx.bulk.push(ready);
            } else {
                router.dispatch(ready);
            }
        }
        let streams = !router.cx.bulk.is_empty();
        // A key that is typed does not wait for the megabytes of others.
        for index in 0..router.cx.bulk.len() {
            router.dispatch(router.cx.bulk[index]);
        }
        router.cx.bulk.clear();
        // What comes due meanwhile is for the next turn, and no wait comes
        // before that: what had to wait for its turn is looked for in each.
        let now = Instant::now();
        router.catch_up();
        router.guarded(Whose::All, |router| {
            fault::point("turn");
            router.part(count);
            router.pass_on_recordings();
            router.try_the_log_again(false);
        });
        router.follow();
        router.cx.ends(now, streams);
        while let Some(due) = router.cx.timers.next(now) {
            router.fire(due);
        }
        router.clear_timers();
        router.faults.check()?;
    }
}

impl GatewayLoop {
    fn new(gateway: &Gateway, config: Router) -> Result<Self> {
        fpty::sys::forbid_inspection();
        fpty::sys::stdio::stderr_stays(config.processes > 1);
        if fpty::sys::has_root_group_only() {
            log("forkptyrouter: sessions have the group root: name a gid, not only a uid");
        }
        // The server's own gateways end by SIGTERM and SIGINT; so do we, when the
        // clients were told.
        own_dispositions(&[Signal::SIGTERM, Signal::SIGINT]);
        // A pipe raises it; what became of a write says it all.
        block(Signal::SIGPIPE);
        let limit = fpty::sys::raise_descriptor_limit().ok();
        let rules: Vec<Rc<Rules>> = config.all_rules().iter().cloned().map(Rc::new).collect();
        let programs: Vec<Arc<Program>> =
            rules.iter().map(|rules| Arc::new(programs::of_rules(rules, limit))).collect();
        let poller = Poller::new(config.events as usize).context("cannot create an epoll")?;
        let told = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT];
        let children =
            Signals::instead_of_handlers(&told).context("cannot be told of ended programs")?;
        poller
            .add(children.as_fd(), Source::Children.token(), Interest::READ)
            .context("cannot wait for ended programs")?;

        let mut doors = Vec::new();
        let mut statistics = None;
        for socket in gateway.sockets()? {
            let protocol = match socket.role {
                Role::Raw => Protocol::Raw,
                Role::Uwsgi => Protocol::Uwsgi,
                // One gateway is enough to tell of.
                Role::Stats if gateway.is_first() => {
                    statistics = Some(socket.listener);
                    continue;
                }
                Role::Stats | Role::Shared | Role::Watched => continue,
            };
            let (Some(rules), Some(program)) =
                (rules.get(socket.rules), programs.get(socket.rules))
            else {
                continue;
            };
            doors.push(Door {
                listener: socket.listener,
                protocol,
                name: socket.name,
                rules: Rc::clone(rules),
                program: Arc::clone(program),
                rests: false,
            });
        }
        let (aftercare, left_behind) =
            aftercare::adopt(gateway.ordinal(), config.hangup_grace.is_some());
        let (left, found) = Left::new(&config, gateway.ordinal(), &poller)
            .context("cannot keep sessions that are left")?;
        let told = Told::new(
            &config,
            gateway.ordinal(),
            doors.iter().map(|door| told::Socket::of(&door.name, &door.rules)).collect(),
        );
        let recorder = Recorder::new(doors.iter().map(|door| &*door.rules), gateway.is_first());
        let mut router = Self {
            cx: Context::new(Made {
                ordinal: gateway.ordinal(),
                config,
                spawner: Spawner::new()?,
                doors: Doors::new(doors, statistics),
                seats: Seats::of(gateway.ordinal()),
                told,
                closing: Closing::new(limit.map(|limit| limit.now)),
                poller,
            }),
            callers: Table::new(),
            latecomers: Latecomers::default(),
            sessions: Table::new(),
            beginnings: Beginnings::new(),
            commands: Commands::default(),
            inquirers: Inquirers::default(),
            left,
            departures: Departures::default(),
            programs: Programs::new(aftercare, left_behind),
            children,
            statistics: Statistics::new(server::stats_http()),
            recorder,
            siblings: Siblings::of(gateway.ordinal()),
            faults: Faults::default(),
        };
        router.reach_recorder();
        router.restore(found);
        router.cx.seats.free_rest();
        if let Some(grace) =
            router.cx.config.hangup_grace.filter(|_| router.programs.has_left_behind())
        {
            router.cx.after(grace, Due::LeftBehind);
        }
        for remark in fpty::sys::what_is_missing() {
            log(&format!("forkptyrouter: {remark}"));
        }
        router.hear_siblings();
        router.cx.doors.open(&router.cx.poller);
        if let Some(limit) = limit {
            // Two descriptors a session, a few dozen for the gateway itself.
            log(&format!(
                "forkptyrouter: up to {} sessions at once ({} descriptors)",
                limit.now.saturating_sub(64) / 2,
                limit.now
            ));
        }
        Ok(router)
    }

    /// How long to wait for events: not at all where something waits for its
    /// turn. (A timer of no time would be over in the turn that set it.)
    fn wait(&self) -> Option<Duration> {
        match self.cx.behind.is_empty() && self.departures.is_empty() {
            true => self.cx.timers.wait(Instant::now()),
            false => Some(Duration::ZERO),
        }
    }

    /// Hands an event to whom it concerns.
    fn dispatch(&mut self, ready: Ready) {
        let source = Source::of(ready.token);
        self.guarded(source.whose(), |router| match source {
            Source::Listener(index) => router.accept(index),
            Source::StatsListener => router.accept_stats(),
            Source::Stats(key) => router.stats_ready(key, ready),
            Source::Children => router.child_ended(),
            Source::Siblings => router.siblings_ready(),
            Source::Recorder => router.recorder_ready(),
            Source::Client(key) => router.client_ready(key, ready),
            Source::Terminal(key) => router.terminal_ready(key, ready),
            Source::Caller(key) => router.caller_ready(key, ready),
            Source::Inquirer(key) => router.inquirer_ready(key, ready),
            Source::CommandClient(key) => router.command_client_ready(key, ready),
            Source::CommandStream(key, number) => router.command_stream_ready(key, number, ready),
            Source::Closing(key) => router.cx.closing_ready(key, ready),
            Source::Left => router.with_left(|left, cx, _, _| left.left_ready(cx)),
            Source::Alarm => router.cx.timers.rings(),
        });
        self.follow();
    }

    /// Does what is due.
    fn fire(&mut self, due: Due) {
        self.guarded(due.whose(), |router| router.do_what_is_due(due));
        self.follow();
    }

    fn do_what_is_due(&mut self, due: Due) {
        let router = self;
        if due.whose() == Whose::All {
            fault::point("timer");
        }
        match due {
            Due::Idle(key) => router.idle(key, false),
            Due::IdleSoon(key) => router.idle(key, true),
            Due::Drained(key) => router.drained(key),
            Due::EndOfInput(key) => router.end_of_input(key),
            Due::Unheard(key) => router.unheard(key),
            Due::Unanswered(key) => router.unanswered(key),
            Due::Reopened(key) => router.reopened(key),
            Due::Dismissed(key) => router.abandon(key),
            Due::Executed(key) => router.executed(key),
            Due::Offer(key) => router.offer(key),
            Due::First(key) => router.give_first(key),
            Due::Keeper(key) => router.entrust(key),
            Due::Silent(key) => router.silent(key),
            Due::CommandUnanswered(key) => router.command_unanswered(key),
            Due::CommandExecuted(key) => router.command_executed(key),
            Due::Closing => router.cx.look_after_closing(),
            Due::Reap => router.reap(),
            Due::Tidy => {
                router.cx.tidy_is_due = false;
                router.tidy_up();
            }
            Due::Log => {
                router.cx.log_is_due = false;
                log::flush();
                let took_some = router.cx.told.flush();
                router.try_the_log_again(took_some);
            }
            Due::Stats(key) => router.hurry_stats(key),
            Due::Inquirer(key) => router.hurry_inquirer(key),
            Due::CommandDismissed(key) => router.let_command_go(key),
            Due::Answer(number) => router.unanswered_question(number),
            Due::Recording => router.wake_recorder(),
            Due::Recorder => router.look_at_recorder(),
            Due::Outlived(pid) => router.outlived(pid),
            Due::Kill => router.kill_outlived(),
            Due::TerminalUsers => router.kill_terminal_users(),
            Due::LeftBehind => router.end_left_behind(),
            Due::Accept => router.cx.doors.open(&router.cx.poller),
            Due::Left => router.with_left(|left, cx, _, programs| {
                left.look_after_left(cx, programs);
            }),
            Due::Door(door) => router.cx.doors.wake(door, &router.cx.poller),
            Due::LimitSoon(key) => router.limit_comes(key),
            Due::Limit(key) => router.limit(key),
            Due::CommandLimitSoon(key) => router.command_limit_comes(key),
            Due::CommandLimit(key) => router.command_limit(key),
        }
    }

    /// Where lines wait for the log, they are written before long.
    fn try_the_log_again(&mut self, somebody_reads: bool) {
        if (log::has_more() || self.cx.told.waits()) && !self.cx.log_is_due {
            self.cx.log_is_due = true;
            self.cx.after(if somebody_reads { LOG_SOON } else { LOG_AGAIN }, Due::Log);
        }
    }

    /// Deadlines of those who are not there any more are thrown out.
    fn clear_timers(&mut self) {
        if !self.cx.timers.pile_up() {
            return;
        }
        let (sessions, programs) = (&self.sessions, &self.programs);
        let (statistics, callers) = (&self.statistics, &self.callers);
        let (commands, inquirers) = (&self.commands, &self.inquirers);
        self.cx.timers.retain(|due| match due {
            Due::Stats(key) => statistics.has(key),
            Due::Inquirer(key) => inquirers.has(key),
            Due::CommandDismissed(key) => commands.has(key),
            Due::Outlived(pid) => programs.has(pid),
            Due::Silent(key) => callers.has(key),
            Due::CommandUnanswered(key)
            | Due::CommandExecuted(key)
            | Due::CommandLimitSoon(key)
            | Due::CommandLimit(key) => commands.has(key),
            _ => due.session().is_none_or(|key| sessions.has(key)),
        });
    }

    /// Does what parts have come to.
    fn follow(&mut self) {
        while let Some(outcome) = self.cx.next_outcome() {
            self.guarded(outcome.whose(), |router| router.obey(outcome));
        }
    }

    fn obey(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Settle(key) => self.settle(key),
            Outcome::SettleCommand(key) => self.settle_command(key),
            Outcome::Entrust(key) => self.entrust(key),
            Outcome::NotHeard(key) => self.end_unheard(key),
            Outcome::Offer(key) => self.offer(key),
            Outcome::LetGo(key) => self.let_client_go(key),
            Outcome::BeginsAgain(key, since) => self.begins_again(key, since),
            Outcome::AdoptedEnded(key, exit, ended) => self.adopted_ended(key, exit, ended),
            Outcome::TurnBack(newcomer, why) => self.turn_back(*newcomer, true, why),
            Outcome::HangUp(both, copies) => {
                let (master, program) = *both;
                self.hang_up(&master, program, copies);
            }
            Outcome::LeftReady(ready) => self.with_left(|left, cx, sessions, programs| {
                left.one_ready(cx, sessions, programs, ready);
            }),
            Outcome::LookAfterLeft(key) => self.with_left(|left, cx, sessions, programs| {
                left.look_after_entry(cx, sessions, programs, key);
            }),
            Outcome::FeedWatcher(key) => {
                self.with_left(|left, cx, _, _| left.feed_watcher(cx, key))
            }
        }
    }

    fn entrust(&mut self, key: Key) {
        let command = self.command_of(Subject::Session(key));
        if let Some(left) = &mut self.left {
            left.entrust(&mut self.cx, &self.sessions, &mut self.programs, key, command);
        }
    }

    /// Nobody can wait for a session.
    fn end_unheard(&mut self, key: Key) {
        if let Some(attached) = self.sessions.get_mut(key) {
            let line = format!("session ended: {NOT_HEARD}");
            log(&format!("forkptyrouter: {line}"));
            attached.session.dismiss(Ending::Lost, &line, &mut attached.wires);
            self.close(key);
        }
    }

    /// Takes up the sessions of a gateway that was here before us.
    fn restore(&mut self, found: Found) {
        for (record, held) in found {
            let (id, mut is_done) = (record.id.clone(), false);
            self.guarded(Whose::Past, |router| {
                fault::strike("adoption", || record.name.clone());
                router.restore_one(record, held);
                is_done = true;
            });
            // Or the next gateway would panic as well.
            if let Some(left) = self.left.as_mut().filter(|_| !is_done) {
                left.is_over(id);
            }
            self.follow();
        }
        if let Some(left) = &mut self.left {
            left.look_after(&mut self.cx, left::SOON);
        }
    }

    fn restore_one(&mut self, record: Record, held: Held) {
        let Some(left) = &mut self.left else {
            return;
        };
        match left.restore(&mut self.cx, &mut self.sessions, record, held) {
            Restored::Over => {}
            Restored::Alone(key) => {
                self.faults.made = Some(Whose::Left(key));
                self.tell_store(key);
            }
            Restored::Attached { entry, session, since } => {
                self.faults.made = Some(Whose::Session(session));
                bound::keep_seat(&mut self.cx, &self.sessions, session);
                self.begins_again(session, since);
                self.tell_store(entry);
            }
            Restored::Bound(session, past) => {
                self.faults.made = Some(Whose::Session(session));
                let Past { said, command, started, door, size } = *past;
                let subject = Subject::Session(session);
                self.inquirers.note_command(subject, command.clone());
                bound::keep_seat(&mut self.cx, &self.sessions, session);
                self.cx.told.hears(door, "extended", || said);
                self.cx.told.asks(|| command);
                self.note_session(session, size);
                self.cx.told.goes_on(subject, started);
                self.goes_on(session, started);
            }
            Restored::Ends(master, program) => self.hang_up(&master, program, Copies::Ended),
        }
    }

    /// The idle time and the time of a session that began long ago are looked
    /// after again.
    fn goes_on(&mut self, session: Key, started: Timestamp) {
        let Some(attached) = self.sessions.get_mut(session) else {
            return;
        };
        let rules = self.cx.doors.rules(attached.door);
        let (timeout, limit) = rules.map_or((None, None), |rules| (rules.timeout, rules.max_time));
        if let Some(timeout) = timeout {
            self.watch_idleness(session, timeout);
        }
        if let Some(limit) = limit {
            self.limit_time(session, limit.saturating_sub(started.elapsed()));
        }
    }
}
