//! A gateway, as the recorder knows it: what it says of its sessions, and what
//! becomes of these when it has ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use super::file::{Of, Recording};
use super::orphans::{Parked, Place, Session};
use super::protocol::{self, Answer, Begin, Failure, Kind, Message, Nonsense, Resume};
use crate::event_loop::fault_injection;
use crate::observe::audit::Recorded;
use crate::process::ipc::{Hello, decode, encode};
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::shm_queue::Taker;
use fpty::sys::socket::Stream;
use fpty::sys::{Read, Written, daemonize};
use fpty::text::panic_message;

/// Bytes that are taken out of a gateway's queue at once.
const AT_ONCE: usize = 512 * 1024;

/// A gateway that has more sessions than there are descriptors, or that takes no
/// answers, is none.
const MOST: usize = 1 << 20;

/// A gateway.
pub struct Source {
    /// Wakes us up, and takes our answers.
    pub channel: Stream,
    /// What it says.
    pub queue: Taker,
    /// Which it is.
    hello: Hello,
    /// A message that is not complete.
    bytes: Vec<u8>,
    sessions: HashMap<u32, Session>,
    /// Room for lines that no session uses.
    spare: Vec<u8>,
    /// Sessions with lines that are not in their files.
    touched: Vec<u32>,
    answers: VecDeque<Vec<u8>>,
    /// Its channel is waited for to take more.
    waits: bool,
}

impl Source {
    /// One that has said this.
    pub fn new(channel: Stream, queue: Taker, hello: Hello) -> Self {
        Self {
            channel,
            queue,
            hello,
            bytes: Vec::new(),
            sessions: HashMap::new(),
            spare: Vec::new(),
            touched: Vec::new(),
            answers: VecDeque::new(),
            waits: false,
        }
    }

    /// Whether one that begins has this one's place, which has ended then.
    pub fn is_followed_by(&self, next: &Self) -> bool {
        next.hello.has_place_of(self.hello.ordinal)
    }

    /// What is to be known of sessions that one before us has recorded.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn learn(&mut self, before: &OwnedFd, parked: &mut Parked) -> Result<(), Nonsense> {
        let mut bytes = Vec::new();
        let mut before = Taker::of(before).map_err(|_| Nonsense)?;
        before.take(usize::MAX, &mut bytes).map_err(|_| Nonsense)?;
        let mut rest = bytes.as_slice();
        while let Some(message) = protocol::next(&mut rest)? {
            if message.kind != Kind::Resume || self.sessions.len() > MOST {
                return Err(Nonsense);
            }
            self.go_on(message, parked);
        }
        Ok(())
    }

    /// Works; a gateway over whose words it panics is none.
    ///
    /// # Errors
    /// It says nonsense.
    pub fn work(&mut self, place: &Place<'_>, parked: &mut Parked) -> Result<bool, Nonsense> {
        daemonize::guarded(|| self.take_some(place, parked)).unwrap_or(Err(Nonsense))
    }

    /// Takes some messages out of the queue and writes what comes of them;
    /// returns whether there were any. The queue has them until that is done.
    fn take_some(&mut self, place: &Place<'_>, parked: &mut Parked) -> Result<bool, Nonsense> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let taken = self.queue.take(AT_ONCE, &mut bytes).map_err(|_| Nonsense)?;
        if taken == 0 {
            self.bytes = bytes;
            return Ok(false);
        }
        let mut unread = bytes.as_slice();
        while protocol::next(&mut unread)?.is_some() {}
        let unread = unread.len();
        place.ledger.begin(self.queue.id(), self.queue.would_begin_at(unread));
        let mut rest = bytes.as_slice();
        while let Some(message) = protocol::next(&mut rest)? {
            if self.sessions.len() + self.answers.len() > MOST {
                return Err(Nonsense);
            }
            let (session, length) = (message.session, message.body.len());
            let is_end = message.kind == Kind::End;
            if let Err(panic) = daemonize::guarded(|| self.take(message, place, parked)) {
                self.panicked(session, length, is_end, panic_message(&*panic), place);
            }
        }
        let done = bytes.len() - rest.len();
        bytes.drain(..done);
        self.bytes = bytes;
        for session in std::mem::take(&mut self.touched) {
            if let Err(panic) = daemonize::guarded(|| self.write(session, place)) {
                self.panicked(session, 0, false, panic_message(&*panic), place);
            }
        }
        // From here on it is in the files; answers go out after that.
        self.queue.mark_done(unread);
        place.ledger.end();
        if self.queue.must_tell_of_room() {
            self.answer(&Answer::Room);
        }
        Ok(true)
    }

    fn write(&mut self, session: u32, place: &Place<'_>) {
        if let Some(Session::Recorded(recording)) = self.sessions.get_mut(&session) {
            let outcome = recording.write(place.ledger);
            recording.give_room(&mut self.spare);
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
        place: &Place<'_>,
    ) {
        let before = self.sessions.remove(&session);
        let of = before.as_ref().map(Session::of).unwrap_or_default();
        if let Some(before) = before {
            let _ = daemonize::guarded(|| before.end(None, place));
        }
        let dropped = length as u64;
        if is_end {
            let recorded = Recorded { dropped, ..Recorded::default() };
            return self.answer(&Answer::Done { session, recorded });
        }
        let failure = Failure::Error(format!("internal error: {why}"));
        self.lose(session, of, dropped, failure);
    }

    fn take(&mut self, message: Message<'_>, place: &Place<'_>, parked: &mut Parked) {
        fault_injection::strike("recorder", || message.body);
        let session = message.session;
        let is_end = message.kind == Kind::End;
        if let Some(Session::Waits(resume)) = self.sessions.get(&session) {
            if !is_end || resume.ends {
                self.begin_next(message, place);
            }
        }
        match message.kind {
            Kind::Begin => self.begin(message, place),
            Kind::Resume => self.go_on(message, parked),
            Kind::Rest => parked.end_rest(&self.hello, place),
            Kind::Over => self.end_these(message, place, parked),
            Kind::End => {
                let done = match self.sessions.remove(&session) {
                    Some(one) => one.end(Some(message), place),
                    None => Recorded { bytes: Some(0), ..Recorded::default() },
                };
                self.answer(&Answer::Done { session, recorded: done });
            }
            _ => match self.sessions.get_mut(&session) {
                Some(Session::Recorded(recording)) => {
                    recording.take_room(&mut self.spare);
                    if let Err(failure) = recording.note(message, place.ledger) {
                        self.failed(session, failure);
                    }
                    if self.touched.last() != Some(&session) {
                        self.touched.push(session);
                    }
                }
                Some(Session::Lost(_, bytes, _)) => *bytes += message.lost(),
                Some(Session::Waits(_)) | None => {}
            },
        }
    }

    /// Sessions of gateways before this one are over: what became of each is told.
    fn end_these(&mut self, message: Message<'_>, place: &Place<'_>, parked: &mut Parked) {
        let mut ids = decode::<HashSet<String>>(message.body).unwrap_or_default();
        let ended: Vec<_> = parked.end_these(&ids, place).collect();
        for ((folder, name), recorded) in ended {
            let id = protocol::id_of(&name).to_owned();
            ids.remove(&id);
            self.answer(&Answer::Over { id, folder, recorded: Some(recorded) });
        }
        for id in ids {
            self.answer(&Answer::Over { id, folder: 0, recorded: None });
        }
    }

    fn begin(&mut self, message: Message<'_>, place: &Place<'_>) {
        let Some(begin) = decode::<Begin>(message.body) else {
            return;
        };
        if let Some(folder) = place.folders.get(begin.folder) {
            let recording = Recording::begin(folder, &begin, place.ledger);
            self.take_up(message.session, (begin.folder, begin.name), recording, 0);
        }
    }

    /// A session goes on that a gateway or a recorder before this one has begun.
    fn go_on(&mut self, message: Message<'_>, parked: &mut Parked) {
        let Some(resume) = decode::<Resume>(message.body) else {
            return;
        };
        let resume = Session::Waits(resume);
        let before = parked.take(&resume.of());
        let (number, moved) = (message.session, before.is_none());
        let session = before.unwrap_or(resume);
        let (part, dropped, failure) = match &session {
            Session::Recorded(recording) => recording.so_far(),
            Session::Waits(resume) => (resume.begin.part + 1, resume.dropped, None),
            Session::Lost(.., failure) => (1, 0, Some(failure.clone())),
        };
        self.sessions.insert(number, session);
        match failure {
            Some(failure) => self.failed(number, failure),
            None => self.answer(&Answer::Resumed { session: number, part, moved, dropped }),
        }
    }

    /// Something is to be written of a session that goes on in its next file.
    fn begin_next(&mut self, message: Message<'_>, place: &Place<'_>) {
        let Some(session) = self.sessions.remove(&message.session) else {
            return;
        };
        let of = session.of();
        let Session::Waits(resume) = session else {
            return;
        };
        if let Some(folder) = place.folders.get(resume.begin.folder) {
            let recording = Recording::resume(folder, &resume, message, place.ledger);
            self.take_up(message.session, of, recording, resume.dropped);
        }
    }

    fn take_up(
        &mut self,
        session: u32,
        of: Of,
        recording: Result<Recording, Failure>,
        dropped: u64,
    ) {
        match recording {
            Ok(recording) => {
                self.sessions.insert(session, Session::Recorded(Box::new(recording)));
                self.touched.push(session);
            }
            Err(failure) => self.lose(session, of, dropped, failure),
        }
    }

    fn lose(&mut self, session: u32, of: Of, dropped: u64, failure: Failure) {
        self.sessions.insert(session, Session::Lost(of, dropped, failure.clone()));
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
    pub fn speak(&mut self, poller: &Poller, token: u64) {
        while let Some(answer) = self.answers.front() {
            match self.channel.write(answer) {
                Written::Bytes(_) => self.answers.pop_front(),
                // The next event says that there is room, or nobody.
                Written::Blocked | Written::Gone => break,
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
    pub fn hear_end(&self) -> bool {
        loop {
            match self.channel.read(&mut [0; 16]) {
                Read::Bytes(_) => {}
                Read::Blocked => return false,
                Read::End | Read::Gone => return true,
            }
        }
    }

    /// It has ended: the next one may take its sessions up. Its last words are in
    /// the queue, which goes with it: nobody will find it unfinished.
    pub fn park(mut self, place: &Place<'_>, parked: &mut Parked) {
        let done = loop {
            match self.work(place, parked) {
                Ok(true) => {}
                done => break done,
            }
        };
        if done.is_err() {
            return self.end(place);
        }
        for (session, missing) in self.queue.notes() {
            let body = &missing.to_le_bytes();
            let missing = Message { kind: Kind::Missing, session, at: 0, body };
            self.take(missing, place, parked);
            self.write(session, place);
        }
        place.ledger.end();
        parked.put(self.hello.ordinal, self.sessions.drain().map(|(_, session)| session));
    }

    /// It is none: nobody tells how its sessions ended.
    pub fn end(mut self, place: &Place<'_>) {
        self.sessions.drain().for_each(|(_, session)| drop(session.end(None, place)));
        place.ledger.end();
    }
}
