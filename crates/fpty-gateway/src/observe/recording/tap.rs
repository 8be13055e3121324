//! A session that is recorded, as whoever reads its terminal has it: what goes by
//! is put into the queue to the recorder.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::launcher;
use super::producer::{LOW_ROOM, RESERVE, RecorderProducer};
use super::protocol::{Begin, Kind, Resume, header};
use super::results::UnconsumedBytes;
use crate::config::recording::{OnError, RecordOptions};
use crate::event_loop::subject::{FaultDomain, SessionRef};
use crate::process::ipc::encode;
use fpty::sys::Size;
use fpty::sys::clock::BootInstant;

/// What may wait until a session's program is executed.
const MAX_EARLY: usize = 128 * 1024;

/// What the next gateway has to know to go on with a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingState {
    /// What it is of.
    begin: Begin,
    /// Where that is.
    path: String,
    /// When it began, in nanoseconds since the machine's start.
    began: u64,
}

impl RecordingState {
    /// The session's id.
    pub fn id(&self) -> String {
        self.begin.id().to_owned()
    }
}

/// A session that is recorded, as its traffic passes by. Whoever reads its
/// terminal has it, and the gateway's [`Recordings`](super::Recorder).
pub struct RecordingTap {
    producer: Rc<RefCell<RecorderProducer>>,
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
    session_ref: Cell<Option<SessionRef>>,
    /// Its program was executed.
    has_begun: Cell<bool>,
    /// It is not recorded any more, and that was told.
    has_stopped: Cell<bool>,
    /// Since a reload its files are in another folder.
    is_in_other_folder: bool,
    /// What was put in before the session began; `None`: it has.
    early_events: RefCell<Option<Vec<u8>>>,
    /// Bytes that found no room.
    missing: Cell<u64>,
    /// Those before, as the recorder was told.
    reported_missing: Cell<u64>,
    /// Its terminal is not read.
    is_throttled: Cell<bool>,
    /// Its recorder is gone: all that comes is missing.
    detached_missing: Cell<bool>,
}

impl RecordingTap {
    /// Of a session that has not begun.
    pub fn new(
        producer: &Rc<RefCell<RecorderProducer>>,
        number: u32,
        record: &RecordOptions,
        begin: Begin,
    ) -> Self {
        Self {
            producer: Rc::clone(producer),
            number,
            began: BootInstant::now(),
            with_input: record.input,
            on_error: record.on_error,
            size: Cell::new(Size { rows: begin.head.rows, cols: begin.head.cols }),
            begin: RefCell::new(begin),
            session_ref: Cell::new(None),
            has_begun: Cell::new(false),
            has_stopped: Cell::new(false),
            is_in_other_folder: false,
            early_events: RefCell::new(Some(Vec::new())),
            missing: Cell::new(0),
            reported_missing: Cell::new(0),
            is_throttled: Cell::new(false),
            detached_missing: Cell::new(false),
        }
    }

    /// Of one that a gateway before us has begun, and whose terminal has this size
    /// now. Where the recorder has not got it, it goes on in its next file.
    pub fn resumed(
        producer: &Rc<RefCell<RecorderProducer>>,
        number: u32,
        record: &RecordOptions,
        (state, folder): (RecordingState, usize),
        size: Size,
    ) -> Self {
        let RecordingState { begin, path, began } = state;
        // A reload may have given the folders other numbers, or it another folder.
        let begin = Begin { folder, limit: record.limit, ..begin };
        let is_in_other_folder = launcher::file_path(folder, &begin.file()) != path;
        let new = Self::new(producer, number, record, begin);
        let began = BootInstant::from_nanos(began);
        let (size, has_begun) = (Cell::new(size), Cell::new(true));
        let early_events = RefCell::new(None);
        let resumed = Self { began, size, has_begun, early_events, is_in_other_folder, ..new };
        let json = encode(&resumed.resume(0));
        producer.borrow_mut().put_reliable(Kind::Resume, number, resumed.now(), &json);
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
        launcher::file_path(begin.folder, &begin.file())
    }

    /// The file of its folder that has this name.
    pub fn path_of(&self, name: &str) -> String {
        launcher::file_path(self.begin.borrow().folder, name)
    }

    /// Who has its terminal; `None`: nobody yet, or any more.
    pub fn session_ref(&self) -> Option<SessionRef> {
        self.session_ref.get()
    }

    /// Whom something is about that becomes of it.
    pub fn fault_domain(&self) -> FaultDomain {
        self.session_ref().map_or(FaultDomain::Nobody, FaultDomain::from)
    }

    /// That is somebody else from now on.
    pub fn assign_to(&self, session_ref: SessionRef) {
        self.session_ref.set(Some(session_ref));
    }

    /// Whether its session ends where it cannot be recorded.
    pub fn is_required(&self) -> bool {
        self.on_error == OnError::Close
    }

    /// Whether its files are in another folder than the gateway before us had them.
    pub fn is_in_other_folder(&self) -> bool {
        self.is_in_other_folder
    }

    /// Whether its program was executed.
    pub fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    /// Whether it is recorded.
    pub fn is_recorded(&self) -> bool {
        self.has_begun.get() && !self.has_stopped.get()
    }

    /// It is recorded no more. Returns whether it was.
    pub fn stop(&self) -> bool {
        self.is_throttled.set(false);
        !self.has_stopped.replace(true)
    }

    /// What the next gateway is to know.
    pub fn state(&self) -> RecordingState {
        let (begin, path) = (self.begin.borrow().clone(), self.path());
        RecordingState { begin, path, began: self.began.as_nanos() }
    }

    /// What the next recorder is to know, which finds nothing of it but the file.
    pub fn resume(&self, dropped: u64) -> Resume {
        let mut begin = self.begin.borrow().clone();
        let Size { rows, cols } = self.size.get();
        (begin.head.rows, begin.head.cols) = (rows, cols);
        Resume { begin, dropped, ends: !self.is_required() }
    }

    /// It goes on in this file of its; so many bytes are missing so far.
    pub fn resume_at(&self, part: u32, dropped: u64) {
        self.begin.borrow_mut().part = part;
        self.reported_missing.set(self.reported_missing.get().max(dropped));
    }

    /// It begins. Returns whether there is anybody who takes it.
    pub fn begin(&self) -> bool {
        self.has_begun.set(true);
        let json = encode(&*self.begin.borrow());
        let mut producer = self.producer.borrow_mut();
        if !producer.put(Kind::Begin, self.number, 0, &json, 0) {
            return false;
        }
        let early_events = self.early_events.take().unwrap_or_default();
        let taken = early_events.is_empty() || producer.try_put([&early_events, &[]], 0);
        // The file is there before the program can do much.
        producer.flush();
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
        match &mut *self.early_events.borrow_mut() {
            Some(early_events) if early_events.len() < MAX_EARLY => {
                append(early_events, Kind::Resize, self.number, at, &body)
            }
            Some(_) => {}
            None => {
                let mut producer = self.producer.borrow_mut();
                producer.put(Kind::Resize, self.number, at, &body, 0);
            }
        }
    }

    /// It is over, with this exit status where that is known.
    pub fn end(&self, status: Option<i32>) {
        if self.is_before_begin() || self.detached_missing.get() {
            return;
        }
        let at = self.now();
        let mut producer = self.producer.borrow_mut();
        let missing = self.missing.take();
        if missing > 0 {
            self.reported_missing.set(self.reported_missing.get() + missing);
            // It is noted until the recorder has said that it has all.
            producer.put_reliable(Kind::Missing, self.number, at, &missing.to_le_bytes());
        }
        match status {
            Some(status) => {
                producer.put_reliable(Kind::End, self.number, at, &status.to_le_bytes());
            }
            None => producer.put_reliable(Kind::End, self.number, at, &[]),
        }
        producer.flush();
    }

    /// Whether its terminal is not to be read now, because there may be no room
    /// for what comes from it.
    pub fn throttles(&self) -> bool {
        if !self.is_throttled.get() && !self.detached_missing.get() && !self.is_before_begin() {
            let mut producer = self.producer.borrow_mut();
            if producer.is_low_on_room() {
                self.is_throttled.set(true);
                producer.throttled.push(self.number);
                producer.wait_for_room();
            }
        }
        self.is_throttled.get()
    }

    /// Its recorder is gone, and there is no other for it: this was left in the
    /// queue.
    pub fn detach(&self, unconsumed: UnconsumedBytes) {
        let lost = self.reported_missing(unconsumed) + unconsumed.lost;
        self.missing.set(self.missing.get() + lost);
        self.reported_missing.set(0);
        self.detached_missing.set(true);
        self.is_throttled.set(false);
    }

    /// How many bytes are missing, as the recorder knows that has left this in
    /// the queue.
    pub fn reported_missing(&self, unconsumed: UnconsumedBytes) -> u64 {
        self.reported_missing.get().saturating_sub(unconsumed.missing)
    }

    /// Whether it has none; how many bytes are missing.
    pub fn detached_missing(&self) -> Option<u64> {
        self.detached_missing.get().then_some(self.missing.get())
    }

    /// Whether its terminal is not read now; see [`RecordingTap::throttles`].
    pub fn is_throttled(&self) -> bool {
        self.is_throttled.get()
    }

    /// It is read again.
    pub fn resume_reading(&self) {
        self.is_throttled.set(false);
    }

    fn is_before_begin(&self) -> bool {
        self.early_events.borrow().is_some()
    }

    fn now(&self) -> u64 {
        // Half a million years.
        self.began.elapsed().as_micros() as u64
    }

    fn put(&self, kind: Kind, bytes: &[u8]) {
        let missing = self.missing.get();
        let misses = || self.missing.set(missing + bytes.len() as u64);
        if self.detached_missing.get() {
            return misses();
        }
        let at = self.now();
        if let Some(early_events) = &mut *self.early_events.borrow_mut() {
            return match early_events.len() + bytes.len() < MAX_EARLY {
                true => append(early_events, kind, self.number, at, bytes),
                false => misses(),
            };
        }
        let mut producer = self.producer.borrow_mut();
        // One gap instead of many.
        let is_gap = missing > 0
            && !producer.put(Kind::Missing, self.number, at, &missing.to_le_bytes(), LOW_ROOM);
        if missing > 0 && !is_gap {
            self.missing.set(0);
            self.reported_missing.set(self.reported_missing.get() + missing);
            producer.note(self.number, 0);
        }
        if is_gap || !producer.put(kind, self.number, at, bytes, RESERVE) {
            self.missing.set(self.missing.get() + bytes.len() as u64);
            producer.note(self.number, self.missing.get());
        }
    }
}

fn append(early_events: &mut Vec<u8>, kind: Kind, session: u32, at: u64, body: &[u8]) {
    early_events.extend_from_slice(&header(kind, session, at, body.len()));
    early_events.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::recording::producer::RecorderLink;
    use crate::observe::recording::protocol;
    use fpty::sys::shm_queue::{CAPACITY, Consumer, Producer};
    use fpty::sys::socket::Stream;
    use std::os::fd::AsFd;

    fn made(producer: &Rc<RefCell<RecorderProducer>>, input: bool) -> RecordingTap {
        let record = RecordOptions { input, ..RecordOptions::default() };
        RecordingTap::new(producer, 7, &record, Begin::named("now-me-0123abcd"))
    }

    fn connected() -> (Rc<RefCell<RecorderProducer>>, Consumer, Stream) {
        let queue = Producer::new().expect("a queue");
        let fd = queue.as_fd().try_clone_to_owned().expect("a descriptor");
        let (channel, other) = Stream::pair().expect("a channel");
        let producer = Rc::new(RefCell::new(RecorderProducer::default()));
        producer.borrow_mut().connect(Some(RecorderLink { queue, channel }));
        (producer, Consumer::of(&fd).expect("its other end"), other)
    }

    /// What comes out.
    fn told(taker: &mut Consumer) -> Vec<(Kind, u32, Vec<u8>)> {
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
        let (producer, mut taker, _other) = connected();
        let recording = made(&producer, true);
        recording.input(b"early");
        recording.resized(Size { rows: 1, cols: 2 });
        assert_eq!(told(&mut taker), []);
        assert!(recording.begin());
        recording.output(b"out");
        recording.end(Some(3));
        let kinds: Vec<_> = told(&mut taker).into_iter().map(|(kind, _, _)| kind).collect();
        assert_eq!(kinds, [Kind::Begin, Kind::Input, Kind::Resize, Kind::Output, Kind::End]);
        // Without the option no input goes there.
        let recording = made(&producer, false);
        assert!(recording.begin());
        recording.input(b"secret");
        assert_eq!(told(&mut taker).len(), 1);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_the_end_is_told() {
        let (producer, mut taker, _other) = connected();
        let recording = made(&producer, false);
        assert!(recording.begin());
        let piece = vec![b'x'; 64 * 1024];
        while !recording.throttles() {
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
        producer.borrow_mut().flush();
        all.extend(told(&mut taker));
        let [.., (Kind::Missing, 7, missing), (Kind::End, 7, _)] = all.as_slice() else {
            panic!("no end");
        };
        assert_eq!(missing, &lost.to_le_bytes());
        assert!(!producer.borrow().is_low_on_room());
    }

    #[test]
    fn without_a_recorder_nothing_begins() {
        let producer = Rc::new(RefCell::new(RecorderProducer::default()));
        let recording = made(&producer, true);
        recording.input(b"x");
        assert!(!recording.begin() && !recording.throttles());
        recording.end(None);
    }
}
