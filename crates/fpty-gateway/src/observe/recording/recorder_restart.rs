//! The recorder was killed. What it was not done with is in the queue: the next recorder is
//! given the queue, and what it has to know of the sessions in there. What no recorder takes
//! is counted as missing.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::rc::Rc;

use super::recorder_protocol::{self, Failure, Kind, RecorderEvent, Resume, Unconsumed, header};
use super::{RecordingTap, Recordings, recorder_launcher};
use crate::event_loop::context::Context;
use crate::log::log;
use crate::process::ipc::encode;
use crate::session::relay::Sessions;
use fpty::sys::shm_queue::Producer;

const KILLED: &str = "the recorder was killed";

/// The failure of recordings whose recorder was killed.
pub(crate) fn recorder_was_killed() -> Failure {
    Failure::Error(String::from(KILLED))
}

/// Unconsumed messages of a queue, by session.
#[derive(Default)]
pub(crate) struct UnconsumedQueue(HashMap<u32, Unconsumed>);

impl UnconsumedQueue {
    fn note(&mut self, mut bytes: &[u8]) {
        while let Ok(Some(message)) = recorder_protocol::next(&mut bytes) {
            let of_session = self.0.entry(message.session).or_default();
            of_session.lost += message.lost();
            match message.kind {
                Kind::Begin | Kind::Resume => of_session.begins = true,
                Kind::End => of_session.ends = true,
                Kind::Missing => of_session.missing += message.lost(),
                Kind::Output | Kind::Input | Kind::Resize | Kind::Rest | Kind::Over => {}
            }
        }
    }

    fn of(&self, session: u32) -> Unconsumed {
        self.0.get(&session).copied().unwrap_or_default()
    }
}

impl Recordings {
    /// The recorder was killed; its successor is most often there at once.
    pub(crate) fn recorder_killed(&mut self, cx: &mut Context) {
        if let Some(channel) = self.producer.borrow().channel() {
            let _ = cx.poller.remove(channel.as_fd());
        }
        log(&format!("forkptyrouter: {KILLED}"));
        let mut unconsumed = UnconsumedQueue::default();
        let queue = self.producer.borrow_mut().disconnect();
        if let Some(queue) = &queue {
            unconsumed.note(&queue.left());
        }
        self.producer.borrow().backlog.iter().for_each(|word| unconsumed.note(word));
        // It had taken the last word of these, and did not live to answer.
        self.end_unanswered(cx, |number, _| {
            (!unconsumed.of(number).ends).then(Unconsumed::default)
        });
        let taken = queue.and_then(|queue| self.hand_queue_on(cx, queue, &unconsumed));
        let goes_on = |number: &u32| taken.as_ref().is_some_and(|taken| taken.contains(number));
        self.end_unanswered(cx, |number, _| (!goes_on(&number)).then(|| unconsumed.of(number)));
        let mut numbers: Vec<u32> = self.sessions.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let (goes_on, unconsumed) = (goes_on(&number), unconsumed.of(number));
            let lost = RecorderEvent::Lost { session: number, goes_on, unconsumed };
            Self::then(cx, self.fault_domain_of(number), lost);
        }
        self.schedule_check(cx);
    }

    /// Hands a queue on to the next recorder. Returns the sessions that go on there;
    /// `None`: there is no recorder.
    fn hand_queue_on(
        &mut self,
        cx: &mut Context,
        queue: Producer,
        unconsumed: &UnconsumedQueue,
    ) -> Option<HashSet<u32>> {
        let begins = unconsumed.0.iter().filter(|(_, of_session)| of_session.begins);
        let mut taken: HashSet<u32> = begins.map(|(number, _)| *number).collect();
        let resumes = self.resumes(unconsumed);
        let mut before = if resumes.is_empty() { None } else { Some(Producer::new().ok()?) };
        for (number, resume) in resumes {
            let json = encode(&resume);
            let header = header(Kind::Resume, number, 0, json.len());
            if before.as_mut().is_some_and(|before| before.put([&header, &json])) {
                taken.insert(number);
            }
        }
        let link = recorder_launcher::connect(&self.hello, queue, before.as_ref())?;
        self.producer.borrow_mut().reconnect(link);
        self.register_channel(cx).then_some(taken)
    }

    /// Resumes for sessions whose start is not in the queue.
    fn resumes(&self, unconsumed: &UnconsumedQueue) -> Vec<(u32, Resume)> {
        let goes_on = |it: &&Rc<RecordingTap>| it.has_begun() && it.detached_missing().is_none();
        let going_on = self.sessions.values().filter(goes_on).map(|recording| (recording, false));
        let over = self.over.values().map(|over| (&over.recording, true));
        let unknown = going_on.chain(over).filter(|(it, _)| !unconsumed.of(it.number).begins);
        let resumes = unknown.map(|(recording, is_over)| {
            let dropped = recording.reported_missing(unconsumed.of(recording.number));
            let resume = recording.resume(dropped);
            (recording.number, Resume { ends: is_over || resume.ends, ..resume })
        });
        resumes.collect()
    }

    /// Continues the recording of a session whose recorder was killed, or stops it.
    pub(crate) fn continue_or_stop(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        number: u32,
        goes_on: bool,
        unconsumed: Unconsumed,
    ) {
        let recording = self.sessions.get(&number).filter(|it| it.has_begun()).map(Rc::clone);
        let Some(recording) = recording else {
            return;
        };
        if !goes_on {
            recording.detach(unconsumed);
        }
        match !goes_on || recording.is_required() {
            true => self.stop_recording(cx, sessions, &recording, &recorder_was_killed()),
            false => Self::resume_reading(cx, &recording),
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
        let mut unconsumed = UnconsumedQueue::default();
        unconsumed.note(&bytes);
        let ended = Unconsumed { lost: 13, missing: 9, begins: false, ends: true };
        assert_eq!(unconsumed.of(1), ended);
        let begun = Unconsumed { lost: 2, missing: 0, begins: true, ends: false };
        assert_eq!(unconsumed.of(2), begun);
        assert_eq!(unconsumed.of(3), Unconsumed::default());
    }
}
