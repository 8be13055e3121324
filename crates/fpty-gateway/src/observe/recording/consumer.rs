//! The recorder's end of a gateway's queue: what the gateway says of its sessions, and what
//! becomes of their recordings when it has ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use super::orphan_recordings::{RecordedSession, RecorderContext};
use super::recorder_protocol::{
    self, Answer, Begin, Failure, Kind, Message, ProtocolError, Resume,
};
use super::recording_file::{RecordingFile, RecordingName};
use crate::event_loop::fault_injection;
use crate::observe::audit::RecordingResult;
use crate::process::ipc::{Hello, decode, encode};
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::shm_queue::Consumer;
use fpty::sys::socket::Stream;
use fpty::sys::{ReadOutcome, WriteOutcome, daemonize};
use fpty::text::panic_message;

/// The most bytes of one batch of a queue.
const BATCH_BYTES: usize = 512 * 1024;

/// A gateway with more sessions than descriptors, or with as many unread answers, is
/// dropped.
const MAX_SESSIONS: usize = 1 << 20;

/// A gateway's queue, and its sessions.
pub struct GatewayFeed {
    /// The channel: it wakes the recorder up, and carries answers.
    pub channel: Stream,
    /// The queue.
    pub queue: Consumer,
    /// The gateway.
    hello: Hello,
    /// Bytes of an incomplete message.
    bytes: Vec<u8>,
    sessions: HashMap<u32, RecordedSession>,
    /// A buffer of lines that no session uses.
    spare_buffer: Vec<u8>,
    /// Sessions with unwritten lines.
    unwritten: Vec<u32>,
    /// Unsent answers.
    pub(super) answers: VecDeque<Vec<u8>>,
    /// The channel is registered for write.
    waits: bool,
}

impl GatewayFeed {
    /// A gateway that has registered with this hello.
    pub fn new(channel: Stream, queue: Consumer, hello: Hello) -> Self {
        Self {
            channel,
            queue,
            hello,
            bytes: Vec::new(),
            sessions: HashMap::new(),
            spare_buffer: Vec::new(),
            unwritten: Vec::new(),
            answers: VecDeque::new(),
            waits: false,
        }
    }

    /// Whether a new gateway is the successor of this one, which has ended then.
    pub fn is_replaced_by(&self, next: &Self) -> bool {
        next.hello.succeeds(self.hello.ordinal)
    }

    /// Restores the sessions of the recorder before.
    ///
    /// # Errors
    /// A malformed message.
    pub fn restore_sessions(
        &mut self,
        before: &OwnedFd,
        ctx: &mut RecorderContext<'_>,
    ) -> Result<(), ProtocolError> {
        let mut bytes = Vec::new();
        let mut before = Consumer::of(before).map_err(|_| ProtocolError)?;
        before.take(usize::MAX, &mut bytes).map_err(|_| ProtocolError)?;
        let mut rest = bytes.as_slice();
        while let Some(message) = recorder_protocol::next(&mut rest)? {
            if message.kind != Kind::Resume || self.sessions.len() > MAX_SESSIONS {
                return Err(ProtocolError);
            }
            self.resume(message, ctx);
        }
        Ok(())
    }

    /// Processes a batch. A gateway whose messages make it panic is dropped.
    ///
    /// # Errors
    /// A malformed message.
    pub fn process(&mut self, ctx: &mut RecorderContext<'_>) -> Result<bool, ProtocolError> {
        daemonize::catch_panic(|| self.process_batch(ctx)).unwrap_or(Err(ProtocolError))
    }

    /// Takes a batch out of the queue, and writes the files. Returns whether there was one.
    /// The queue keeps the batch until that is done.
    fn process_batch(&mut self, ctx: &mut RecorderContext<'_>) -> Result<bool, ProtocolError> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let taken = self.queue.take(BATCH_BYTES, &mut bytes).map_err(|_| ProtocolError)?;
        if taken == 0 {
            self.bytes = bytes;
            return Ok(false);
        }
        let mut unread = bytes.as_slice();
        while recorder_protocol::next(&mut unread)?.is_some() {}
        let unread = unread.len();
        ctx.journal.begin(self.queue.id(), self.queue.would_begin_at(unread));
        let mut rest = bytes.as_slice();
        while let Some(message) = recorder_protocol::next(&mut rest)? {
            if self.sessions.len() + self.answers.len() > MAX_SESSIONS {
                return Err(ProtocolError);
            }
            let (session, length) = (message.session, message.body.len());
            let is_end = message.kind == Kind::End;
            if let Err(panic) = daemonize::catch_panic(|| self.take(message, ctx)) {
                self.panicked(session, length, is_end, panic_message(&*panic), ctx);
            }
        }
        let done = bytes.len() - rest.len();
        bytes.drain(..done);
        self.bytes = bytes;
        for session in std::mem::take(&mut self.unwritten) {
            if let Err(panic) = daemonize::catch_panic(|| self.write(session, ctx)) {
                self.panicked(session, 0, false, panic_message(&*panic), ctx);
            }
        }
        // From here on it is in the files; answers go out after that.
        self.queue.mark_done(unread);
        ctx.journal.end();
        if self.queue.must_tell_of_room() {
            self.answer(&Answer::Room);
        }
        Ok(true)
    }

    fn write(&mut self, session: u32, ctx: &RecorderContext<'_>) {
        if let Some(RecordedSession::Open(recording)) = self.sessions.get_mut(&session) {
            let outcome = recording.write(ctx.journal);
            recording.return_buffer(&mut self.spare_buffer);
            if let Err(failure) = outcome {
                self.answer(&Answer::Failed { session, why: failure });
            }
        }
    }

    /// Ends one session's file after a panic; the others go on.
    fn panicked(
        &mut self,
        session: u32,
        length: usize,
        is_end: bool,
        why: &str,
        ctx: &RecorderContext<'_>,
    ) {
        let before = self.sessions.remove(&session);
        let of = before.as_ref().map(RecordedSession::of).unwrap_or_default();
        if let Some(before) = before {
            let _ = daemonize::catch_panic(|| before.end(None, ctx.journal));
        }
        let dropped = length as u64;
        if is_end {
            let recorded = RecordingResult::unknown("", dropped);
            return self.answer(&Answer::Done { session, recorded });
        }
        let failure = Failure::Error(format!("internal error: {why}"));
        self.lose(session, of, dropped, failure);
    }

    fn take(&mut self, message: Message<'_>, ctx: &mut RecorderContext<'_>) {
        fault_injection::panic_if_requested("recorder", || message.body);
        let session = message.session;
        let is_end = message.kind == Kind::End;
        if let Some(RecordedSession::Pending(resume)) = self.sessions.get(&session) {
            if !is_end || resume.ends {
                self.begin_next_file(message, ctx);
            }
        }
        match message.kind {
            Kind::Begin => self.begin(message, ctx),
            Kind::Resume => self.resume(message, ctx),
            Kind::Rest => ctx.orphans.end_unclaimed(&self.hello, ctx.journal),
            Kind::Over => self.end_ids(message, ctx),
            Kind::End => {
                let done = match self.sessions.remove(&session) {
                    Some(one) => one.end(Some(message), ctx.journal),
                    None => RecordingResult { bytes: Some(0), ..RecordingResult::default() },
                };
                self.answer(&Answer::Done { session, recorded: done });
            }
            _ => match self.sessions.get_mut(&session) {
                Some(RecordedSession::Open(recording)) => {
                    recording.borrow_buffer(&mut self.spare_buffer);
                    if let Err(failure) = recording.note(message, ctx.journal) {
                        self.answer(&Answer::Failed { session, why: failure });
                    }
                    if self.unwritten.last() != Some(&session) {
                        self.unwritten.push(session);
                    }
                }
                Some(RecordedSession::Failed(_, bytes, _)) => *bytes += message.lost(),
                Some(RecordedSession::Pending(_)) | None => {}
            },
        }
    }

    /// Ends sessions of gateways before, and answers with the result of each.
    fn end_ids(&mut self, message: Message<'_>, ctx: &mut RecorderContext<'_>) {
        let mut ids = decode::<HashSet<String>>(message.body).unwrap_or_default();
        for ((folder, name), recorded) in ctx.orphans.end_ids(&ids, ctx.journal) {
            let id = recorder_protocol::id_of(&name).to_owned();
            ids.remove(&id);
            self.answer(&Answer::Over { id, folder, recorded: Some(recorded) });
        }
        for id in ids {
            self.answer(&Answer::Over { id, folder: 0, recorded: None });
        }
    }

    fn begin(&mut self, message: Message<'_>, ctx: &RecorderContext<'_>) {
        let Some(begin) = decode::<Begin>(message.body) else {
            return;
        };
        if let Some(folder) = ctx.folders.get(begin.folder) {
            let recording = RecordingFile::begin(folder, &begin, ctx.journal);
            self.insert_session(message.session, (begin.folder, begin.name), recording, 0);
        }
    }

    /// Resumes a session of the gateway or the recorder before.
    fn resume(&mut self, message: Message<'_>, ctx: &mut RecorderContext<'_>) {
        let Some(resume) = decode::<Resume>(message.body) else {
            return;
        };
        let resume = RecordedSession::Pending(resume);
        let before = ctx.orphans.take(&resume.of());
        let (number, moved) = (message.session, before.is_none());
        let session = before.unwrap_or(resume);
        let (part, dropped, failure) = match &session {
            RecordedSession::Open(recording) => recording.progress(),
            RecordedSession::Pending(resume) => (resume.begin.part + 1, resume.dropped, None),
            RecordedSession::Failed(.., failure) => (1, 0, Some(failure.clone())),
        };
        self.sessions.insert(number, session);
        match failure {
            Some(failure) => self.answer(&Answer::Failed { session: number, why: failure }),
            None => self.answer(&Answer::Resumed { session: number, part, moved, dropped }),
        }
    }

    /// Starts the next file of a session.
    fn begin_next_file(&mut self, message: Message<'_>, ctx: &RecorderContext<'_>) {
        let Some(RecordedSession::Pending(resume)) = self.sessions.remove(&message.session) else {
            return;
        };
        let of = (resume.begin.folder, resume.begin.name.clone());
        if let Some(folder) = ctx.folders.get(resume.begin.folder) {
            let recording = RecordingFile::resume(folder, &resume, message, ctx.journal);
            self.insert_session(message.session, of, recording, resume.dropped);
        }
    }

    fn insert_session(
        &mut self,
        session: u32,
        of: RecordingName,
        recording: Result<RecordingFile, Failure>,
        dropped: u64,
    ) {
        match recording {
            Ok(recording) => {
                self.sessions.insert(session, RecordedSession::Open(Box::new(recording)));
                self.unwritten.push(session);
            }
            Err(failure) => self.lose(session, of, dropped, failure),
        }
    }

    fn lose(&mut self, session: u32, of: RecordingName, dropped: u64, failure: Failure) {
        self.sessions.insert(session, RecordedSession::Failed(of, dropped, failure.clone()));
        self.answer(&Answer::Failed { session, why: failure });
    }

    /// Queues an answer.
    pub fn answer(&mut self, answer: &Answer) {
        self.answers.push_back(encode(answer));
    }

    /// Sends answers, as far as the channel takes them.
    pub fn send_answers(&mut self, poller: &Poller, token: u64) {
        while let Some(answer) = self.answers.front() {
            match self.channel.write(answer) {
                WriteOutcome::Bytes(_) => self.answers.pop_front(),
                // The next event says that there is room, or nobody.
                WriteOutcome::WouldBlock | WriteOutcome::Closed => break,
            };
        }
        let waits = !self.answers.is_empty();
        if waits != self.waits {
            let _ =
                poller.change(self.channel.as_fd(), token, Interest { read: true, write: waits });
            self.waits = waits;
        }
    }

    /// Drains the channel, whose bytes only wake the recorder up; true once the gateway has
    /// closed it.
    pub fn drain_until_closed(&self) -> bool {
        loop {
            match self.channel.read(&mut [0; 16]) {
                ReadOutcome::Bytes(_) => {}
                ReadOutcome::WouldBlock => return false,
                ReadOutcome::Eof | ReadOutcome::Closed => return true,
            }
        }
    }

    /// Orphans the sessions of a gateway that has ended. Its last messages are in the
    /// queue, which is processed to its end.
    pub fn orphan(mut self, ctx: &mut RecorderContext<'_>) {
        loop {
            match self.process(ctx) {
                Ok(true) => {}
                Ok(false) => break,
                Err(ProtocolError) => return self.end(ctx),
            }
        }
        for (session, missing) in self.queue.notes() {
            let body = &missing.to_le_bytes();
            let missing = Message { kind: Kind::Missing, session, at: 0, body };
            self.take(missing, ctx);
            self.write(session, ctx);
        }
        ctx.journal.end();
        ctx.orphans.put(self.hello.ordinal, self.sessions.drain().map(|(_, session)| session));
    }

    /// Drops a gateway: its recordings end without a status.
    pub fn end(mut self, ctx: &RecorderContext<'_>) {
        self.sessions.drain().for_each(|(_, session)| drop(session.end(None, ctx.journal)));
        ctx.journal.end();
    }
}
