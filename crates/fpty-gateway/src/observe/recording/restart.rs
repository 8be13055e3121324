//! The recorder was killed. What it was not done with is in the queue: the next
//! one is given that, and is told what it has to know of the sessions in there.
//! What nobody takes is counted as missing.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::rc::Rc;

use super::protocol::{self, Failure, Kind, Message, Resume, header};
use super::results::{Bytes, News};
use super::{Recorder, Recording, connect};
use crate::event_loop::context::Context;
use crate::event_loop::subject::Whose;
use crate::log::log;
use crate::process::ipc::encode;
use crate::session::relay::Sessions;
use fpty::sys::shm_queue::Giver;

const KILLED: &str = "the recorder was killed";

/// Why a session is not recorded as it was.
pub(crate) fn killed() -> Failure {
    Failure::Error(String::from(KILLED))
}

/// What a queue has that no recorder was done with.
#[derive(Default)]
pub(crate) struct DetachRegistry {
    /// Sessions that begin in there, or go on there.
    begins: HashSet<u32>,
    /// Sessions that end.
    ends: HashSet<u32>,
    of_sessions: HashMap<u32, Bytes>,
}

impl DetachRegistry {
    fn note(&mut self, mut bytes: &[u8]) {
        while let Ok(Some(message)) = protocol::next(&mut bytes) {
            let Message { kind, session, .. } = message;
            let of_session = self.of_sessions.entry(session).or_default();
            of_session.lost += message.lost();
            match kind {
                Kind::Begin | Kind::Resume => {
                    self.begins.insert(session);
                }
                Kind::End => {
                    self.ends.insert(session);
                }
                Kind::Missing => of_session.missing += message.lost(),
                Kind::Output | Kind::Input | Kind::Resize | Kind::Rest | Kind::Over => {}
            }
        }
    }

    fn of(&self, session: u32) -> Bytes {
        self.of_sessions.get(&session).copied().unwrap_or_default()
    }
}

impl Recorder {
    /// The recorder was killed. Another one is most often there at once.
    pub(crate) fn follow_killed(&mut self, cx: &mut Context) {
        if let Some(channel) = self.sink.borrow().channel() {
            let _ = cx.poller.remove(channel.as_fd());
        }
        log(&format!("forkptyrouter: {KILLED}"));
        let mut left = DetachRegistry::default();
        let queue = self.sink.borrow_mut().disconnect();
        if let Some(queue) = &queue {
            left.note(&queue.left());
        }
        self.sink.borrow().later().for_each(|word| left.note(word));
        // It had taken the last word of these, and did not live to answer.
        self.tell_over(cx, |number, _| (!left.ends.contains(&number)).then(Bytes::default));
        let taken = queue.and_then(|queue| self.hand_on(cx, queue, &left));
        let goes_on = |number: &u32| taken.as_ref().is_some_and(|taken| taken.contains(number));
        self.tell_over(cx, |number, _| (!goes_on(&number)).then(|| left.of(number)));
        let mut numbers: Vec<u32> = self.sessions.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let whose = self.sessions.get(&number).map_or(Whose::Past, |it| it.whose());
            let (goes_on, left) = (goes_on(&number), left.of(number));
            let lost = News::Lost { session: number, goes_on, left };
            Self::then(cx, whose, lost);
        }
        self.look_after(cx);
    }

    /// Gives a queue to the next recorder; which sessions go on there. `None`:
    /// there is no recorder.
    fn hand_on(
        &mut self,
        cx: &mut Context,
        queue: Giver,
        left: &DetachRegistry,
    ) -> Option<HashSet<u32>> {
        let mut taken: HashSet<u32> = left.begins.clone();
        let resumes = self.resumes(left);
        let mut before = if resumes.is_empty() { None } else { Some(Giver::new().ok()?) };
        for (number, resume) in resumes {
            let json = encode(&resume);
            let header = header(Kind::Resume, number, 0, json.len());
            if before.as_mut().is_some_and(|before| before.put([&header, &json])) {
                taken.insert(number);
            }
        }
        let link = connect(&self.hello, queue, before.as_ref()).ok()?;
        self.sink.borrow_mut().go_on(link);
        self.listen(cx).then_some(taken)
    }

    /// What the next recorder has to know of sessions whose beginning it does
    /// not find in the queue.
    fn resumes(&self, left: &DetachRegistry) -> Vec<(u32, Resume)> {
        let goes_on = |it: &&Rc<Recording>| it.has_begun() && it.is_cut().is_none();
        let going_on = self.sessions.values().filter(goes_on).map(|recording| (recording, false));
        let over = self.over.values().map(|over| (&over.recording, true));
        let unknown = going_on.chain(over).filter(|(it, _)| !left.begins.contains(&it.number()));
        let resumes = unknown.map(|(recording, is_over)| {
            let number = recording.number();
            let resume = recording.resume(recording.told_missing(left.of(number)));
            (number, Resume { ends: is_over || resume.ends, ..resume })
        });
        resumes.collect()
    }

    /// A session whose recorder is gone is recorded on, if it may go on at all.
    pub(crate) fn record_on(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        number: u32,
        goes_on: bool,
        left: Bytes,
    ) {
        let recording = self.sessions.get(&number).filter(|it| it.has_begun()).map(Rc::clone);
        let Some(recording) = recording else {
            return;
        };
        if !goes_on {
            recording.cut(left);
        }
        match !goes_on || recording.must_be() {
            true => self.lose(cx, sessions, &recording, &killed()),
            false => Self::read_on(cx, &recording),
        }
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
        let mut left = DetachRegistry::default();
        left.note(&bytes);
        assert_eq!(left.of(1), Bytes { lost: 13, missing: 9 });
        assert_eq!(left.of(2), Bytes { lost: 2, missing: 0 });
        assert_eq!(left.of(3), Bytes::default());
        assert_eq!((left.begins.len(), left.ends.len()), (1, 1));
        assert!(left.begins.contains(&2) && left.ends.contains(&1));
    }
}
