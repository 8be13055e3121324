//! The gateway's dialogue with the recorder: answers, flushes, and whether the recorder
//! makes progress.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use super::recorder_protocol::{Answer, RecorderEvent, Unconsumed};
use super::recorder_restart::recorder_was_killed;
use super::{EndedRecording, Recordings, log_session, recorder_launcher};
use crate::event_loop::context::Context;
use crate::event_loop::fault_domain::FaultDomain;
use crate::event_loop::fault_injection;
use crate::event_loop::slab::Token;
use crate::event_loop::timers::Timer;
use crate::log::log;
use crate::observe::audit::RecordingResult;
use crate::process::ipc::decode;
use crate::session::relay::Sessions;
use fpty::sys::ReadOutcome;
use fpty::sys::poll::Interest;
use fpty::sys::shm_queue::Producer;

/// Delay of the wake-up of the recorder for a few bytes.
const FLUSH_DELAY: Duration = Duration::from_millis(20);

/// Interval of checks while something waits for the recorder.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Checks without progress before the recorder counts as stalled.
const MAX_STALLED_CHECKS: u8 = 3;

/// How long the line of an end waits for the result of the recording.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl Recordings {
    /// The fault domain of an answer.
    fn fault_domain(&self, answer: &Answer) -> FaultDomain {
        match answer {
            Answer::Failed { session, .. }
            | Answer::Done { session, .. }
            | Answer::Resumed { session, .. } => self.fault_domain_of(*session),
            Answer::Here { .. } | Answer::Room | Answer::Over { .. } => FaultDomain::Gateway,
        }
    }

    /// The fault domain of a recording.
    pub(crate) fn fault_domain_of(&self, number: u32) -> FaultDomain {
        let session = self.sessions.get(&number).and_then(|recording| recording.session_ref.get());
        session.map_or(FaultDomain::Nobody, FaultDomain::from)
    }

    /// Connects to the recorder, unless connected. Returns whether sessions can be
    /// recorded.
    pub fn ensure_connected(&mut self, cx: &mut Context) -> bool {
        if self.producer.borrow().channel().is_some() {
            return true;
        }
        // Whoever is not recorded for want of it is told, or the log is.
        let link = Producer::new()
            .ok()
            .and_then(|queue| recorder_launcher::connect(&self.hello, queue, None));
        let has_recorder = link.is_some();
        if has_recorder {
            self.producer.borrow_mut().connect(link);
        }
        has_recorder && self.register_channel(cx)
    }

    /// Registers the channel at the poller. Returns whether that worked.
    pub(crate) fn register_channel(&mut self, cx: &mut Context) -> bool {
        let token = Token::Recorder.token();
        let mut producer = self.producer.borrow_mut();
        let registered = producer
            .channel()
            .is_some_and(|channel| cx.poller.add(channel.as_fd(), token, Interest::READ).is_ok());
        if !registered {
            producer.connect(None);
        }
        registered
    }

    /// At the end of a turn: schedules a flush of what was recorded in it.
    pub fn flush_soon(&mut self, cx: &mut Context) {
        let fresh = self.producer.borrow().flush_is_urgent();
        match fresh {
            Some(true) => self.producer.borrow_mut().flush(),
            Some(false) if !std::mem::replace(&mut self.flush_is_scheduled, true) => {
                cx.schedule(FLUSH_DELAY, Timer::RecordingFlush);
            }
            _ => {}
        }
        let producer = self.producer.borrow();
        let waits = !producer.throttled.is_empty() || !producer.backlog.is_empty();
        drop(producer);
        if waits {
            self.schedule_check(cx);
        }
    }

    /// Flushes the queue.
    pub fn flush(&mut self) {
        self.flush_is_scheduled = false;
        self.producer.borrow_mut().flush();
    }

    /// Schedules a check of the recorder's progress.
    pub(crate) fn schedule_check(&mut self, cx: &mut Context) {
        if !std::mem::replace(&mut self.check_is_scheduled, true) {
            self.taken = self.producer.borrow().taken();
            cx.schedule(CHECK_INTERVAL, Timer::RecorderCheck);
        }
    }

    /// Checks whether the recorder makes progress.
    pub fn check_progress(&mut self, cx: &mut Context) {
        self.check_is_scheduled = false;
        let mut producer = self.producer.borrow_mut();
        let stands_still = producer.taken() == self.taken;
        producer.flush();
        let mut waits = !producer.backlog.is_empty();
        if !producer.throttled.is_empty() {
            self.stalled_checks = if stands_still { self.stalled_checks + 1 } else { 0 };
            producer.stalled |= self.stalled_checks >= MAX_STALLED_CHECKS;
            waits |= !producer.stalled;
        }
        let stalled = producer.stalled;
        drop(producer);
        if stalled {
            self.stalled_checks = 0;
            self.resume_throttled(cx);
        }
        // These have waited for long enough.
        self.end_unanswered(cx, |_, over| {
            (over.since.elapsed() >= ANSWER_TIMEOUT).then(Unconsumed::default)
        });
        self.write_expired_ends(cx, ANSWER_TIMEOUT);
        if waits || !self.over.is_empty() || self.pending_ends.is_waiting() {
            self.schedule_check(cx);
        }
    }

    /// Writes ends without the recorder's result: those for which `lost` gives the lost
    /// bytes.
    pub(crate) fn end_unanswered(
        &mut self,
        cx: &mut Context,
        lost: impl Fn(u32, &EndedRecording) -> Option<Unconsumed>,
    ) {
        let told =
            self.over.iter().filter_map(|(number, over)| Some((*number, lost(*number, over)?)));
        for (number, left) in told.collect::<Vec<_>>() {
            if let Some(EndedRecording { recording, last, .. }) = self.over.remove(&number) {
                let dropped = recording.reported_missing(left) + left.lost;
                let recorded = RecordingResult::unknown(&recording.path(), dropped);
                cx.audit.write_end(last.as_deref(), Some(&recorded));
            }
        }
    }

    /// Writes ends of the gateway before that have waited for so long.
    pub(crate) fn write_expired_ends(&mut self, cx: &mut Context, patience: Duration) {
        self.pending_ends.expired(patience).into_iter().for_each(|line| cx.audit.write_raw(line));
    }

    /// Resumes reading throttled terminals.
    fn resume_throttled(&mut self, cx: &mut Context) {
        let throttled = std::mem::take(&mut self.producer.borrow_mut().throttled);
        for recording in throttled.iter().filter_map(|number| self.sessions.get(number)) {
            recording.is_throttled.set(false);
            Self::resume_reading(cx, recording);
        }
    }

    /// The channel is readable: answers, or the recorder's end.
    pub fn ready(&mut self, cx: &mut Context) {
        // Answers are short, and names are.
        let mut buffer = [0; 8192];
        loop {
            let read = match self.producer.borrow().channel() {
                Some(channel) => channel.read(&mut buffer),
                None => return,
            };
            match read {
                ReadOutcome::Bytes(count) => {
                    if let Some(answer) = decode::<Answer>(&buffer[..count]) {
                        let fault_domain = self.fault_domain(&answer);
                        Self::then(cx, fault_domain, RecorderEvent::Answered(answer));
                    }
                }
                ReadOutcome::WouldBlock => return,
                // After what it has said last.
                ReadOutcome::Eof | ReadOutcome::Closed => {
                    return Self::then(cx, FaultDomain::Gateway, RecorderEvent::Killed);
                }
            }
        }
    }

    /// Handles an answer.
    pub(crate) fn handle_answer(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        answer: Answer,
    ) {
        fault_injection::point("recorder-says");
        match answer {
            Answer::Here { uid } => {
                let may_access = |user: &u32| *user == 0 || *user == uid;
                let is_open = self.users.iter().any(may_access);
                if std::mem::take(&mut self.logs_for_all) && is_open {
                    log("forkptyrouter: recordings are not protected from the sessions' user, \
                         who is the recorder's or root");
                }
            }
            Answer::Room => self.resume_throttled(cx),
            Answer::Resumed { session, part, moved, dropped } => {
                // It may be over by now.
                let over = self.over.get(&session).map(|over| &over.recording);
                let Some(recording) = self.sessions.get(&session).or(over).map(Rc::clone) else {
                    return;
                };
                recording.resume_at(part, dropped);
                Self::tell(cx, &recording);
                // Its file before that lacks what was lost with the recorder.
                if moved && recording.is_required() && !recording.is_in_other_folder {
                    self.stop_recording(cx, sessions, &recording, &recorder_was_killed());
                } else if moved {
                    log_session(&recording.id(), "is recorded in another file from here on");
                }
            }
            Answer::Failed { session, why } => {
                if let Some(over) = self.over.get(&session) {
                    let id = over.recording.id();
                    log_session(&id, &format!("is not recorded any more: {}", why.text()));
                }
                if let Some(recording) = self.sessions.get(&session).map(Rc::clone) {
                    self.stop_recording(cx, sessions, &recording, &why);
                }
            }
            Answer::Done { session, recorded } => {
                let Some(EndedRecording { recording, last, .. }) = self.over.remove(&session)
                else {
                    return;
                };
                let path = match recorded.path.as_str() {
                    "" => recording.path(),
                    name => recording.path_of(name),
                };
                self.producer.borrow_mut().note(session, 0);
                cx.audit.write_end(last.as_deref(), Some(&RecordingResult { path, ..recorded }));
            }
            Answer::Over { id, folder, recorded } => {
                let line = self.pending_ends.answered(&id, folder, recorded);
                line.into_iter().for_each(|line| cx.audit.write_raw(line));
            }
        }
    }
}
