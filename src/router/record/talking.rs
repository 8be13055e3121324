//! What a gateway and its recorder have to say to each other, and what waits for
//! that.

use std::time::Duration;

use super::super::GatewayLoop;
use super::super::fault;
use super::super::recovery::Whose;
use super::super::table::{Key, Source};
use super::super::timers::Due;
use super::super::told::Recorded;
use super::message::Answer;
use super::takeover::Bytes;
use super::{Over, Recorder, connect, door, log_of};
use crate::uwsgi::log::log;
use fpty::error::reason;
use fpty::sys::Read;
use fpty::sys::poll::Interest;
use fpty::sys::queue::Giver;

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
            Answer::Failed { session, .. } | Answer::Done { session, .. } => session,
            Answer::Here { .. } | Answer::Room => return Whose::All,
        };
        self.sessions.get(number).map_or(Whose::Past, |session| Whose::Session(session.key))
    }
}

impl GatewayLoop {
    /// Reaches for the recorder, where there is one. Returns whether sessions
    /// can be recorded.
    pub(in crate::router) fn reach_recorder(&mut self) -> bool {
        let Some(recorder) = &mut self.recorder else {
            return false;
        };
        if recorder.sink.borrow().is_connected() {
            return true;
        }
        // Whoever is not recorded for want of it is told, or the log is.
        let link = Giver::new().map_err(|error| reason(&error));
        let Ok(link) = link.and_then(|queue| connect(queue, None)) else {
            return false;
        };
        recorder.sink.borrow_mut().connect(Some(link));
        self.hear_recorder()
    }

    /// Waits for what the recorder says. Returns whether it can.
    pub(super) fn hear_recorder(&mut self) -> bool {
        let Some(recorder) = &self.recorder else {
            return false;
        };
        let token = Source::Recorder.token();
        let mut sink = recorder.sink.borrow_mut();
        let registered = sink
            .descriptor()
            .is_some_and(|channel| self.cx.poller.add(channel, token, Interest::READ).is_ok());
        if !registered {
            sink.connect(None);
        }
        registered
    }

    /// After each turn: what was recorded in it is passed on before long.
    pub(in crate::router) fn pass_on_recordings(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let fresh = recorder.sink.borrow().is_fresh();
        match fresh {
            Some(true) => recorder.sink.borrow_mut().flush(),
            Some(false) if !std::mem::replace(&mut recorder.soon_is_due, true) => {
                self.cx.after(SOON, Due::Recording);
            }
            _ => {}
        }
        let waits = self.recorder.as_ref().is_some_and(|recorder| {
            let sink = recorder.sink.borrow();
            !sink.held.is_empty() || sink.has_more()
        });
        if waits {
            self.look_after_recorder();
        }
    }

    /// It is time to pass it on.
    pub(in crate::router) fn wake_recorder(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.soon_is_due = false;
            recorder.sink.borrow_mut().flush();
        }
    }

    pub(super) fn look_after_recorder(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        if !std::mem::replace(&mut recorder.look_is_due, true) {
            recorder.taken = recorder.sink.borrow().taken();
            self.cx.after(LOOK, Due::Recorder);
        }
    }

    /// Something waits for the recorder: whether it takes anything at all.
    pub(in crate::router) fn look_at_recorder(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        recorder.look_is_due = false;
        let mut sink = recorder.sink.borrow_mut();
        let stands_still = sink.taken() == recorder.taken;
        sink.flush();
        let mut waits = sink.has_more();
        if !sink.held.is_empty() {
            recorder.still = if stands_still { recorder.still + 1 } else { 0 };
            sink.stalled |= recorder.still >= STALLED;
            waits |= !sink.stalled;
        }
        let stalled = sink.stalled;
        drop(sink);
        if stalled {
            recorder.still = 0;
            self.let_go_of_held();
        }
        self.give_up_waiting();
        let Some(recorder) = &self.recorder else {
            return;
        };
        if waits || !recorder.over.is_empty() {
            self.look_after_recorder();
        }
    }

    /// Ends that have waited for long enough are told without the recorder's
    /// word.
    fn give_up_waiting(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let late: Vec<u32> = recorder
            .over
            .iter()
            .filter(|(_, over)| over.since.elapsed() >= PATIENCE)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            self.tell_without(number, Bytes::default());
        }
    }

    /// Tells an end of whose recording nothing more is known, but that this is
    /// lost of it.
    pub(super) fn tell_without(&mut self, number: u32, left: Bytes) {
        let over = self.recorder.as_mut().and_then(|recorder| recorder.over.remove(&number));
        if let Some(Over { session, last, dropped, .. }) = over {
            let dropped = (dropped + left.lost).saturating_sub(left.missing);
            let recorded = Recorder::unknown(session.begin.folder, &session.file());
            self.cx.told.tell_last(&last, Some(&Recorded { dropped, ..recorded }));
        }
    }

    /// Terminals are read again.
    fn let_go_of_held(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let held = std::mem::take(&mut recorder.sink.borrow_mut().held);
        let keys: Vec<Key> = held
            .iter()
            .filter_map(|number| recorder.sessions.get(number))
            .map(|session| session.key)
            .collect();
        for key in keys {
            if let Some(recording) = self.sessions.get_mut(key).and_then(|it| it.wires.recording())
            {
                recording.let_go();
            }
            self.settle(key);
        }
    }

    /// The recorder says something, or is gone.
    pub(in crate::router) fn recorder_ready(&mut self) {
        // Answers are short, and names are.
        let mut buffer = [0; 8192];
        loop {
            let Some(recorder) = &mut self.recorder else {
                return;
            };
            let read = match recorder.sink.borrow().channel() {
                Some(channel) => channel.read(&mut buffer),
                None => return,
            };
            match read {
                Read::Bytes(count) => {
                    if let Ok(answer) = serde_json::from_slice::<Answer>(&buffer[..count]) {
                        let whose = recorder.whose(&answer);
                        self.guarded(whose, |router| router.recorder_says(answer));
                    }
                }
                Read::Blocked => return,
                Read::End | Read::Gone => return self.recorder_is_gone(),
            }
        }
    }

    fn recorder_says(&mut self, answer: Answer) {
        fault::point("recorder-says");
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        match answer {
            Answer::Here { uid } => {
                let is_open_to = |user: &u32| *user == 0 || *user == uid;
                let is_open = recorder.users.iter().any(is_open_to);
                if std::mem::take(&mut recorder.tells) && is_open {
                    log("forkptyrouter: recordings are not protected from the sessions' user, \
                         who is the recorder's or root");
                }
            }
            Answer::Room => self.let_go_of_held(),
            Answer::Failed { session, why, full } => {
                if let Some(session) = recorder.sessions.get(&session) {
                    let key = session.key;
                    self.lose(key, &why, full);
                } else if let Some(over) = recorder.over.get(&session) {
                    log_of(over.last.id(), &format!("is not recorded any more: {why}"));
                }
            }
            Answer::Done { session, name, bytes, dropped, sha256 } => {
                let Some(over) = recorder.over.remove(&session) else {
                    return;
                };
                let name = name.unwrap_or_else(|| over.session.file());
                let recorded = Recorded {
                    path: door::path(over.session.begin.folder, &name),
                    bytes,
                    dropped,
                    sha256,
                };
                self.cx.told.tell_last(&over.last, Some(&recorded));
            }
        }
    }
}
