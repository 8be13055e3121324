//! What a gateway and its recorder have to say to each other, and what waits for
//! that.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use super::protocol::Answer;
use super::restart::killed;
use super::results::{Bytes, News};
use super::{Over, Recorder, connect, log_of};
use crate::event_loop::context::Context;
use crate::event_loop::fault_injection;
use crate::event_loop::slab::Source;
use crate::event_loop::subject::Whose;
use crate::event_loop::timers::Due;
use crate::log::log;
use crate::observe::audit::Recorded;
use crate::process::ipc::decode;
use crate::session::relay::Sessions;
use fpty::error::reason;
use fpty::sys::Read;
use fpty::sys::poll::Interest;
use fpty::sys::shm_queue::Giver;

/// How soon the recorder is woken up for a little.
const SOON: Duration = Duration::from_millis(20);

/// How often is looked after what waits for the recorder.
const LOOK: Duration = Duration::from_millis(250);

/// So often it stands still before nobody waits for it any more.
const STALLED: u8 = 3;

/// How long the end of a session waits for the last word on its recording.
const PATIENCE: Duration = Duration::from_secs(10);

impl Recorder {
    /// Whom an answer is about.
    fn whose(&self, answer: &Answer) -> Whose {
        let number = match answer {
            Answer::Failed { session, .. }
            | Answer::Done { session, .. }
            | Answer::Resumed { session, .. } => session,
            Answer::Here { .. } | Answer::Room | Answer::Over { .. } => return Whose::All,
        };
        self.sessions.get(number).map_or(Whose::Past, |recording| recording.whose())
    }

    /// Reaches for the recorder, where there is one. Returns whether sessions
    /// can be recorded.
    pub fn reach(&mut self, cx: &mut Context) -> bool {
        if self.sink.borrow().is_connected() {
            return true;
        }
        // Whoever is not recorded for want of it is told, or the log is.
        let link = Giver::new().map_err(|error| reason(&error));
        let Ok(link) = link.and_then(|queue| connect(&self.hello, queue, None)) else {
            return false;
        };
        self.sink.borrow_mut().connect(Some(link));
        self.listen(cx)
    }

    /// Waits for what the recorder says. Returns whether it can.
    pub(crate) fn listen(&mut self, cx: &mut Context) -> bool {
        let token = Source::Recorder.token();
        let mut sink = self.sink.borrow_mut();
        let registered = sink
            .channel()
            .is_some_and(|channel| cx.poller.add(channel.as_fd(), token, Interest::READ).is_ok());
        if !registered {
            sink.connect(None);
        }
        registered
    }

    /// After each turn: what was recorded in it is passed on before long.
    pub fn pass_on(&mut self, cx: &mut Context) {
        let fresh = self.sink.borrow().is_fresh();
        match fresh {
            Some(true) => self.sink.borrow_mut().flush(),
            Some(false) if !std::mem::replace(&mut self.soon_is_due, true) => {
                cx.after(SOON, Due::Recording);
            }
            _ => {}
        }
        let waits = {
            let sink = self.sink.borrow();
            !sink.held.is_empty() || sink.has_more()
        };
        if waits {
            self.look_after(cx);
        }
    }

    /// It is time to pass it on.
    pub fn wake(&mut self) {
        self.soon_is_due = false;
        self.sink.borrow_mut().flush();
    }

    pub(crate) fn look_after(&mut self, cx: &mut Context) {
        if !std::mem::replace(&mut self.look_is_due, true) {
            self.taken = self.sink.borrow().taken();
            cx.after(LOOK, Due::Recorder);
        }
    }

    /// Something waits for the recorder: whether it takes anything at all.
    pub fn look(&mut self, cx: &mut Context) {
        self.look_is_due = false;
        let mut sink = self.sink.borrow_mut();
        let stands_still = sink.taken() == self.taken;
        sink.flush();
        let mut waits = sink.has_more();
        if !sink.held.is_empty() {
            self.still = if stands_still { self.still + 1 } else { 0 };
            sink.stalled |= self.still >= STALLED;
            waits |= !sink.stalled;
        }
        let stalled = sink.stalled;
        drop(sink);
        if stalled {
            self.still = 0;
            self.let_go_of_held(cx);
        }
        // These have waited for long enough.
        self.tell_over(cx, |_, over| (over.since.elapsed() >= PATIENCE).then(Bytes::default));
        self.last_lines.late(PATIENCE).into_iter().for_each(|line| cx.told.say(line));
        if waits || !self.over.is_empty() || self.last_lines.are_there() {
            self.look_after(cx);
        }
    }

    /// Tells ends without the recorder's word: of whose recordings nothing more is
    /// known, but that this is lost of them.
    pub(crate) fn tell_over(
        &mut self,
        cx: &mut Context,
        lost: impl Fn(u32, &Over) -> Option<Bytes>,
    ) {
        let told =
            self.over.iter().filter_map(|(number, over)| Some((*number, lost(*number, over)?)));
        for (number, left) in told.collect::<Vec<_>>() {
            if let Some(Over { recording, last, .. }) = self.over.remove(&number) {
                let dropped = recording.told_missing(left) + left.lost;
                let recorded = Recorded { path: recording.path(), dropped, ..Recorded::default() };
                cx.told.tell_last(last.as_deref(), Some(&recorded));
            }
        }
    }

    /// Terminals are read again.
    fn let_go_of_held(&mut self, cx: &mut Context) {
        let held = std::mem::take(&mut self.sink.borrow_mut().held);
        for recording in held.iter().filter_map(|number| self.sessions.get(number)) {
            recording.let_go();
            Self::read_on(cx, recording);
        }
    }

    /// The recorder says something, or is gone.
    pub fn ready(&mut self, cx: &mut Context) {
        // Answers are short, and names are.
        let mut buffer = [0; 8192];
        loop {
            let read = match self.sink.borrow().channel() {
                Some(channel) => channel.read(&mut buffer),
                None => return,
            };
            match read {
                Read::Bytes(count) => {
                    if let Some(answer) = decode::<Answer>(&buffer[..count]) {
                        let whose = self.whose(&answer);
                        Self::then(cx, whose, News::Said(answer));
                    }
                }
                Read::Blocked => return,
                // After what it has said last.
                Read::End | Read::Gone => return Self::then(cx, Whose::All, News::Gone),
            }
        }
    }

    /// What the recorder has said.
    pub(crate) fn hear(&mut self, cx: &mut Context, sessions: &mut Sessions, answer: Answer) {
        fault_injection::point("recorder-says");
        match answer {
            Answer::Here { uid } => {
                let is_open_to = |user: &u32| *user == 0 || *user == uid;
                let is_open = self.users.iter().any(is_open_to);
                if std::mem::take(&mut self.tells) && is_open {
                    log("forkptyrouter: recordings are not protected from the sessions' user, \
                         who is the recorder's or root");
                }
            }
            Answer::Room => self.let_go_of_held(cx),
            Answer::Resumed { session, part, moved, dropped } => {
                // It may be over by now.
                let over = self.over.get(&session).map(|over| &over.recording);
                let Some(recording) = self.sessions.get(&session).or(over).map(Rc::clone) else {
                    return;
                };
                recording.resume_at(part, dropped);
                Self::tell(cx, &recording);
                // Its file before that lacks what was lost with the recorder.
                if moved && recording.must_be() && !recording.is_elsewhere() {
                    self.lose(cx, sessions, &recording, &killed());
                } else if moved {
                    log_of(&recording.id(), "is recorded in another file from here on");
                }
            }
            Answer::Failed { session, why } => {
                if let Some(over) = self.over.get(&session) {
                    let id = over.recording.id();
                    log_of(&id, &format!("is not recorded any more: {}", why.text()));
                }
                if let Some(recording) = self.sessions.get(&session).map(Rc::clone) {
                    self.lose(cx, sessions, &recording, &why);
                }
            }
            Answer::Done { session, recorded } => {
                let Some(Over { recording, last, .. }) = self.over.remove(&session) else {
                    return;
                };
                let path = match recorded.path.as_str() {
                    "" => recording.path(),
                    name => recording.path_of(name),
                };
                self.sink.borrow_mut().note(session, 0);
                cx.told.tell_last(last.as_deref(), Some(&Recorded { path, ..recorded }));
            }
            Answer::Over { id, folder, recorded } => {
                let line = self.last_lines.answered(&id, folder, recorded);
                line.into_iter().for_each(|line| cx.told.say(line));
            }
        }
    }
}
