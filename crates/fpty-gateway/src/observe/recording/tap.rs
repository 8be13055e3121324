//! A session that is recorded, as whoever reads its terminal has it: what goes by
//! is put into the queue to the recorder.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::launcher;
use super::producer::{RESERVE, Sink, TIGHT};
use super::protocol::{Begin, Kind, Resume, header};
use super::results::Bytes;
use crate::config::recording::{OnError, Record};
use crate::event_loop::subject::{Subject, Whose};
use crate::process::ipc::encode;
use fpty::sys::Size;
use fpty::sys::clock::BootInstant;

/// What may wait until a session's program is executed.
const EARLY: usize = 128 * 1024;

/// What the next gateway has to know to go on with a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What it is of.
    begin: Begin,
    /// Where that is.
    path: String,
    /// When it began, in nanoseconds since the machine's start.
    began: u64,
}

impl Kept {
    /// The session's id.
    pub fn id(&self) -> String {
        self.begin.id().to_owned()
    }
}

/// A session that is recorded, as its traffic passes by. Whoever reads its
/// terminal has it, and the gateway's [`Recorder`](super::Recorder).
pub struct Recording {
    sink: Rc<RefCell<Sink>>,
    number: u32,
    /// By the clock that counts on over gateways.
    began: BootInstant,
    with_input: bool,
    /// What becomes of the session where it cannot be recorded.
    on_error: OnError,
    begin: RefCell<Begin>,
    /// How large its terminal is now.
    size: Cell<Size>,
    /// Who has its terminal.
    subject: Cell<Option<Subject>>,
    /// Its program was executed.
    has_begun: Cell<bool>,
    /// It is not recorded any more, and that was told.
    is_lost: Cell<bool>,
    /// Since a reload its files are in another folder.
    is_elsewhere: bool,
    /// What was put in before the session began; `None`: it has.
    early: RefCell<Option<Vec<u8>>>,
    /// Bytes that found no room.
    missing: Cell<u64>,
    /// Those before, as the recorder was told.
    told_missing: Cell<u64>,
    /// Its terminal is not read.
    is_held: Cell<bool>,
    /// Its recorder is gone: all that comes is missing.
    is_cut: Cell<bool>,
}

impl Recording {
    /// Of a session that has not begun.
    pub fn new(sink: &Rc<RefCell<Sink>>, number: u32, record: &Record, begin: Begin) -> Self {
        Self {
            sink: Rc::clone(sink),
            number,
            began: BootInstant::now(),
            with_input: record.input,
            on_error: record.on_error,
            size: Cell::new(Size { rows: begin.head.rows, cols: begin.head.cols }),
            begin: RefCell::new(begin),
            subject: Cell::new(None),
            has_begun: Cell::new(false),
            is_lost: Cell::new(false),
            is_elsewhere: false,
            early: RefCell::new(Some(Vec::new())),
            missing: Cell::new(0),
            told_missing: Cell::new(0),
            is_held: Cell::new(false),
            is_cut: Cell::new(false),
        }
    }

    /// Of one that a gateway before us has begun, and whose terminal has this size
    /// now. Where the recorder has not got it, it goes on in its next file.
    pub fn resumed(
        sink: &Rc<RefCell<Sink>>,
        number: u32,
        record: &Record,
        (kept, folder): (Kept, usize),
        size: Size,
    ) -> Self {
        let Kept { begin, path, began } = kept;
        // A reload may have given the folders other numbers, or it another folder.
        let begin = Begin { folder, limit: record.limit, ..begin };
        let is_elsewhere = launcher::path(folder, &begin.file()) != path;
        let new = Self::new(sink, number, record, begin);
        let began = BootInstant::from_nanos(began);
        let (size, has_begun) = (Cell::new(size), Cell::new(true));
        let early = RefCell::new(None);
        let resumed = Self { began, size, has_begun, early, is_elsewhere, ..new };
        let json = encode(&resumed.resume(0));
        sink.borrow_mut().put_surely(Kind::Resume, number, resumed.now(), &json);
        resumed
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The session's id.
    pub fn id(&self) -> String {
        self.begin.borrow().id().to_owned()
    }

    /// Its file, as far as is known.
    pub fn path(&self) -> String {
        let begin = self.begin.borrow();
        launcher::path(begin.folder, &begin.file())
    }

    /// The file of its folder that has this name.
    pub fn path_of(&self, name: &str) -> String {
        launcher::path(self.begin.borrow().folder, name)
    }

    /// Who has its terminal; `None`: nobody yet, or any more.
    pub fn subject(&self) -> Option<Subject> {
        self.subject.get()
    }

    /// Whom something is about that becomes of it.
    pub fn whose(&self) -> Whose {
        self.subject().map_or(Whose::Past, Whose::from)
    }

    /// That is somebody else from now on.
    pub fn belongs_to(&self, subject: Subject) {
        self.subject.set(Some(subject));
    }

    /// Whether its session ends where it cannot be recorded.
    pub fn must_be(&self) -> bool {
        self.on_error == OnError::Close
    }

    /// Whether its files are in another folder than the gateway before us had them.
    pub fn is_elsewhere(&self) -> bool {
        self.is_elsewhere
    }

    /// Whether its program was executed.
    pub fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    /// Whether it is recorded.
    pub fn goes_on(&self) -> bool {
        self.has_begun.get() && !self.is_lost.get()
    }

    /// It is recorded no more. Returns whether it was.
    pub fn lose(&self) -> bool {
        self.is_held.set(false);
        !self.is_lost.replace(true)
    }

    /// What the next gateway is to know.
    pub fn kept(&self) -> Kept {
        let (begin, path) = (self.begin.borrow().clone(), self.path());
        Kept { begin, path, began: self.began.as_nanos() }
    }

    /// What the next recorder is to know, which finds nothing of it but the file.
    pub fn resume(&self, dropped: u64) -> Resume {
        let mut begin = self.begin.borrow().clone();
        let Size { rows, cols } = self.size.get();
        (begin.head.rows, begin.head.cols) = (rows, cols);
        Resume { begin, dropped, ends: !self.must_be() }
    }

    /// It goes on in this file of its; so many bytes are missing so far.
    pub fn resume_at(&self, part: u32, dropped: u64) {
        self.begin.borrow_mut().part = part;
        self.told_missing.set(self.told_missing.get().max(dropped));
    }

    /// It begins. Returns whether there is anybody who takes it.
    pub fn begin(&self) -> bool {
        self.has_begun.set(true);
        let json = encode(&*self.begin.borrow());
        let mut sink = self.sink.borrow_mut();
        if !sink.put(Kind::Begin, self.number, 0, &json, 0) {
            return false;
        }
        let early = self.early.take().unwrap_or_default();
        let taken = early.is_empty() || sink.try_put([&early, &[]], 0);
        // The file is there before the program can do much.
        sink.flush();
        taken
    }

    /// Its program wrote this.
    pub fn output(&self, bytes: &[u8]) {
        self.put(Kind::Output, bytes);
    }

    /// Its program was given this.
    pub fn input(&self, bytes: &[u8]) {
        if self.with_input {
            self.put(Kind::Input, bytes);
        }
    }

    /// Its terminal has this size now.
    pub fn resized(&self, size: Size) {
        self.size.set(size);
        let [r1, r2] = size.rows.to_le_bytes();
        let [c1, c2] = size.cols.to_le_bytes();
        let (at, body) = (self.now(), [r1, r2, c1, c2]);
        match &mut *self.early.borrow_mut() {
            Some(early) if early.len() < EARLY => {
                append(early, Kind::Resize, self.number, at, &body)
            }
            Some(_) => {}
            None => {
                let mut sink = self.sink.borrow_mut();
                sink.put(Kind::Resize, self.number, at, &body, 0);
            }
        }
    }

    /// It is over, with this exit status where that is known.
    pub fn end(&self, status: Option<i32>) {
        if self.is_early() || self.is_cut.get() {
            return;
        }
        let at = self.now();
        let mut sink = self.sink.borrow_mut();
        let missing = self.missing.take();
        if missing > 0 {
            self.told_missing.set(self.told_missing.get() + missing);
            // It is noted until the recorder has said that it has all.
            sink.put_surely(Kind::Missing, self.number, at, &missing.to_le_bytes());
        }
        match status {
            Some(status) => {
                sink.put_surely(Kind::End, self.number, at, &status.to_le_bytes());
            }
            None => sink.put_surely(Kind::End, self.number, at, &[]),
        }
        sink.flush();
    }

    /// Whether its terminal is not to be read now, because there may be no room
    /// for what comes from it.
    pub fn holds(&self) -> bool {
        if !self.is_held.get() && !self.is_cut.get() && !self.is_early() {
            let mut sink = self.sink.borrow_mut();
            if sink.is_tight() {
                self.is_held.set(true);
                sink.held.push(self.number);
                sink.wait_for_room();
            }
        }
        self.is_held.get()
    }

    /// Its recorder is gone, and there is no other for it: this was left in the
    /// queue.
    pub fn cut(&self, left: Bytes) {
        let lost = self.told_missing(left) + left.lost;
        self.missing.set(self.missing.get() + lost);
        self.told_missing.set(0);
        self.is_cut.set(true);
        self.is_held.set(false);
    }

    /// How many bytes are missing, as the recorder knows that has left this in
    /// the queue.
    pub fn told_missing(&self, left: Bytes) -> u64 {
        self.told_missing.get().saturating_sub(left.missing)
    }

    /// Whether it has none; how many bytes are missing.
    pub fn is_cut(&self) -> Option<u64> {
        self.is_cut.get().then_some(self.missing.get())
    }

    /// Whether its terminal is not read now; see [`Recording::holds`].
    pub fn is_held(&self) -> bool {
        self.is_held.get()
    }

    /// It is read again.
    pub fn let_go(&self) {
        self.is_held.set(false);
    }

    fn is_early(&self) -> bool {
        self.early.borrow().is_some()
    }

    fn now(&self) -> u64 {
        // Half a million years.
        self.began.elapsed().as_micros() as u64
    }

    fn put(&self, kind: Kind, bytes: &[u8]) {
        let missing = self.missing.get();
        let misses = || self.missing.set(missing + bytes.len() as u64);
        if self.is_cut.get() {
            return misses();
        }
        let at = self.now();
        if let Some(early) = &mut *self.early.borrow_mut() {
            return match early.len() + bytes.len() < EARLY {
                true => append(early, kind, self.number, at, bytes),
                false => misses(),
            };
        }
        let mut sink = self.sink.borrow_mut();
        // One gap instead of many.
        let is_gap =
            missing > 0 && !sink.put(Kind::Missing, self.number, at, &missing.to_le_bytes(), TIGHT);
        if missing > 0 && !is_gap {
            self.missing.set(0);
            self.told_missing.set(self.told_missing.get() + missing);
            sink.note(self.number, 0);
        }
        if is_gap || !sink.put(kind, self.number, at, bytes, RESERVE) {
            self.missing.set(self.missing.get() + bytes.len() as u64);
            sink.note(self.number, self.missing.get());
        }
    }
}

fn append(early: &mut Vec<u8>, kind: Kind, session: u32, at: u64, body: &[u8]) {
    early.extend_from_slice(&header(kind, session, at, body.len()));
    early.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::recording::producer::Link;
    use crate::observe::recording::protocol;
    use fpty::sys::shm_queue::{CAPACITY, Giver, Taker};
    use fpty::sys::socket::Stream;
    use std::os::fd::AsFd;

    fn made(sink: &Rc<RefCell<Sink>>, input: bool) -> Recording {
        let record = Record { input, ..Record::default() };
        Recording::new(sink, 7, &record, Begin::named("now-me-0123abcd"))
    }

    fn connected() -> (Rc<RefCell<Sink>>, Taker, Stream) {
        let queue = Giver::new().expect("a queue");
        let fd = queue.as_fd().try_clone_to_owned().expect("a descriptor");
        let (channel, other) = Stream::pair().expect("a channel");
        let sink = Rc::new(RefCell::new(Sink::default()));
        sink.borrow_mut().connect(Some(Link { queue, channel }));
        (sink, Taker::of(&fd).expect("its other end"), other)
    }

    /// What comes out.
    fn told(taker: &mut Taker) -> Vec<(Kind, u32, Vec<u8>)> {
        let mut bytes = Vec::new();
        taker.take(CAPACITY, &mut bytes).expect("bytes");
        taker.mark_done(0);
        let mut rest = bytes.as_slice();
        let mut told = Vec::new();
        while let Some(message) = protocol::next(&mut rest).expect("sense") {
            told.push((message.kind, message.session, message.body.to_vec()));
        }
        assert!(rest.is_empty());
        told
    }

    #[test]
    fn what_comes_early_waits_for_the_beginning() {
        let (sink, mut taker, _other) = connected();
        let recording = made(&sink, true);
        recording.input(b"early");
        recording.resized(Size { rows: 1, cols: 2 });
        assert_eq!(told(&mut taker), []);
        assert!(recording.begin());
        recording.output(b"out");
        recording.end(Some(3));
        let kinds: Vec<_> = told(&mut taker).into_iter().map(|(kind, _, _)| kind).collect();
        assert_eq!(kinds, [Kind::Begin, Kind::Input, Kind::Resize, Kind::Output, Kind::End]);
        // Without the option no input goes there.
        let recording = made(&sink, false);
        assert!(recording.begin());
        recording.input(b"secret");
        assert_eq!(told(&mut taker).len(), 1);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_the_end_is_told() {
        let (sink, mut taker, _other) = connected();
        let recording = made(&sink, false);
        assert!(recording.begin());
        let piece = vec![b'x'; 64 * 1024];
        while !recording.holds() {
            recording.output(&piece);
        }
        let mut beyond = 0;
        while recording.missing.get() == 0 {
            recording.output(&piece);
            beyond += 1;
        }
        assert!(beyond >= 4);
        recording.output(&piece);
        let lost = recording.missing.get();
        assert_eq!(lost, 2 * piece.len() as u64);
        recording.end(None);
        let mut all = told(&mut taker);
        sink.borrow_mut().flush();
        all.extend(told(&mut taker));
        let [.., (Kind::Missing, 7, missing), (Kind::End, 7, _)] = all.as_slice() else {
            panic!("no end");
        };
        assert_eq!(missing, &lost.to_le_bytes());
        assert!(!sink.borrow().is_tight());
    }

    #[test]
    fn without_a_recorder_nothing_begins() {
        let sink = Rc::new(RefCell::new(Sink::default()));
        let recording = made(&sink, true);
        recording.input(b"x");
        assert!(!recording.begin() && !recording.holds());
        recording.end(None);
    }
}
