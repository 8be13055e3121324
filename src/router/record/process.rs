//! The process that writes the recordings: `fpty-recorder`. Who is recorded
//! must not own the file, so it is started before the server drops its
//! privileges, and it outlives a reload, after which the server has none.
//!
//! It has a door: whoever holds the other end, the server and each gateway, may
//! send it a queue (`sys/queue.rs`) and a channel. It ends with the last of
//! them. A parent that does nothing else starts another one if it is killed,
//! and the gateways give that one their queues: what was not in the files is in
//! there, and what was half in them is taken out of them again (`ledger.rs`).

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::super::fault;
use super::door;
use super::file::{Failure, Recording};
use super::ledger::{Ledger, Unfinished};
use super::message::{self, Answer, Begin, Kind, Message, Nonsense, Resume};
use crate::uwsgi::guard;
use fpty::sys::folder::Folder;
use fpty::sys::peer::{Arrived, Peer};
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::queue::Taker;
use fpty::sys::signal::{block, own_dispositions};
use fpty::sys::socket::Stream;
use fpty::sys::{Read, Written, detached};

/// Bytes that are taken out of a gateway's queue at once.
const AT_ONCE: usize = 512 * 1024;

/// A gateway that has more sessions than there are descriptors, or that takes no
/// answers, is none.
const MOST: usize = 1 << 20;

/// One that lived shorter than this is not replaced at once.
const SHORT: Duration = Duration::from_secs(1);

/// Signals for whoever stops the service. It ends by itself, after the last
/// gateway's last word.
const NOT_OURS: [Signal; 10] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGPIPE,
    Signal::SIGALRM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    // A file may not become as large (ulimit -f): the write says so, too.
    Signal::SIGXFSZ,
];

/// Starts it, for files in these folders; returns the outer side of its door.
///
/// # Errors
/// There can be no more processes or descriptors.
pub fn start(folders: Vec<Folder>) -> std::io::Result<Stream> {
    let (ours, theirs) = Stream::pair()?;
    let mut kept: Vec<OwnedFd> = vec![theirs.into()];
    kept.extend(folders.into_iter().map(OwnedFd::from));
    detached::run(c"fpty-rec-keeper", kept, supervise)?;
    Ok(ours)
}

/// The parent's life.
fn supervise(kept: Vec<OwnedFd>) {
    fpty::sys::forbid_inspection();
    own_dispositions(&[]);
    NOT_OURS.into_iter().for_each(block);
    let _ = std::env::set_current_dir("/");
    let mut kept = kept.into_iter();
    let Some(door) = kept.next() else {
        return;
    };
    let folders: Vec<Folder> = kept.map(Folder::of).collect();
    let Ok(ledger) = Ledger::new() else {
        return;
    };
    loop {
        let begin = Instant::now();
        let ended = detached::watched(c"fpty-recorder", || {
            if let Ok(door) = door.try_clone() {
                let _ = run(Stream::from(door), &Place { folders: &folders, ledger: &ledger });
            }
        });
        if matches!(ended, Ok(true)) {
            return;
        }
        if begin.elapsed() < SHORT {
            std::thread::sleep(SHORT);
        }
    }
}

const DOOR: u64 = 0;

/// Where it writes.
#[derive(Clone, Copy)]
struct Place<'a> {
    folders: &'a [Folder],
    ledger: &'a Ledger,
}

/// A gateway, as the recorder knows it.
struct Source {
    channel: Stream,
    queue: Taker,
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

/// One of its sessions.
enum Session {
    Recorded(Box<Recording>),
    /// One before us has recorded it; there is nothing of it for us so far.
    Waits(Box<Resume>),
    /// There is no file; so many bytes would have gone there.
    Lost(u64),
}

/// The process's life.
fn run(door: Stream, place: &Place<'_>) -> std::io::Result<()> {
    fpty::sys::forbid_inspection();
    // One for each session.
    let _ = fpty::sys::raise_descriptor_limit();
    let mut poller = Poller::new(64)?;
    poller.add(door.as_fd(), DOOR, Interest::READ)?;
    let mut door = Some(door);
    let mut sources: HashMap<u64, Source> = HashMap::new();
    let mut unfinished = place.ledger.take();
    let mut next = DOOR + 1;
    while door.is_some() || !sources.is_empty() {
        let mut busy = false;
        sources.retain(|token, source| match source.guarded_work(place) {
            Ok(worked) => {
                busy |= worked || source.queue.sleep();
                source.speak(&poller, *token);
                true
            }
            Err(Nonsense) => {
                source.end(place);
                false
            }
        });
        let count = poller.wait(busy.then_some(Duration::ZERO))?;
        for index in 0..count {
            match poller.ready(index).token {
                DOOR => {
                    let Some(open) = &door else { continue };
                    match enter(open, &mut unfinished, place) {
                        Entry::Source(mut source) => {
                            let there = poller.add(source.channel.as_fd(), next, Interest::READ);
                            if there.is_ok() {
                                let uid = nix::unistd::geteuid().as_raw();
                                source.answer(&Answer::Here { uid });
                                sources.insert(next, *source);
                                next += 1;
                            }
                        }
                        Entry::Nobody => {}
                        Entry::Closed => {
                            let _ = poller.remove(open.as_fd());
                            door = None;
                        }
                    }
                }
                token => {
                    let Some(source) = sources.get_mut(&token) else { continue };
                    if source.has_ended() {
                        // Its last words are in the queue.
                        while matches!(source.guarded_work(place), Ok(true)) {}
                        source.end(place);
                        sources.remove(&token);
                    }
                }
            }
        }
    }
    Ok(())
}

enum Entry {
    Source(Box<Source>),
    Nobody,
    Closed,
}

/// Somebody is at the door: with a queue, a channel, and, where a recorder
/// before us had that queue, another one with what is to be known of it.
fn enter(door: &Stream, unfinished: &mut Option<Unfinished>, place: &Place<'_>) -> Entry {
    let (mut word, mut arrived) = ([0; 32], Arrived::default());
    match door.read_with_descriptors(&mut word, &mut arrived, &mut Peer::default()) {
        Read::Bytes(count) if door::is_entry(&word[..count]) => {}
        // The end of the door alone is not enough.
        Read::Bytes(_) | Read::Blocked => return Entry::Nobody,
        Read::End | Read::Gone => return Entry::Closed,
    }
    let mut arrived = arrived.descriptors.into_iter();
    let (Some(queue), Some(channel), before) = (arrived.next(), arrived.next(), arrived.next())
    else {
        return Entry::Nobody;
    };
    let Ok(queue) = Taker::of(&queue) else {
        return Entry::Nobody;
    };
    if let Some(unfinished) = unfinished.take_if(|unfinished| unfinished.is_of(queue.id())) {
        unfinished.undo(queue.begins_at(), place.folders);
    }
    let mut source = Source {
        channel: Stream::from(channel),
        queue,
        bytes: Vec::new(),
        sessions: HashMap::new(),
        spare: Vec::new(),
        touched: Vec::new(),
        answers: VecDeque::new(),
        waits: false,
    };
    match before.is_none_or(|before| source.learn(&before).is_ok()) {
        true => Entry::Source(Box::new(source)),
        false => Entry::Nobody,
    }
}

impl Source {
    /// What is to be known of sessions that one before us has recorded.
    fn learn(&mut self, before: &OwnedFd) -> Result<(), Nonsense> {
        let mut bytes = Vec::new();
        let mut before = Taker::of(before).map_err(|_| Nonsense)?;
        before.take(usize::MAX, &mut bytes).map_err(|_| Nonsense)?;
        let mut rest = bytes.as_slice();
        while let Some(message) = message::next(&mut rest)? {
            let resume = serde_json::from_slice(message.body).map_err(|_| Nonsense)?;
            if message.kind != Kind::Resume || self.sessions.len() > MOST {
                return Err(Nonsense);
            }
            self.sessions.insert(message.session, Session::Waits(Box::new(resume)));
        }
        Ok(())
    }

    /// Works; a gateway over whose words it panics is none.
    fn guarded_work(&mut self, place: &Place<'_>) -> Result<bool, Nonsense> {
        detached::guarded(|| self.work(place)).unwrap_or(Err(Nonsense))
    }

    /// Takes some messages out of the queue and writes what comes of them;
    /// returns whether there were any. The queue has them until that is done.
    fn work(&mut self, place: &Place<'_>) -> Result<bool, Nonsense> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let taken = self.queue.take(AT_ONCE, &mut bytes).map_err(|_| Nonsense)?;
        if taken == 0 {
            self.bytes = bytes;
            return Ok(false);
        }
        let mut unread = bytes.as_slice();
        while message::next(&mut unread)?.is_some() {}
        let unread = unread.len();
        place.ledger.begin(self.queue.id(), self.queue.would_begin_at(unread));
        let mut rest = bytes.as_slice();
        while let Some(message) = message::next(&mut rest)? {
            if self.sessions.len() + self.answers.len() > MOST {
                return Err(Nonsense);
            }
            let (session, length) = (message.session, message.body.len());
            let is_end = message.kind == Kind::End;
            if let Err(panic) = detached::guarded(|| self.take(message, place)) {
                self.panicked(session, length, is_end, guard::text(&*panic), place);
            }
        }
        let done = bytes.len() - rest.len();
        bytes.drain(..done);
        self.bytes = bytes;
        for session in std::mem::take(&mut self.touched) {
            if let Err(panic) = detached::guarded(|| self.write(session, place)) {
                self.panicked(session, 0, false, guard::text(&*panic), place);
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
        if let Some(Session::Recorded(recording)) = self.sessions.remove(&session) {
            let _ = detached::guarded(|| recording.end(None, place.ledger));
        }
        let dropped = length as u64;
        if is_end {
            let (name, bytes, sha256) = (None, None, None);
            return self.answer(&Answer::Done { session, name, bytes, dropped, sha256 });
        }
        self.sessions.insert(session, Session::Lost(dropped));
        self.failed(session, Failure::Error(format!("internal error: {why}")));
    }

    fn take(&mut self, message: Message<'_>, place: &Place<'_>) {
        fault::strike("recorder", || message.body);
        let session = message.session;
        let is_end = message.kind == Kind::End;
        if let Some(Session::Waits(resume)) = self.sessions.get(&session) {
            if !is_end || resume.ends {
                self.resume(message, place);
            }
        }
        match message.kind {
            Kind::Begin => self.begin(message, place),
            Kind::Resume => {}
            Kind::End => {
                let status = message.body.first_chunk().map(|bytes| i32::from_le_bytes(*bytes));
                let done = match self.sessions.remove(&session) {
                    Some(Session::Recorded(mut recording)) => {
                        let _ = recording.note(message, place.ledger);
                        let outcome = recording.end(status, place.ledger);
                        Answer::Done {
                            session,
                            name: Some(outcome.name),
                            bytes: Some(outcome.bytes),
                            dropped: outcome.dropped,
                            sha256: outcome.sha256,
                        }
                    }
                    Some(Session::Waits(resume)) => {
                        let Resume { before, dropped, .. } = *resume;
                        let name = Some(before);
                        Answer::Done { session, name, bytes: None, dropped, sha256: None }
                    }
                    other => {
                        let dropped = match other {
                            Some(Session::Lost(dropped)) => dropped,
                            _ => 0,
                        };
                        Answer::Done { session, name: None, bytes: Some(0), dropped, sha256: None }
                    }
                };
                self.answer(&done);
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
                Some(Session::Lost(bytes)) => *bytes += message.lost(),
                Some(Session::Waits(_)) | None => {}
            },
        }
    }

    fn begin(&mut self, message: Message<'_>, place: &Place<'_>) {
        let begin = serde_json::from_slice::<Begin>(message.body).ok();
        let recording = begin.as_ref().and_then(|begin| {
            let folder = place.folders.get(begin.folder)?;
            Some(Recording::begin(folder, begin, place.ledger))
        });
        self.has_begun(message.session, recording, 0);
    }

    /// Something is to be written of a session that one before us has recorded.
    fn resume(&mut self, message: Message<'_>, place: &Place<'_>) {
        let Some(Session::Waits(resume)) = self.sessions.remove(&message.session) else {
            return;
        };
        let folder = place.folders.get(resume.begin.folder);
        let recording =
            folder.map(|folder| Recording::resume(folder, &resume, message, place.ledger));
        self.has_begun(message.session, recording, resume.dropped);
    }

    fn has_begun(
        &mut self,
        session: u32,
        recording: Option<Result<Recording, Failure>>,
        dropped: u64,
    ) {
        match recording {
            Some(Ok(recording)) => {
                self.sessions.insert(session, Session::Recorded(Box::new(recording)));
                self.touched.push(session);
            }
            Some(Err(failure)) => {
                self.sessions.insert(session, Session::Lost(dropped));
                self.failed(session, failure);
            }
            None => {}
        }
    }

    fn failed(&mut self, session: u32, failure: Failure) {
        let (why, full) = match failure {
            Failure::Full => (String::from("the recording is as long as it may become"), true),
            Failure::Error(why) => (why, false),
        };
        self.answer(&Answer::Failed { session, why, full });
    }

    fn answer(&mut self, answer: &Answer) {
        self.answers.extend(serde_json::to_vec(answer).ok());
    }

    /// Sends the answers, as far as the gateway takes them.
    fn speak(&mut self, poller: &Poller, token: u64) {
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
    fn has_ended(&self) -> bool {
        loop {
            match self.channel.read(&mut [0; 16]) {
                Read::Bytes(_) => {}
                Read::Blocked => return false,
                Read::End | Read::Gone => return true,
            }
        }
    }

    /// Nobody tells how its sessions ended.
    fn end(&mut self, place: &Place<'_>) {
        // The queue goes with it: nobody will find it unfinished.
        for (_, session) in self.sessions.drain() {
            if let Session::Recorded(recording) = session {
                recording.end(None, place.ledger);
            }
        }
        place.ledger.end();
    }
}
