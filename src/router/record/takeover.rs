//! The recorder was killed. What it was not done with is in the queue: the next
//! one is given that, and is told what it has to know of the sessions in there.
//! What nobody takes is counted as missing.

use std::collections::{HashMap, HashSet};

use super::super::GatewayLoop;
use super::super::recovery::Whose;
use super::message::{self, Kind, Message, Resume, header};
use super::{Recorder, connect};
use crate::config::record::OnError;
use crate::uwsgi::log::log;
use fpty::sys::queue::Giver;

/// Why a session is not recorded as it was.
const KILLED: &str = "the recorder was killed";

/// What a queue has that no recorder was done with.
#[derive(Default)]
pub(super) struct Left {
    /// Sessions that begin in there.
    begins: HashSet<u32>,
    /// Sessions that end.
    ends: HashSet<u32>,
    of_sessions: HashMap<u32, Bytes>,
}

/// Of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// How many are missing if the queue is lost.
    pub lost: u64,
    /// How many of them were missing before.
    pub missing: u64,
}

impl Left {
    fn note(&mut self, mut bytes: &[u8]) {
        while let Ok(Some(message)) = message::next(&mut bytes) {
            let Message { kind, session, .. } = message;
            let of_session = self.of_sessions.entry(session).or_default();
            of_session.lost += message.lost();
            match kind {
                Kind::Begin => {
                    self.begins.insert(session);
                }
                Kind::End => {
                    self.ends.insert(session);
                }
                Kind::Missing => of_session.missing += message.lost(),
                Kind::Output | Kind::Input | Kind::Resize | Kind::Resume => {}
            }
        }
    }

    fn of(&self, session: u32) -> Bytes {
        self.of_sessions.get(&session).copied().unwrap_or_default()
    }
}

impl GatewayLoop {
    /// The recorder was killed. Another one is most often there at once.
    pub(super) fn recorder_is_gone(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        if let Some(channel) = recorder.sink.borrow().descriptor() {
            let _ = self.cx.poller.remove(channel);
        }
        log(&format!("forkptyrouter: {KILLED}"));
        let mut left = Left::default();
        let queue = recorder.sink.borrow_mut().disconnect();
        if let Some(queue) = &queue {
            left.note(&queue.left());
        }
        recorder.sink.borrow().later().for_each(|word| left.note(word));
        // It had taken the last word of these, and did not live to answer.
        let over = recorder.over.keys().filter(|number| !left.ends.contains(number));
        let over: Vec<u32> = over.copied().collect();
        for number in over {
            self.tell_without(number, Bytes::default());
        }
        let taken = queue.and_then(|queue| self.hand_on(queue, &left));
        let Some(recorder) = &self.recorder else {
            return;
        };
        let goes_on = |number: &u32| taken.as_ref().is_some_and(|taken| taken.contains(number));
        let lost = recorder.over.keys().filter(|number| !goes_on(number));
        let lost: Vec<u32> = lost.copied().collect();
        let mut sessions: Vec<u32> = recorder.sessions.keys().copied().collect();
        sessions.sort_unstable();
        for number in lost {
            self.tell_without(number, left.of(number));
        }
        for number in sessions {
            let session = self.recorder.as_ref().and_then(|it| it.sessions.get(&number));
            let whose = session.map_or(Whose::Past, |session| Whose::Session(session.key));
            let goes_on = goes_on(&number);
            self.guarded(whose, |router| router.record_on(number, goes_on, &left));
        }
        self.look_after_recorder();
    }

    /// Gives a queue to the next recorder; which sessions go on there. `None`:
    /// there is no recorder.
    fn hand_on(&mut self, queue: Giver, left: &Left) -> Option<HashSet<u32>> {
        let mut taken: HashSet<u32> = left.begins.clone();
        let resumes = self.resumes(left);
        let mut before = if resumes.is_empty() { None } else { Some(Giver::new().ok()?) };
        for (number, resume) in resumes {
            let json = serde_json::to_vec(&resume).ok()?;
            let header = header(Kind::Resume, number, 0, json.len());
            if before.as_mut().is_some_and(|before| before.put([&header, &json])) {
                taken.insert(number);
            }
        }
        let link = connect(queue, before.as_ref()).ok()?;
        let recorder = self.recorder.as_ref()?;
        recorder.sink.borrow_mut().go_on(link);
        self.hear_recorder().then_some(taken)
    }

    /// What the next recorder has to know of sessions whose beginning it does
    /// not find in the queue.
    fn resumes(&mut self, left: &Left) -> Vec<(u32, Resume)> {
        let Some(recorder) = &mut self.recorder else {
            return Vec::new();
        };
        let mut resumes = Vec::new();
        let Recorder { sessions, over, .. } = &mut **recorder;
        for (number, session) in sessions.iter_mut() {
            if !session.began || left.begins.contains(number) {
                continue;
            }
            let ends = session.on_error == OnError::Continue;
            let attached = self.sessions.get_mut(session.key);
            let Some(attached) = attached else { continue };
            let size = attached.session.size();
            let Some(recording) = attached.wires.recording() else { continue };
            if recording.is_cut().is_some() {
                continue;
            }
            let dropped = recording.told_missing(left.of(*number));
            let mut resume = session.resume(dropped, ends);
            (resume.begin.head.rows, resume.begin.head.cols) = (size.rows, size.cols);
            resumes.push((*number, resume));
        }
        for (number, over) in over.iter_mut() {
            if left.begins.contains(number) {
                continue;
            }
            let dropped = over.dropped.saturating_sub(left.of(*number).missing);
            resumes.push((*number, over.session.resume(dropped, true)));
        }
        resumes
    }

    /// A session whose recorder is gone is recorded on, in another file, if it
    /// may go on at all.
    fn record_on(&mut self, number: u32, goes_on: bool, left: &Left) {
        let Some(session) = self.recorder.as_ref().and_then(|it| it.sessions.get(&number)) else {
            return;
        };
        let (key, closes) = (session.key, session.on_error == OnError::Close);
        if !session.began {
            return;
        }
        if !goes_on {
            let recording = self.sessions.get_mut(key).and_then(|it| it.wires.recording());
            if let Some(recording) = recording {
                recording.cut(left.of(number));
            }
        }
        if !goes_on || closes {
            return self.lose(key, KILLED, false);
        }
        if !left.begins.contains(&number) {
            self.log_of(key, "is recorded in another file from here on");
        }
        self.settle(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_counted_for_each_session() {
        let mut bytes = Vec::new();
        let mut put = |kind, session, body: &[u8]| {
            bytes.extend_from_slice(&header(kind, session, 0, body.len()));
            bytes.extend_from_slice(body);
        };
        put(Kind::Output, 1, b"four");
        put(Kind::Begin, 2, b"{}");
        put(Kind::Missing, 1, &9_u64.to_le_bytes());
        put(Kind::Input, 2, b"in");
        put(Kind::Resize, 2, &[0; 4]);
        put(Kind::End, 1, &[]);
        let mut left = Left::default();
        left.note(&bytes);
        assert_eq!(left.of(1), Bytes { lost: 13, missing: 9 });
        assert_eq!(left.of(2), Bytes { lost: 2, missing: 0 });
        assert_eq!(left.of(3), Bytes::default());
        assert_eq!((left.begins.len(), left.ends.len()), (1, 1));
        assert!(left.begins.contains(&2) && left.ends.contains(&1));
    }
}
