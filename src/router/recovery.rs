//! A bug shows itself as a panic in the midst of something: what that was
//! about ends, alone, and nothing is left of it. The gateway goes on.
//!
//! A panic leaves its own traces: somebody in one table and not in another, a
//! program that belongs to nobody. So after it whatever was being made is
//! ended as well, and what nobody has any more is given back.
//!
//! Where even that panics, or what concerns all of them does so again and
//! again, the gateway ends, and the server starts another one: sessions that
//! were handed over or left live on.

use std::any::Any;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::GatewayLoop;
use super::table::{Key, Source};
use super::timers::Due;
use super::told::{Gone, Subject};
use crate::uwsgi::guard;
use crate::uwsgi::log::log;
use fpty::error::Error;
use fpty::proto::{Ended, Ending};
use fpty::sys::child::{self, Pid};
use fpty::sys::process::Process;

/// What a client is told.
const INTERNAL: &str = "internal error in the router: see the server's log";

/// So many panics that are about nobody, within such a time, are one too many.
const STRIKES: u32 = 16;
const WITHIN: Duration = Duration::from_secs(10);

/// How soon is looked again after what a panic may have cut short.
const AGAIN: Duration = Duration::from_millis(200);

/// Whom something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A session.
    Session(Key),
    /// A session that has not begun.
    Unborn(Key),
    /// A command without a terminal.
    Command(Key),
    /// A client whose session has not begun.
    Caller(Key),
    /// A client that asks who is there.
    Inquirer(Key),
    /// A client of the statistics.
    Stats(Key),
    /// A session that can be left.
    Left(Key),
    /// A client that only watches.
    Watcher(Key),
    /// A client that was told its last.
    Closing(Key),
    /// Somebody who is not there any more, whatever becomes of it.
    Past,
    /// Somebody who comes.
    Door,
    /// All of them.
    All,
}

impl From<Subject> for Whose {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::Session(key) => Self::Session(key),
            Subject::Command(key) => Self::Command(key),
        }
    }
}

impl Source {
    /// Whom an event is about.
    pub(super) fn whose(self) -> Whose {
        match self {
            Self::Client(key) | Self::Terminal(key) => Whose::Session(key),
            Self::CommandClient(key) | Self::CommandStream(key, _) => Whose::Command(key),
            Self::Caller(key) => Whose::Caller(key),
            Self::Inquirer(key) => Whose::Inquirer(key),
            Self::Stats(key) => Whose::Stats(key),
            Self::Closing(key) => Whose::Closing(key),
            Self::Listener(_) | Self::StatsListener => Whose::Door,
            // These look at one after the other, see there.
            Self::Children | Self::Siblings | Self::Recorder | Self::Left | Self::Alarm => {
                Whose::All
            }
        }
    }
}

impl Due {
    /// Whom it is about.
    pub(super) fn whose(self) -> Whose {
        match self {
            Self::CommandUnanswered(key)
            | Self::CommandExecuted(key)
            | Self::CommandDismissed(key)
            | Self::CommandLimitSoon(key)
            | Self::CommandLimit(key) => Whose::Command(key),
            Self::Silent(key) => Whose::Caller(key),
            Self::Inquirer(key) => Whose::Inquirer(key),
            Self::Stats(key) => Whose::Stats(key),
            // Whoever asked gives up by itself.
            Self::Answer(_) => Whose::Past,
            _ => self.session().map_or(Whose::All, Whose::Session),
        }
    }
}

/// What is known of panics.
#[derive(Debug, Default)]
pub struct Faults {
    /// What was made by what is done now.
    pub made: Option<Whose>,
    strikes: u32,
    first: Option<Instant>,
    is_hopeless: bool,
}

impl Faults {
    /// One more that is about nobody.
    fn strike(&mut self, now: Instant) {
        if self.first.is_none_or(|first| now.saturating_duration_since(first) > WITHIN) {
            (self.first, self.strikes) = (Some(now), 0);
        }
        self.strikes += 1;
        self.is_hopeless |= self.strikes >= STRIKES;
    }

    /// A session that is being made has begun.
    pub fn has_begun(&mut self, key: Key) {
        if self.made == Some(Whose::Unborn(key)) {
            self.made = Some(Whose::Session(key));
        }
    }

    /// Whether the gateway can go on.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(&self) -> fpty::error::Result<()> {
        match self.is_hopeless {
            true => Err(Error::new("internal errors that it cannot recover from, see above")),
            false => Ok(()),
        }
    }
}

impl GatewayLoop {
    /// Does something for somebody; if it panics they end.
    pub(super) fn guarded(&mut self, whose: Whose, body: impl FnOnce(&mut Self)) {
        let before = self.faults.made.take().or(self.cx.made.take());
        let outcome = catch_unwind(AssertUnwindSafe(|| body(self)));
        let made = self.cx.made.take();
        let made = std::mem::replace(&mut self.faults.made, before).or(made);
        if let Err(payload) = outcome {
            self.recover(whose, made, &*payload);
        }
    }

    #[cold]
    fn recover(&mut self, whose: Whose, made: Option<Whose>, payload: &(dyn Any + Send)) {
        log(&format!("forkptyrouter: internal error: {}", guard::text(payload)));
        self.cx.clear();
        let theirs = [Some(whose), made];
        for whose in theirs.into_iter().flatten() {
            let ends = |router: &mut Self| router.end_whose(whose);
            if catch_unwind(AssertUnwindSafe(|| ends(self))).is_err() {
                log("forkptyrouter: internal error: what it was about is dropped as it is");
                let drops = |router: &mut Self| router.drop_whose(whose);
                self.faults.is_hopeless |= catch_unwind(AssertUnwindSafe(|| drops(self))).is_err();
            }
        }
        let orders = |router: &mut Self| router.put_in_order();
        self.faults.is_hopeless |= catch_unwind(AssertUnwindSafe(|| orders(self))).is_err();
    }

    /// Ends whom a panic was about.
    fn end_whose(&mut self, whose: Whose) {
        super::fault::point("end");
        match whose {
            Whose::Session(key) => self.end_panicked(key),
            Whose::Unborn(key) => {
                self.has_no_more_program(key);
                self.refuse_session(key, Ended::because(Ending::Refused, INTERNAL));
            }
            Whose::Command(key) => self.end_panicked_command(key, INTERNAL),
            Whose::Caller(key) => self.refuse_caller(key, INTERNAL),
            Whose::Inquirer(key) => self.end_inquirer(key, INTERNAL),
            Whose::Stats(key) => self.close_stats(key),
            Whose::Left(key) => match self.left.as_ref().and_then(|left| left.session_of(key)) {
                Some(session) => self.end_panicked(session),
                None => self.with_left(|left, cx, _, _| left.end_left(cx, key)),
            },
            Whose::Watcher(key) => self.with_left(|left, cx, _, _| left.end_watcher(cx, key)),
            Whose::Closing(key) => self.cx.closing.drop_one(key),
            Whose::Past => {}
            Whose::Door => self.cx.pause(),
            Whose::All => {
                self.faults.strike(Instant::now());
                // Whatever was cut short, and waits for nothing else.
                self.cx.pause();
                self.cx.after(AGAIN, Due::Reap);
                self.cx.after(AGAIN, Due::Kill);
                self.with_left(|left, cx, _, _| left.look_after(cx, AGAIN));
            }
        }
    }

    pub(super) fn end_panicked(&mut self, key: Key) {
        self.has_no_more_program(key);
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        // In the midst of output that it does not read it would be misread.
        if !attached.session.has_output() && attached.session.dismissed().is_none() {
            let line = format!("session ended: {INTERNAL}");
            attached.session.dismiss(Ending::Lost, &line, &mut attached.wires);
        }
        self.close(key);
    }

    /// A program that was reaped has no number any more.
    fn has_no_more_program(&mut self, key: Key) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        let programs = &self.programs;
        let is_there = |program: &Process| !program.is_child() || programs.has(program.pid());
        attached.wires.program = attached.wires.program.take().filter(is_there);
    }

    /// It could not be ended: nobody hears of it any more.
    fn drop_whose(&mut self, whose: Whose) {
        match whose {
            Whose::Session(key) | Whose::Unborn(key) => drop(self.sessions.remove(key)),
            Whose::Command(key) => self.commands.drop_one(key),
            Whose::Caller(key) => drop(self.callers.remove(key)),
            Whose::Inquirer(key) => self.inquirers.drop_one(key),
            Whose::Stats(key) => self.close_stats(key),
            Whose::Left(key) | Whose::Watcher(key) => {
                if let Some(left) = &mut self.left {
                    left.drop_one(key, matches!(whose, Whose::Watcher(_)));
                }
            }
            Whose::Closing(key) => self.cx.closing.drop_one(key),
            Whose::Past => {}
            Whose::Door | Whose::All => self.faults.is_hopeless = true,
        }
    }

    /// What belongs to nobody is given back, and what says that somebody is
    /// there who is not.
    fn put_in_order(&mut self) {
        self.with_left(|left, cx, sessions, _| left.end_lost_entries(cx, sessions));
        let is_there = |router: &Self, subject: Subject| match subject {
            Subject::Session(key) => router.sessions.has(key),
            Subject::Command(key) => router.commands.has(key),
        };
        let gone: Vec<Subject> =
            self.cx.told.subjects().filter(|subject| !is_there(self, *subject)).collect();
        for subject in gone {
            if let Some(last) = self.cx.told.ended(subject, Gone::Lost, (None, None)) {
                self.cx.told.tell_last(&last, None);
            }
        }
        let (sessions, commands) = (&self.sessions, &self.commands);
        let exists = |subject: Subject| match subject {
            Subject::Session(key) => sessions.has(key),
            Subject::Command(key) => commands.has(key),
        };
        self.inquirers.retain(exists);
        let waiting = self.left.iter().flat_map(|left| left.waiting_seats());
        let calling = self.callers.iter().filter_map(|(_, caller)| caller.seat());
        self.cx.seats.retain(exists, calling.chain(waiting));
        if let Some(recorder) = &mut self.recorder {
            recorder.retain(|key| sessions.has(key));
        }
        self.hang_up_orphans();
    }

    /// Programs that run for nobody lose their client.
    fn hang_up_orphans(&mut self) {
        let left = self.left.iter().flat_map(|left| left.programs());
        let owned: HashSet<Pid> =
            self.commands.programs().chain(left).chain(self.departures.programs()).collect();
        let sessions = &self.sessions;
        let orphans = self.programs.orphans(|key| sessions.has(key), &owned);
        for program in orphans {
            self.programs.client_left(program);
            if let Some(grace) = self.cx.config.hangup_grace {
                self.cx.after(grace, Due::Outlived(program));
            }
            // It was not reaped: the number is its own, and its group's.
            for signal in [libc::SIGHUP, libc::SIGCONT] {
                child::signal_group(program, signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_without_end_ends_the_gateway() {
        let (mut faults, now) = (Faults::default(), Instant::now());
        for number in 0..10 * STRIKES {
            faults.strike(now + number * WITHIN);
        }
        assert!(faults.check().is_ok(), "now and then");
        for _ in 0..STRIKES {
            assert!(faults.check().is_ok());
            faults.strike(now + 10 * STRIKES * WITHIN);
        }
        assert!(faults.check().is_err(), "again and again");
    }
}
