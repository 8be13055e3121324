//! Sessions that are recorded: how each begins and ends, and what becomes of one
//! that cannot be recorded any more.

use std::time::{Duration, Instant, UNIX_EPOCH};

use super::super::GatewayLoop;
use super::super::table::Key;
use super::super::timers::Due;
use super::super::told::clock::Utc;
use super::super::told::{Last, Recorded, Subject};
use super::cast::Head;
use super::message::Begin;
use super::takeover::Bytes;
use super::{Over, Recorder, Recording, Session, door, in_a_name, log_of, status_of};
use crate::config::record::OnError;
use fpty::proto::{Ended, Ending};
use fpty::sys::Size;
use fpty::sys::child::Exit;

impl GatewayLoop {
    /// Somebody is about to get a session who came to this socket.
    pub(in crate::router) fn is_about_to_record(&mut self, socket: u16) {
        if let Some(recorder) = &mut self.recorder {
            recorder.hears(socket);
        }
    }

    /// Why there can be no session, because it is to be recorded and cannot.
    pub(in crate::router) fn cannot_record(&mut self) -> Option<Ended> {
        let current = self.recorder.as_ref().and_then(|recorder| recorder.current.as_ref());
        let must = current.is_some_and(|record| record.on_error == OnError::Close);
        (must && !self.reach_recorder())
            .then(|| Ended::because(Ending::Refused, "it cannot be recorded: there is no recorder"))
    }

    /// Why there can be no command without a terminal, because those are not
    /// recorded, and nothing may go unrecorded.
    pub(in crate::router) fn is_never_recorded(&mut self) -> Option<Ended> {
        let current = self.recorder.as_mut().and_then(|recorder| recorder.current.take());
        current.is_some_and(|record| record.refuses_commands()).then(|| {
            Ended::because(
                Ending::Refused,
                "it cannot be recorded: a command without a terminal never is (fpty -t gives it \
                 one; forkptyrouter-record-commands)",
            )
        })
    }

    /// A new session is to be recorded; it begins when its program is executed.
    pub(in crate::router) fn note_recording(&mut self, key: Key, size: Size) {
        let current = self.recorder.as_mut().and_then(|recorder| recorder.current.take());
        let Some((record, folder)) =
            current.as_ref().and_then(|record| Some((record, record.folder.as_deref()?)))
        else {
            return;
        };
        if !self.reach_recorder() {
            // It may go on, or there would be none.
            return self.log_of(key, "is not recorded: there is no recorder");
        }
        let (Some(recorder), Some(facts)) =
            (&mut self.recorder, self.cx.told.of(Subject::Session(key)))
        else {
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
        let number = recorder.next;
        recorder.next = recorder.next.wrapping_add(1);
        let recording = Recording::new(&recorder.sink, number, record.input);
        let on_error = record.on_error;
        let session = Session { key, begin, on_error, part: 1, began: false };
        let path = door::path(session.begin.folder, &session.file());
        self.cx.told.records_to(key, &path);
        recorder.sessions.insert(number, session);
        if let Some(attached) = self.sessions.get_mut(key) {
            attached.wires.traffic.get_or_insert_with(Box::default).recording = Some(recording);
        }
    }

    /// The program of a session was executed.
    pub(in crate::router) fn begin_recording(&mut self, key: Key) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let recording = self.sessions.get_mut(key).and_then(|attached| attached.wires.recording());
        let Some(recording) = recording else {
            return;
        };
        let Some(session) = recorder.sessions.get_mut(&recording.session()) else {
            return;
        };
        session.began = true;
        let json = serde_json::to_vec(&session.begin).unwrap_or_default();
        match recording.begin(&json) {
            true => self.cx.told.is_recorded(key, true),
            false => {
                self.cut(key);
                self.lose(key, "the recorder takes nothing", false);
            }
        }
    }

    /// A session ends, of which this is the last word but for the recording.
    /// Returns it where there is none.
    pub(in crate::router) fn end_recording(
        &mut self,
        key: Key,
        exit: Option<Exit>,
        last: Box<Last>,
    ) -> Option<Box<Last>> {
        let (Some(recorder), Some(attached)) = (&mut self.recorder, self.sessions.get_mut(key))
        else {
            return Some(last);
        };
        let recording =
            attached.wires.traffic.as_mut().and_then(|traffic| traffic.recording.take());
        let Some(mut recording) = recording else {
            return Some(last);
        };
        let Some(session) = recorder.sessions.remove(&recording.session()) else {
            return Some(last);
        };
        if !session.began {
            return Some(last);
        }
        if let Some(dropped) = recording.is_cut() {
            let recorded =
                Recorded { dropped, ..Recorder::unknown(session.begin.folder, &session.file()) };
            self.cx.told.tell_last(&last, Some(&recorded));
            return None;
        }
        recording.end(exit.map(status_of));
        let dropped = recording.told_missing(Bytes::default());
        let over = Over { session, since: Instant::now(), last, dropped };
        recorder.over.insert(recording.session(), over);
        self.look_after_recorder();
        None
    }

    /// There never was such a session.
    pub(in crate::router) fn forget_recording(&mut self, number: Option<u32>) {
        if let (Some(recorder), Some(number)) = (&mut self.recorder, number) {
            recorder.sessions.remove(&number);
        }
    }

    fn cut(&mut self, key: Key) {
        if let Some(recording) = self.sessions.get_mut(key).and_then(|it| it.wires.recording()) {
            recording.cut(Bytes::default());
        }
    }

    /// A session is not recorded any more: it ends, or goes on without.
    pub(super) fn lose(&mut self, key: Key, why: &str, full: bool) {
        self.log_of(key, &format!("is not recorded any more: {why}"));
        self.cx.told.is_recorded(key, false);
        self.cannot_go_on(key, why, full);
    }

    fn cannot_go_on(&mut self, key: Key, why: &str, full: bool) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        let (Some(recording), Some(recorder)) = (attached.wires.recording(), &self.recorder) else {
            return;
        };
        recording.let_go();
        let session = recorder.sessions.get(&recording.session());
        let closes = session.is_some_and(|session| session.on_error == OnError::Close);
        if closes && attached.session.dismissed().is_none() {
            let ending = if full { Ending::Limit } else { Ending::Lost };
            let line = format!("session ended: it cannot be recorded: {why}");
            attached.session.dismiss(ending, &line, &mut attached.wires);
            self.cx.after(Duration::from_secs(5), Due::Dismissed(key));
        }
        self.settle(key);
    }

    pub(super) fn log_of(&mut self, key: Key, what: &str) {
        log_of(&self.cx.ids.of(key), what);
    }
}
