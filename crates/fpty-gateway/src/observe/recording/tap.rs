//! The tap of a recorded session, beside its terminal: what the terminal shows goes into
//! the queue to the recorder.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::producer::{LOW_ROOM, RESERVE, RecorderProducer};
use super::recorder_launcher;
use super::recorder_protocol::{Begin, Kind, Resume, Unconsumed, header};
use crate::config::recording_options::{OnError, RecordOptions};
use crate::process::ipc::encode;
use crate::session::session_ref::SessionRef;
use fpty::sys::Size;
use fpty::sys::clock::BootInstant;

/// The most bytes that wait until the program is executed.
const MAX_EARLY: usize = 128 * 1024;

/// The state of a recording, for the next gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingState {
    /// The start of the recording.
    begin: Begin,
    /// The path of the file.
    path: String,
    /// The start, CLOCK_BOOTTIME in nanoseconds.
    began: u64,
}

impl RecordingState {
    /// The session id.
    pub fn id(&self) -> String {
        self.begin.id().to_owned()
    }
}

/// Tap of a recorded session, as its traffic passes by. The part that reads the terminal
/// has a tap, and so have the gateway's [`Recordings`](super::Recordings).
pub struct RecordingTap {
    producer: Rc<RefCell<RecorderProducer>>,
    /// The number of the recording.
    pub number: u32,
    /// The start, by CLOCK_BOOTTIME.
    began: BootInstant,
    with_input: bool,
    /// The policy where it cannot be recorded.
    on_error: OnError,
    begin: RefCell<Begin>,
    /// The terminal's size now.
    size: Cell<Size>,
    /// The session that has the terminal; `None`: not yet, or not any more.
    pub session_ref: Cell<Option<SessionRef>>,
    /// The recording has stopped, and that was reported.
    has_stopped: Cell<bool>,
    /// The recording's files are in another folder since a reload.
    pub is_in_other_folder: bool,
    /// Messages before the start; `None`: it has started.
    early_events: RefCell<Option<Vec<u8>>>,
    /// Missing bytes that were not reported.
    missing: Cell<u64>,
    /// Missing bytes that were reported to the recorder.
    reported_missing: Cell<u64>,
    /// Whether the terminal is throttled; see [`RecordingTap::throttles`].
    pub is_throttled: Cell<bool>,
    /// No recorder has the recording: all further bytes are missing.
    detached_missing: Cell<bool>,
}

impl RecordingTap {
    /// The tap of a session that has not started.
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
            has_stopped: Cell::new(false),
            is_in_other_folder: false,
            early_events: RefCell::new(Some(Vec::new())),
            missing: Cell::new(0),
            reported_missing: Cell::new(0),
            is_throttled: Cell::new(false),
            detached_missing: Cell::new(false),
        }
    }

    /// The tap of a restored session, whose terminal has this size now. Where the recorder
    /// does not have its file, it goes on in its next part.
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
        let is_in_other_folder = recorder_launcher::file_path(folder, &begin.file()) != path;
        let new = Self::new(producer, number, record, begin);
        let began = BootInstant::from_nanos(began);
        let (size, early_events) = (Cell::new(size), RefCell::new(None));
        let resumed = Self { began, size, early_events, is_in_other_folder, ..new };
        let json = encode(&resumed.resume(0));
        producer.borrow_mut().put_reliable(Kind::Resume, number, resumed.now(), &json);
        resumed
    }

    /// The session's id.
    pub fn id(&self) -> String {
        self.begin.borrow().id().to_owned()
    }

    /// The path of the file, as far as is known.
    pub fn path(&self) -> String {
        self.path_of(&self.begin.borrow().file())
    }

    /// The path of a file of this name in its folder.
    pub fn path_of(&self, name: &str) -> String {
        recorder_launcher::file_path(self.begin.borrow().folder, name)
    }

    /// Assigns the recording to a session.
    pub fn assign_to(&self, session_ref: SessionRef) {
        self.session_ref.set(Some(session_ref));
    }

    /// Whether the session must be recorded.
    pub fn is_required(&self) -> bool {
        self.on_error == OnError::Close
    }

    /// Whether the program was executed.
    pub fn has_begun(&self) -> bool {
        self.early_events.borrow().is_none()
    }

    /// Whether the session is recorded now.
    pub fn is_recorded(&self) -> bool {
        self.has_begun() && !self.has_stopped.get()
    }

    /// Stops the recording. Returns whether it was recorded.
    pub fn stop(&self) -> bool {
        self.is_throttled.set(false);
        !self.has_stopped.replace(true)
    }

    /// The state for the next gateway.
    pub fn state(&self) -> RecordingState {
        let (begin, path) = (self.begin.borrow().clone(), self.path());
        RecordingState { begin, path, began: self.began.as_nanos() }
    }

    /// The resume message for the next recorder, which finds nothing of the session but the
    /// file.
    pub fn resume(&self, dropped: u64) -> Resume {
        let mut begin = self.begin.borrow().clone();
        let Size { rows, cols } = self.size.get();
        (begin.head.rows, begin.head.cols) = (rows, cols);
        Resume { begin, dropped, ends: !self.is_required() }
    }

    /// The recorder goes on in this part; so many bytes are missing so far.
    pub fn resume_at(&self, part: u32, dropped: u64) {
        self.begin.borrow_mut().part = part;
        self.reported_missing.set(self.reported_missing.get().max(dropped));
    }

    /// Starts the recording. Returns whether a recorder takes it.
    pub fn begin(&self) -> bool {
        let early_events = self.early_events.take().unwrap_or_default();
        let json = encode(&*self.begin.borrow());
        let mut producer = self.producer.borrow_mut();
        if !producer.put(Kind::Begin, self.number, 0, &json, 0) {
            return false;
        }
        let taken = early_events.is_empty() || producer.try_put([&early_events, &[]], 0);
        // The file is there before the program can do much.
        producer.flush();
        taken
    }

    /// Records output.
    pub fn output(&self, bytes: &[u8]) {
        self.put(Kind::Output, bytes);
    }

    /// Records input.
    pub fn input(&self, bytes: &[u8]) {
        if self.with_input {
            self.put(Kind::Input, bytes);
        }
    }

    /// Records a resize.
    pub fn resized(&self, size: Size) {
        self.size.set(size);
        let [r1, r2] = size.rows.to_le_bytes();
        let [c1, c2] = size.cols.to_le_bytes();
        let (at, body) = (self.now(), [r1, r2, c1, c2]);
        if self.keep_early(Kind::Resize, at, &body).is_none() {
            self.producer.borrow_mut().put(Kind::Resize, self.number, at, &body, 0);
        }
    }

    /// Ends the recording, with the exit status where it is known.
    pub fn end(&self, status: Option<i32>) {
        if !self.has_begun() || self.detached_missing.get() {
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
        let status = status.map(i32::to_le_bytes);
        let body = status.as_ref().map_or(&[][..], |status| status);
        producer.put_reliable(Kind::End, self.number, at, body);
        producer.flush();
    }

    /// Throttles the terminal where there may be no room for its output. Returns whether it
    /// is throttled.
    pub fn throttles(&self) -> bool {
        if !self.is_throttled.get() && !self.detached_missing.get() && self.has_begun() {
            let mut producer = self.producer.borrow_mut();
            if producer.is_low_on_room() {
                self.is_throttled.set(true);
                producer.throttled.push(self.number);
                producer.wait_for_room();
            }
        }
        self.is_throttled.get()
    }

    /// Detaches the recording from its recorder, which is gone and has no successor: these
    /// bytes were left in the queue.
    pub fn detach(&self, unconsumed: Unconsumed) {
        let lost = self.reported_missing(unconsumed) + unconsumed.lost;
        self.missing.set(self.missing.get() + lost);
        self.reported_missing.set(0);
        self.detached_missing.set(true);
        self.is_throttled.set(false);
    }

    /// Missing bytes that the recorder has in its file, which has left these in the queue.
    pub fn reported_missing(&self, unconsumed: Unconsumed) -> u64 {
        self.reported_missing.get().saturating_sub(unconsumed.missing)
    }

    /// The missing bytes of a detached recording; `None`: it is not detached.
    pub fn detached_missing(&self) -> Option<u64> {
        self.detached_missing.get().then_some(self.missing.get())
    }

    fn now(&self) -> u64 {
        // Half a million years.
        self.began.elapsed().as_micros() as u64
    }

    /// Keeps a message until the start. Returns whether there was room for it; `None`: the
    /// recording has started.
    fn keep_early(&self, kind: Kind, at: u64, body: &[u8]) -> Option<bool> {
        let mut early_events = self.early_events.borrow_mut();
        let early_events = early_events.as_mut()?;
        let has_room = early_events.len() + body.len() < MAX_EARLY;
        if has_room {
            early_events.extend_from_slice(&header(kind, self.number, at, body.len()));
            early_events.extend_from_slice(body);
        }
        Some(has_room)
    }

    fn put(&self, kind: Kind, bytes: &[u8]) {
        let missing = self.missing.get();
        let misses = || self.missing.set(missing + bytes.len() as u64);
        if self.detached_missing.get() {
            return misses();
        }
        let at = self.now();
        match self.keep_early(kind, at, bytes) {
            Some(true) => return,
            Some(false) => return misses(),
            None => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::recording::producer::RecorderLink;
    use crate::observe::recording::recorder_protocol;
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

    /// Messages that come out of the queue.
    fn told(taker: &mut Consumer) -> Vec<(Kind, u32, Vec<u8>)> {
        let mut bytes = Vec::new();
        taker.take(CAPACITY, &mut bytes).expect("bytes");
        taker.mark_done(0);
        let mut rest = bytes.as_slice();
        let mut told = Vec::new();
        while let Some(message) = recorder_protocol::next(&mut rest).expect("sense") {
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
