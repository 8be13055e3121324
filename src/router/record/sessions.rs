//! Sessions that are recorded: how each begins and ends, and what becomes of one
//! that cannot be recorded any more.

use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::super::context::Context;
use super::super::outcome::Outcome;
use super::super::table::Key;
use super::super::timers::Due;
use super::super::told::clock::Utc;
use super::super::told::{Last, Recorded, Subject};
use super::super::traffic::Sessions;
use super::cast::Head;
use super::message::Begin;
use super::takeover::Bytes;
use super::{Over, Recorder, Recording, Session, door, in_a_name, log_of, status_of};
use crate::config::record::OnError;
use fpty::proto::{Ended, Ending};
use fpty::sys::Size;

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
        let peer = &facts.peer;
        let user = match (&peer.address, &peer.user, peer.uid) {
            (Some(_), ..) => String::from("tcp"),
            (None, Some(user), _) => in_a_name(user),
            (None, None, Some(uid)) => uid.to_string(),
            (None, None, None) => String::from("unknown"),
        };
        let started = facts.started.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let name = format!("{}-{user}-{}", Utc::of(facts.started.wall).in_a_name(), facts.id);
        let begin = Begin {
            folder: door::number(folder),
            name,
            limit: record.limit,
            head: Head {
                format: record.format,
                rows: size.rows,
                cols: size.cols,
                timestamp: started,
                // It leaves room for the rest, whatever the limit.
                command: facts.command.chars().take(500).collect(),
                title: format!("{user} {}", facts.id),
                term: facts.said.term.as_deref().map(String::from),
            },
        };
        let (input, on_error) = (record.input, record.on_error);
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let recording = Rc::new(Recording::new(&self.sink, number, input));
        attached.wires.traffic.get_or_insert_with(Box::default).recording =
            Some(Rc::clone(&recording));
        let session = Session { key, recording, begin, on_error, part: 1, began: false };
        cx.told.records_to(key, &door::path(session.begin.folder, &session.file()));
        self.sessions.insert(number, session);
    }

    /// The program of a session was executed.
    pub fn begin(&mut self, cx: &mut Context, sessions: &mut Sessions, key: Key) {
        let Some(session) = self.of(sessions, key) else {
            return;
        };
        session.began = true;
        let json = serde_json::to_vec(&session.begin).unwrap_or_default();
        match session.recording.begin(&json) {
            true => cx.told.is_recorded(key, true),
            false => {
                session.recording.cut(Bytes::default());
                let number = session.recording.session();
                self.lose(cx, sessions, number, "the recorder takes nothing", false);
            }
        }
    }

    /// A session is over. That is told as soon as it is known what became of its
    /// recording: at once where there is none.
    pub fn end(&mut self, cx: &mut Context, recording: Option<Rc<Recording>>, last: Box<Last>) {
        let session = recording.and_then(|recording| self.sessions.remove(&recording.session()));
        let Some(session) = session.filter(|session| session.began) else {
            return cx.told.tell_last(&last, None);
        };
        let recording = &session.recording;
        if let Some(dropped) = recording.is_cut() {
            let recorded =
                Recorded { dropped, ..Self::unknown(session.begin.folder, &session.file()) };
            return cx.told.tell_last(&last, Some(&recorded));
        }
        recording.end(last.facts.exit.map(status_of));
        let dropped = recording.told_missing(Bytes::default());
        let number = recording.session();
        self.over.insert(number, Over { session, since: Instant::now(), last, dropped });
        self.look_after(cx);
    }

    /// There never was such a session.
    pub fn forget(&mut self, recording: &Recording) {
        self.sessions.remove(&recording.session());
    }

    /// A session that is recorded.
    fn of(&mut self, sessions: &Sessions, key: Key) -> Option<&mut Session> {
        let number = sessions.get(key)?.wires.recording()?.session();
        self.sessions.get_mut(&number)
    }

    /// A session is not recorded any more: it ends, or goes on without.
    pub(super) fn lose(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        number: u32,
        why: &str,
        full: bool,
    ) {
        let Some(session) = self.sessions.get(&number) else {
            return;
        };
        let key = session.key;
        log_of(&cx.ids.of(key), &format!("is not recorded any more: {why}"));
        cx.told.is_recorded(key, false);
        session.recording.let_go();
        if session.on_error == OnError::Close {
            let attached = sessions.get_mut(key);
            if let Some(attached) = attached.filter(|it| it.session.dismissed().is_none()) {
                let ending = if full { Ending::Limit } else { Ending::Lost };
                let line = format!("session ended: it cannot be recorded: {why}");
                attached.session.dismiss(ending, &line, &mut attached.wires);
                cx.after(DISMISSED, Due::Dismissed(key));
            }
        }
        cx.then(Outcome::Settle(key));
    }
}
