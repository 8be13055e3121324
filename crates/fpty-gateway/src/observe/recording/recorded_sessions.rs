//! Sessions that are recorded: how a recording begins and ends, and what becomes of a
//! session that cannot be recorded any more.

use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use super::asciicast::CastHeader;
use super::recorder_protocol::{Begin, Failure, Kind, Unconsumed};
use super::{
    EndedRecording, RecordingState, RecordingTap, Recordings, file_name_part, log_session,
    recorder_launcher, status_of,
};
use crate::config::recording_options::OnError;
use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{SessionTimer, Timer};
use crate::observe::audit::timestamp;
use crate::observe::audit::{EndReason, EndedSession, RecordingResult};
use crate::session::relay::Sessions;
use crate::session::session_ref::SessionRef;
use fpty::proto::{EndKind, SessionEnd};
use fpty::sys::Size;
use fpty::sys::child::Exit;
use fpty::sys::clock;

/// How long a client may take to read why its session ends.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(5);

impl Recordings {
    /// The rejection of a session that must be recorded and cannot.
    pub fn rejection_reason(&mut self, cx: &mut Context, socket: u16) -> Option<SessionEnd> {
        let must = self.of_socket(socket).is_some_and(|it| it.on_error == OnError::Close);
        (must && !self.ensure_connected(cx)).then(|| {
            SessionEnd::new(EndKind::Refused, "it cannot be recorded: there is no recorder")
        })
    }

    /// The rejection of a command without a terminal, where nothing may go unrecorded.
    pub fn command_rejection_reason(&self, socket: u16) -> Option<SessionEnd> {
        self.of_socket(socket).is_some_and(|record| record.refuses_commands()).then(|| {
            SessionEnd::new(
                EndKind::Refused,
                "it cannot be recorded: a command without a terminal never is (fpty -t gives it \
                 one; forkptyrouter-record-commands)",
            )
        })
    }

    /// Prepares the recording of a session. What is typed before its program is executed is
    /// recorded, too.
    pub fn prepare(&mut self, cx: &mut Context, sessions: &mut Sessions, key: Key, size: Size) {
        let Some(attached) = sessions.get_mut(key) else {
            return;
        };
        let Some(record) = self.of_socket(attached.listener).cloned() else {
            return;
        };
        if !self.ensure_connected(cx) {
            // It may go on, or there would be none.
            return log_session(&cx.ids.of(key), "is not recorded: there is no recorder");
        }
        let session_ref = SessionRef::Session(key);
        let (Some(folder), Some(info)) = (&record.dir, cx.audit.of(session_ref)) else {
            return;
        };
        let history = &info.history;
        let peer = &history.first;
        let user = match (&peer.address, &peer.user, peer.uid) {
            (Some(_), ..) => String::from("tcp"),
            (None, Some(user), _) => file_name_part(user),
            (None, None, Some(uid)) => uid.to_string(),
            (None, None, None) => String::from("unknown"),
        };
        let started = info.started.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let name = format!("{}-{user}-{}", timestamp::compact(info.started.wall), info.id);
        let begin = Begin {
            folder: recorder_launcher::folder_number(folder),
            name,
            part: 1,
            limit: record.limit,
            head: CastHeader {
                format: record.format,
                rows: size.rows,
                cols: size.cols,
                timestamp: started,
                // It leaves room for the rest, whatever the limit.
                command: history.command.chars().take(500).collect(),
                title: format!("{user} {}", info.id),
                term: history.claimed.term.as_deref().map(String::from),
            },
        };
        let recording = RecordingTap::new(&self.producer, self.next, &record, begin);
        recording.assign_to(session_ref);
        cx.audit.recorded(session_ref, &recording.path(), false);
        attached.io.byte_counts.get_or_insert_with(Box::default).recording =
            Some(self.add(recording));
    }

    /// Starts the recording of a session whose program was executed.
    pub fn begin(&mut self, cx: &mut Context, sessions: &mut Sessions, key: Key) {
        let recording = sessions.get(key).and_then(|attached| attached.io.recording());
        let Some(recording) = recording.filter(|recording| !recording.has_begun()) else {
            return;
        };
        match recording.begin() {
            true => Self::tell(cx, recording),
            false => {
                recording.detach(Unconsumed::default());
                let recording = Rc::clone(recording);
                let why = Failure::Error(String::from("the recorder takes nothing"));
                self.stop_recording(cx, sessions, &recording, &why);
            }
        }
    }

    /// Resumes the recording of a restored session, at this listener, with a terminal of
    /// this size. `None`: it is not recorded any more.
    ///
    /// # Errors
    /// The END of a session that may not go on without a recording.
    pub fn resume(
        &mut self,
        cx: &mut Context,
        socket: u16,
        state: RecordingState,
        size: Size,
    ) -> Result<Option<Rc<RecordingTap>>, SessionEnd> {
        let is_reached = self.ensure_connected(cx);
        let Some(record) = self.of_socket(socket) else {
            log_session(&state.id(), "is not recorded any more: forkptyrouter-record is off");
            return Ok(None);
        };
        if !is_reached {
            log_session(&state.id(), "is not recorded any more: there is no recorder");
            let line = "session ended: it cannot be recorded: there is no recorder";
            return match record.on_error {
                OnError::Close => Err(SessionEnd::new(EndKind::Lost, line)),
                OnError::Continue => Ok(None),
            };
        }
        let folder = record.dir.as_deref().map_or(0, recorder_launcher::folder_number);
        let recording =
            RecordingTap::resumed(&self.producer, self.next, record, (state, folder), size);
        Ok(Some(self.add(recording)))
    }

    /// All sessions of the gateway before are restored.
    pub fn all_restored(&mut self, cx: &mut Context) {
        self.retain();
        if !self.ensure_connected(cx) {
            return self.write_expired_ends(cx, Duration::ZERO);
        }
        if let Some(request) = self.pending_ends.request() {
            self.producer.borrow_mut().put_reliable(Kind::Over, 0, 0, &request);
            self.schedule_check(cx);
        }
        let mut producer = self.producer.borrow_mut();
        producer.put_reliable(Kind::Rest, 0, 0, &[]);
        producer.flush();
    }

    /// Adds the line of an end of a session of the gateway before; returns it where it
    /// waits for no recording.
    pub fn await_recording(&mut self, line: String) -> Option<String> {
        self.pending_ends.add(line)
    }

    /// Ends the recording of a session. The line of the end is written with the result of
    /// the recording: at once where there is none.
    pub fn end(
        &mut self,
        cx: &mut Context,
        recording: Option<Rc<RecordingTap>>,
        exit: Option<Exit>,
        last: Option<Box<EndedSession>>,
    ) {
        let recording = recording.and_then(|it| self.sessions.remove(&it.number));
        let Some(recording) = recording else {
            return cx.audit.write_end(last.as_deref(), None);
        };
        // It was known to be executed when it was over.
        if !recording.has_begun() && !recording.begin() {
            recording.detach(Unconsumed::default());
        }
        if let Some(dropped) = recording.detached_missing() {
            let recorded = RecordingResult::unknown(&recording.path(), dropped);
            return cx.audit.write_end(last.as_deref(), Some(&recorded));
        }
        recording.end(exit.map(status_of));
        let number = recording.number;
        self.over.insert(number, EndedRecording { recording, since: clock::now(), last });
        self.schedule_check(cx);
    }

    /// Forgets the recording of a session that was aborted.
    pub fn forget(&mut self, recording: &RecordingTap) {
        self.sessions.remove(&recording.number);
    }

    fn add(&mut self, recording: RecordingTap) -> Rc<RecordingTap> {
        let recording = Rc::new(recording);
        self.sessions.insert(self.next, Rc::clone(&recording));
        self.next = self.next.wrapping_add(1);
        recording
    }

    /// Tells the audit whether a session is recorded, and where.
    pub fn tell(cx: &mut Context, recording: &RecordingTap) {
        if let Some(session_ref) = recording.session_ref.get() {
            cx.audit.recorded(session_ref, &recording.path(), recording.is_recorded());
        }
    }

    /// Has the terminal read again.
    pub(crate) fn resume_reading(cx: &mut Context, recording: &RecordingTap) {
        match recording.session_ref.get() {
            Some(SessionRef::Session(key)) => cx.push_outcome(Outcome::Settle(key)),
            Some(SessionRef::Detached(entry)) => cx.push_outcome(Outcome::ResumeReading(entry)),
            Some(SessionRef::Command(_)) | None => {}
        }
    }

    /// Stops a recording: the session ends, or goes on without.
    pub(crate) fn stop_recording(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        recording: &RecordingTap,
        failure: &Failure,
    ) {
        if !recording.stop() {
            return;
        }
        let why = failure.text();
        log_session(&recording.id(), &format!("is not recorded any more: {why}"));
        Self::tell(cx, recording);
        if recording.is_required() {
            let ending = if *failure == Failure::Full { EndKind::Limit } else { EndKind::Lost };
            let line = format!("session ended: it cannot be recorded: {why}");
            match recording.session_ref.get() {
                Some(SessionRef::Session(key)) => {
                    let attached = sessions.get_mut(key);
                    let going_on = attached.filter(|it| it.session.termination().is_none());
                    if let Some(attached) = going_on {
                        attached.session.terminate(ending, &line, &mut attached.io);
                        let timer = Timer::Session(key, SessionTimer::NoticeTimeout);
                        cx.schedule(NOTICE_TIMEOUT, timer);
                    }
                }
                Some(SessionRef::Detached(entry)) => {
                    return cx
                        .push_outcome(Outcome::TerminateDetached(entry, EndReason::of(ending)));
                }
                Some(SessionRef::Command(_)) | None => {}
            }
        }
        Self::resume_reading(cx, recording);
    }
}
