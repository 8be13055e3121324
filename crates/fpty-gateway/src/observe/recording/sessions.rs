//! Sessions that are recorded: how each begins and ends, and what becomes of one
//! that cannot be recorded any more.

use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::asciicast::Head;
use super::protocol::{Begin, Failure, Kind};
use super::results::Bytes;
use super::{Kept, Over, Recorder, Recording, in_a_name, launcher, log_of, status_of};
use crate::config::recording::OnError;
use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::Key;
use crate::event_loop::subject::Subject;
use crate::event_loop::timers::{Due, LifeDue};
use crate::observe::audit::timestamp;
use crate::observe::audit::{Gone, Last, Recorded};
use crate::session::relay::Sessions;
use fpty::proto::{Ended, Ending};
use fpty::sys::Size;
use fpty::sys::child::Exit;

/// How long a client may take to read why its session ends.
const DISMISSED: Duration = Duration::from_secs(5);

impl Recorder {
    /// Why somebody who came to this socket can have no session: it is to be
    /// recorded and cannot.
    pub fn why_not(&mut self, cx: &mut Context, socket: u16) -> Option<Ended> {
        let must = self.of_socket(socket).is_some_and(|it| it.on_error == OnError::Close);
        (must && !self.reach(cx))
            .then(|| Ended::because(Ending::Refused, "it cannot be recorded: there is no recorder"))
    }

    /// Why somebody who came to this socket can have no command without a
    /// terminal: those are not recorded, and nothing may go unrecorded.
    pub fn why_no_command(&self, socket: u16) -> Option<Ended> {
        self.of_socket(socket).is_some_and(|record| record.refuses_commands()).then(|| {
            Ended::because(
                Ending::Refused,
                "it cannot be recorded: a command without a terminal never is (fpty -t gives it \
                 one; forkptyrouter-record-commands)",
            )
        })
    }

    /// A session is about to begin. What is typed before its program is executed
    /// is recorded, too.
    pub fn expect(&mut self, cx: &mut Context, sessions: &mut Sessions, key: Key, size: Size) {
        let Some(attached) = sessions.get_mut(key) else {
            return;
        };
        if self.of_socket(attached.door).is_none() {
            return;
        }
        if !self.reach(cx) {
            // It may go on, or there would be none.
            return log_of(&cx.ids.of(key), "is not recorded: there is no recorder");
        }
        let record = self.of_socket(attached.door);
        let folder = record.and_then(|record| Some((record, record.folder.as_deref()?)));
        let facts = cx.told.of(Subject::Session(key));
        let (Some((record, folder)), Some(facts)) = (folder, facts) else {
            return;
        };
        let story = &facts.story;
        let peer = &story.first;
        let user = match (&peer.address, &peer.user, peer.uid) {
            (Some(_), ..) => String::from("tcp"),
            (None, Some(user), _) => in_a_name(user),
            (None, None, Some(uid)) => uid.to_string(),
            (None, None, None) => String::from("unknown"),
        };
        let started = facts.started.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let name = format!("{}-{user}-{}", timestamp::in_a_name(facts.started.wall), facts.id);
        let begin = Begin {
            folder: launcher::number(folder),
            name,
            part: 1,
            limit: record.limit,
            head: Head {
                format: record.format,
                rows: size.rows,
                cols: size.cols,
                timestamp: started,
                // It leaves room for the rest, whatever the limit.
                command: story.command.chars().take(500).collect(),
                title: format!("{user} {}", facts.id),
                term: story.said.term.as_deref().map(String::from),
            },
        };
        let recording = Recording::new(&self.sink, self.next, record, begin);
        cx.told.recorded(Subject::Session(key), &recording.path(), false);
        attached.io.byte_counts.get_or_insert_with(Box::default).recording =
            Some(self.add(recording, Some(Subject::Session(key))));
    }

    /// The program of a session was executed.
    pub fn begin(&mut self, cx: &mut Context, sessions: &mut Sessions, key: Key) {
        let recording = sessions.get(key).and_then(|attached| attached.io.recording());
        let Some(recording) = recording.filter(|recording| !recording.has_begun()) else {
            return;
        };
        match recording.begin() {
            true => Self::tell(cx, recording),
            false => {
                recording.cut(Bytes::default());
                let recording = Rc::clone(recording);
                let why = Failure::Error(String::from("the recorder takes nothing"));
                self.lose(cx, sessions, &recording, &why);
            }
        }
    }

    /// A session that a gateway before us has begun goes on, at this socket, with a
    /// terminal of this size. `None`: it is not recorded there any more.
    ///
    /// # Errors
    /// It may not go on: why.
    pub fn go_on(
        &mut self,
        cx: &mut Context,
        socket: u16,
        kept: Kept,
        size: Size,
    ) -> Result<Option<Rc<Recording>>, Ended> {
        let is_reached = self.reach(cx);
        let Some(record) = self.of_socket(socket) else {
            log_of(&kept.id(), "is not recorded any more: forkptyrouter-record is off");
            return Ok(None);
        };
        if !is_reached {
            log_of(&kept.id(), "is not recorded any more: there is no recorder");
            let line = "session ended: it cannot be recorded: there is no recorder";
            return match record.on_error {
                OnError::Close => Err(Ended::because(Ending::Lost, line)),
                OnError::Continue => Ok(None),
            };
        }
        let folder = record.folder.as_deref().map_or(0, launcher::number);
        let recording = Recording::resumed(&self.sink, self.next, record, (kept, folder), size);
        Ok(Some(self.add(recording, None)))
    }

    /// Whatever goes on of what gateways before us had has gone on.
    pub fn took_up(&mut self, cx: &mut Context) {
        self.retain();
        if !self.reach(cx) {
            return self.last_lines.late(Duration::ZERO).into_iter().for_each(|it| cx.told.say(it));
        }
        if let Some(question) = self.last_lines.question() {
            self.sink.borrow_mut().put_surely(Kind::Over, 0, 0, &question);
            self.look_after(cx);
        }
        let mut sink = self.sink.borrow_mut();
        sink.put_surely(Kind::Rest, 0, 0, &[]);
        sink.flush();
    }

    /// The line of the end of a session of a gateway before: it is given back where it
    /// waits for nothing.
    pub fn tells_last(&mut self, line: String) -> Option<String> {
        self.last_lines.wait(line)
    }

    /// A session is over. That is told as soon as it is known what became of its
    /// recording: at once where there is none.
    pub fn end(
        &mut self,
        cx: &mut Context,
        recording: Option<Rc<Recording>>,
        exit: Option<Exit>,
        last: Option<Box<Last>>,
    ) {
        let recording = recording.and_then(|it| self.sessions.remove(&it.number()));
        let Some(recording) = recording else {
            return cx.told.tell_last(last.as_deref(), None);
        };
        // It was known to be executed when it was over.
        if !recording.has_begun() && !recording.begin() {
            recording.cut(Bytes::default());
        }
        if let Some(dropped) = recording.is_cut() {
            let recorded = Recorded { path: recording.path(), dropped, ..Recorded::default() };
            return cx.told.tell_last(last.as_deref(), Some(&recorded));
        }
        recording.end(exit.map(status_of));
        let number = recording.number();
        self.over.insert(number, Over { recording, since: Instant::now(), last });
        self.look_after(cx);
    }

    /// There never was such a session.
    pub fn forget(&mut self, recording: &Recording) {
        self.sessions.remove(&recording.number());
    }

    fn add(&mut self, recording: Recording, subject: Option<Subject>) -> Rc<Recording> {
        let recording = Rc::new(recording);
        subject.into_iter().for_each(|subject| recording.belongs_to(subject));
        self.sessions.insert(self.next, Rc::clone(&recording));
        self.next = self.next.wrapping_add(1);
        recording
    }

    /// Who tells of the session is told whether it is recorded, and where.
    pub fn tell(cx: &mut Context, recording: &Recording) {
        if let Some(subject) = recording.subject() {
            cx.told.recorded(subject, &recording.path(), recording.goes_on());
        }
    }

    /// Whoever reads the terminal goes on.
    pub(crate) fn read_on(cx: &mut Context, recording: &Recording) {
        match recording.subject() {
            Some(Subject::Session(key)) => cx.then(Outcome::Settle(key)),
            Some(Subject::Detached(entry)) => cx.then(Outcome::ReadOn(entry)),
            Some(Subject::Command(_)) | None => {}
        }
    }

    /// A session is not recorded any more: it ends, or goes on without.
    pub(crate) fn lose(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        recording: &Recording,
        failure: &Failure,
    ) {
        if !recording.lose() {
            return;
        }
        let why = failure.text();
        log_of(&recording.id(), &format!("is not recorded any more: {why}"));
        Self::tell(cx, recording);
        if recording.must_be() {
            let ending = if *failure == Failure::Full { Ending::Limit } else { Ending::Lost };
            let line = format!("session ended: it cannot be recorded: {why}");
            match recording.subject() {
                Some(Subject::Session(key)) => {
                    let attached = sessions.get_mut(key);
                    if let Some(attached) = attached.filter(|it| it.session.termination().is_none())
                    {
                        attached.session.terminate(ending, &line, &mut attached.io);
                        cx.after(DISMISSED, Due::Session(key, LifeDue::Dismissed));
                    }
                }
                Some(Subject::Detached(entry)) => {
                    return cx.then(Outcome::TerminateDetached(entry, Gone::of(ending)));
                }
                Some(Subject::Command(_)) | None => {}
            }
        }
        Self::read_on(cx, recording);
    }
}
