//! A gateway, as the recorder knows it: what it says of its sessions, and what
//! becomes of these when it has ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use super::file::{RecordingFile, RecordingName};
use super::orphans::{OrphanedRecordings, RecordedSession, RecorderContext};
use super::protocol::{self, Answer, Begin, Failure, Kind, Message, ProtocolError, Resume};
use crate::event_loop::fault_injection;
use crate::observe::audit::RecordingResult;
use crate::process::ipc::{Hello, decode, encode};
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::shm_queue::Consumer;
use fpty::sys::socket::Stream;
use fpty::sys::{ReadOutcome, WriteOutcome, daemonize};
use fpty::text::panic_message;

/// Bytes that are taken out of a gateway's queue at once.
const BATCH_BYTES: usize = 512 * 1024;

/// A gateway that has more sessions than there are descriptors, or that takes no
/// answers, is none.
const MAX_SESSIONS: usize = 1 << 20;

/// A gateway.
pub struct GatewayFeed {
    /// Wakes us up, and takes our answers.
    pub channel: Stream,
    /// What it says.
    pub queue: Consumer,
    /// Which it is.
    hello: Hello,
    /// A message that is not complete.
    bytes: Vec<u8>,
    sessions: HashMap<u32, RecordedSession>,
    /// Room for lines that no session uses.
    spare_buffer: Vec<u8>,
    /// Sessions with lines that are not in their files.
    unwritten: Vec<u32>,
    answers: VecDeque<Vec<u8>>,
    /// Its channel is waited for to take more.
    waits: bool,
}

impl GatewayFeed {
    /// One that has said this.
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

    /// Whether one that begins has this one's place, which has ended then.
    pub fn is_replaced_by(&self, next: &Self) -> bool {
        next.hello.has_place_of(self.hello.ordinal)
    }

    /// What is to be known of sessions that one before us has recorded.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn restore_sessions(
        &mut self,
        before: &OwnedFd,
        orphans: &mut OrphanedRecordings,
    ) -> Result<(), ProtocolError> {
        let mut bytes = Vec::new();
        let mut before = Consumer::of(before).map_err(|_| ProtocolError)?;
        before.take(usize::MAX, &mut bytes).map_err(|_| ProtocolError)?;
        let mut rest = bytes.as_slice();
        while let Some(message) = protocol::next(&mut rest)? {
            if message.kind != Kind::Resume || self.sessions.len() > MAX_SESSIONS {
                return Err(ProtocolError);
            }
            self.go_on(message, orphans);
        }
        Ok(())
    }

    /// Works; a gateway over whose words it panics is none.
    ///
    /// # Errors
    /// It says nonsense.
    pub fn process(
        &mut self,
        ctx: &RecorderContext<'_>,
        orphans: &mut OrphanedRecordings,
    ) -> Result<bool, ProtocolError> {
        daemonize::catch_panic(|| self.process_batch(ctx, orphans)).unwrap_or(Err(ProtocolError))
    }

    /// Takes some messages out of the queue and writes what comes of them;
    /// returns whether there were any. The queue has them until that is done.
    fn process_batch(
        &mut self,
        ctx: &RecorderContext<'_>,
        orphans: &mut OrphanedRecordings,
    ) -> Result<bool, ProtocolError> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let taken = self.queue.take(BATCH_BYTES, &mut bytes).map_err(|_| ProtocolError)?;
        if taken == 0 {
            self.bytes = bytes;
            return Ok(false);
        }
        let mut unread = bytes.as_slice();
        while protocol::next(&mut unread)?.is_some() {}
        let unread = unread.len();
        ctx.journal.begin(self.queue.id(), self.queue.would_begin_at(unread));
        let mut rest = bytes.as_slice();
        while let Some(message) = protocol::next(&mut rest)? {
            if self.sessions.len() + self.answers.len() > MAX_SESSIONS {
                return Err(ProtocolError);
            }
            let (session, length) = (message.session, message.body.len());
            let is_end = message.kind == Kind::End;
            if let Err(panic) = daemonize::catch_panic(|| self.take(message, ctx, orphans)) {
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
                self.failed(session, failure);
            }
        }
    }

    /// A bug showed itself with one session's file: that ends, as far as it
    /// goes, and the others do not suffer.
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
            let _ = daemonize::catch_panic(|| before.end(None, ctx));
        }
        let dropped = length as u64;
        if is_end {
            let recorded = RecordingResult { dropped, ..RecordingResult::default() };
            return self.answer(&Answer::Done { session, recorded });
        }
        let failure = Failure::Error(format!("internal error: {why}"));
        self.lose(session, of, dropped, failure);
    }

    fn take(
        &mut self,
        message: Message<'_>,
        ctx: &RecorderContext<'_>,
        orphans: &mut OrphanedRecordings,
    ) {
        fault_injection::strike("recorder", || message.body);
        let session = message.session;
        let is_end = message.kind == Kind::End;
        if let Some(RecordedSession::Pending(resume)) = self.sessions.get(&session) {
            if !is_end || resume.ends {
                self.begin_next_file(message, ctx);
            }
        }
        match message.kind {
            Kind::Begin => self.begin(message, ctx),
            Kind::Resume => self.go_on(message, orphans),
            Kind::Rest => orphans.end_unclaimed(&self.hello, ctx),
            Kind::Over => self.end_ids(message, ctx, orphans),
            Kind::End => {
                let done = match self.sessions.remove(&session) {
                    Some(one) => one.end(Some(message), ctx),
                    None => RecordingResult { bytes: Some(0), ..RecordingResult::default() },
                };
                self.answer(&Answer::Done { session, recorded: done });
            }
            _ => match self.sessions.get_mut(&session) {
                Some(RecordedSession::Open(recording)) => {
                    recording.borrow_buffer(&mut self.spare_buffer);
                    if let Err(failure) = recording.note(message, ctx.journal) {
                        self.failed(session, failure);
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

    /// Sessions of gateways before this one are over: what became of each is told.
    fn end_ids(
        &mut self,
        message: Message<'_>,
        ctx: &RecorderContext<'_>,
        orphans: &mut OrphanedRecordings,
    ) {
        let mut ids = decode::<HashSet<String>>(message.body).unwrap_or_default();
        let ended: Vec<_> = orphans.end_ids(&ids, ctx).collect();
        for ((folder, name), recorded) in ended {
            let id = protocol::id_of(&name).to_owned();
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

    /// A session goes on that a gateway or a recorder before this one has begun.
    fn go_on(&mut self, message: Message<'_>, orphans: &mut OrphanedRecordings) {
        let Some(resume) = decode::<Resume>(message.body) else {
            return;
        };
        let resume = RecordedSession::Pending(resume);
        let before = orphans.take(&resume.of());
        let (number, moved) = (message.session, before.is_none());
        let session = before.unwrap_or(resume);
        let (part, dropped, failure) = match &session {
            RecordedSession::Open(recording) => recording.progress(),
            RecordedSession::Pending(resume) => (resume.begin.part + 1, resume.dropped, None),
            RecordedSession::Failed(.., failure) => (1, 0, Some(failure.clone())),
        };
        self.sessions.insert(number, session);
        match failure {
            Some(failure) => self.failed(number, failure),
            None => self.answer(&Answer::Resumed { session: number, part, moved, dropped }),
        }
    }

    /// Something is to be written of a session that goes on in its next file.
    fn begin_next_file(&mut self, message: Message<'_>, ctx: &RecorderContext<'_>) {
        let Some(session) = self.sessions.remove(&message.session) else {
            return;
        };
        let of = session.of();
        let RecordedSession::Pending(resume) = session else {
            return;
        };
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
        self.failed(session, failure);
    }

    fn failed(&mut self, session: u32, why: Failure) {
        self.answer(&Answer::Failed { session, why });
    }

    /// Says this, when it takes it.
    pub fn answer(&mut self, answer: &Answer) {
        self.answers.push_back(encode(answer));
    }

    /// What it was not answered.
    #[cfg(test)]
    pub fn answers(&mut self) -> impl Iterator<Item = Vec<u8>> {
        self.answers.drain(..)
    }

    /// Sends the answers, as far as the gateway takes them.
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

    /// Whether the gateway has; what it says here only wakes us up.
    pub fn is_closed(&self) -> bool {
        loop {
            match self.channel.read(&mut [0; 16]) {
                ReadOutcome::Bytes(_) => {}
                ReadOutcome::WouldBlock => return false,
                ReadOutcome::Eof | ReadOutcome::Closed => return true,
            }
        }
    }

    /// It has ended: the next one may take its sessions up. Its last words are in
    /// the queue, which goes with it: nobody will find it unfinished.
    pub fn orphan(mut self, ctx: &RecorderContext<'_>, orphans: &mut OrphanedRecordings) {
        let done = loop {
            match self.process(ctx, orphans) {
                Ok(true) => {}
                done => break done,
            }
        };
        if done.is_err() {
            return self.end(ctx);
        }
        for (session, missing) in self.queue.notes() {
            let body = &missing.to_le_bytes();
            let missing = Message { kind: Kind::Missing, session, at: 0, body };
            self.take(missing, ctx, orphans);
            self.write(session, ctx);
        }
        ctx.journal.end();
        orphans.put(self.hello.ordinal, self.sessions.drain().map(|(_, session)| session));
    }

    /// It is none: nobody tells how its sessions ended.
    pub fn end(mut self, ctx: &RecorderContext<'_>) {
        self.sessions.drain().for_each(|(_, session)| drop(session.end(None, ctx)));
        ctx.journal.end();
    }
}
