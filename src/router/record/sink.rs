//! The gateway's end of the queue to the recorder. What goes in there waits for
//! nobody: no system call, and where there is no room it is counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Instant;

use super::message::{Kind, header};
use super::takeover::Bytes;
use fpty::sys::Size;
use fpty::sys::queue::{CAPACITY, Giver};
use fpty::sys::socket::Stream;

/// Room that is kept for what is not output or input.
const RESERVE: usize = 128 * 1024;

/// With less room than this no terminal is read.
const TIGHT: usize = 512 * 1024;

/// With so many bytes in it the recorder is woken up at once.
const MANY: usize = 128 * 1024;

/// What may wait until a session's program is executed.
const EARLY: usize = 128 * 1024;

/// The queue, and what concerns all sessions that go through it.
#[derive(Default)]
pub struct Sink {
    link: Option<Link>,
    /// Something was put in that nobody was woken up for.
    fresh: bool,
    /// Words that found no room, and must not be lost.
    later: VecDeque<Vec<u8>>,
    /// Sessions whose terminals are not read, until there is room.
    pub held: Vec<u32>,
    /// The recorder takes nothing: nobody waits for it.
    pub stalled: bool,
}

/// What leads to a recorder.
pub struct Link {
    /// The queue.
    pub queue: Giver,
    /// Wakes it up, and brings its answers.
    pub channel: Stream,
}

impl Sink {
    /// Goes to this recorder from now on, or to none.
    pub fn connect(&mut self, link: Option<Link>) {
        *self = Self { link, ..Self::default() };
    }

    /// Goes to another recorder from now on, which has the same queue.
    pub fn go_on(&mut self, link: Link) {
        (self.link, self.stalled, self.fresh) = (Some(link), false, true);
        // The one before may have taken note of that, and said nothing.
        if !self.held.is_empty() {
            self.wait_for_room();
        }
    }

    /// The recorder is gone: what it was not done with is in the queue.
    pub fn disconnect(&mut self) -> Option<Giver> {
        self.link.take().map(|link| link.queue)
    }

    /// Words that found no room, and wait for some.
    pub fn later(&self) -> impl Iterator<Item = &[u8]> {
        self.later.iter().map(Vec::as_slice)
    }

    /// Whether it goes anywhere.
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// The channel, where there is one.
    pub fn channel(&self) -> Option<&Stream> {
        self.link.as_ref().map(|link| &link.channel)
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(|link| link.channel.as_fd())
    }

    /// Whether terminals are better not read now.
    pub fn is_tight(&self) -> bool {
        !self.stalled && self.link.as_ref().is_some_and(|link| link.queue.room() < TIGHT)
    }

    /// How many bytes the recorder has taken, ever.
    pub fn taken(&self) -> u64 {
        self.link.as_ref().map_or(0, |link| link.queue.taken())
    }

    /// Whether something waits for the recorder that it was not woken up for:
    /// in a moment, or (`true`) at once.
    pub fn is_fresh(&self) -> Option<bool> {
        let many = || self.link.as_ref().is_some_and(|link| link.queue.used() >= MANY);
        self.fresh.then(many)
    }

    /// Wakes the recorder up, where it sleeps. Words that found no room may
    /// find some now.
    pub fn flush(&mut self) {
        while let Some(word) = self.later.pop_front() {
            if !self.try_put([&word, &[]], 0) {
                self.later.push_front(word);
                break;
            }
        }
        self.fresh = false;
        if let Some(link) = &self.link {
            if link.queue.must_wake() {
                let _ = link.channel.write(b"!");
            }
        }
    }

    /// Asks for a word when there is room again.
    pub fn wait_for_room(&mut self) {
        if let Some(link) = &self.link {
            link.queue.wait_for_room();
        }
        self.flush();
    }

    /// Whether words wait for room.
    pub fn has_more(&self) -> bool {
        !self.later.is_empty()
    }

    fn put(&mut self, kind: Kind, session: u32, at: u64, body: &[u8], reserve: usize) -> bool {
        // What comes later comes after that.
        self.later.is_empty()
            && self.try_put([&header(kind, session, at, body.len()), body], reserve)
    }

    fn try_put(&mut self, parts: [&[u8]; 2], reserve: usize) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        let length = parts[0].len() + parts[1].len();
        if link.queue.room() < length + reserve {
            return false;
        }
        // After that the recorder is there again, if it was not.
        self.stalled &= link.queue.used() > CAPACITY / 2;
        self.fresh = true;
        link.queue.put(parts)
    }

    /// A word that must not be lost.
    fn put_surely(&mut self, kind: Kind, session: u32, at: u64, body: &[u8]) {
        if self.link.is_some() && !self.put(kind, session, at, body, 0) {
            let mut word = header(kind, session, at, body.len()).to_vec();
            word.extend_from_slice(body);
            self.later.push_back(word);
        }
    }
}

/// A session that is recorded, as its traffic passes by. Whoever reads its
/// terminal has it, and the gateway's [`Recorder`](super::Recorder).
pub struct Recording {
    sink: Rc<RefCell<Sink>>,
    session: u32,
    began: Instant,
    with_input: bool,
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
    pub fn new(sink: &Rc<RefCell<Sink>>, session: u32, with_input: bool) -> Self {
        Self {
            sink: Rc::clone(sink),
            session,
            began: Instant::now(),
            with_input,
            early: RefCell::new(Some(Vec::new())),
            missing: Cell::new(0),
            told_missing: Cell::new(0),
            is_held: Cell::new(false),
            is_cut: Cell::new(false),
        }
    }

    /// Its number.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// It begins: this is to be known of it. Returns whether there is anybody
    /// who takes it.
    pub fn begin(&self, begin: &[u8]) -> bool {
        let mut sink = self.sink.borrow_mut();
        if !sink.put(Kind::Begin, self.session, 0, begin, 0) {
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
        let [r1, r2] = size.rows.to_le_bytes();
        let [c1, c2] = size.cols.to_le_bytes();
        let (at, body) = (self.now(), [r1, r2, c1, c2]);
        match &mut *self.early.borrow_mut() {
            Some(early) if early.len() < EARLY => {
                append(early, Kind::Resize, self.session, at, &body)
            }
            Some(_) => {}
            None => {
                let mut sink = self.sink.borrow_mut();
                sink.put(Kind::Resize, self.session, at, &body, 0);
            }
        }
    }

    /// It is over, with this exit status where that is known.
    pub fn end(&self, status: Option<i32>) {
        if self.has_not_begun() || self.is_cut.get() {
            return;
        }
        let at = self.now();
        let mut sink = self.sink.borrow_mut();
        let missing = self.missing.take();
        if missing > 0 {
            self.told_missing.set(self.told_missing.get() + missing);
            sink.put_surely(Kind::Missing, self.session, at, &missing.to_le_bytes());
        }
        match status {
            Some(status) => {
                sink.put_surely(Kind::End, self.session, at, &status.to_le_bytes());
            }
            None => sink.put_surely(Kind::End, self.session, at, &[]),
        }
        sink.flush();
    }

    /// One of which nothing else is known is over.
    pub fn is_over(sink: &Rc<RefCell<Sink>>, session: u32) {
        sink.borrow_mut().put_surely(Kind::End, session, 0, &[]);
    }

    /// Whether its terminal is not to be read now, because there may be no room
    /// for what comes from it.
    pub fn holds(&self) -> bool {
        if !self.is_held.get() && !self.is_cut.get() && !self.has_not_begun() {
            let mut sink = self.sink.borrow_mut();
            if sink.is_tight() {
                self.is_held.set(true);
                sink.held.push(self.session);
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

    /// Whether its terminal is not read now.
    pub fn is_held(&self) -> bool {
        self.is_held.get()
    }

    /// It is read again.
    pub fn let_go(&self) {
        self.is_held.set(false);
    }

    fn has_not_begun(&self) -> bool {
        self.early.borrow().is_some()
    }

    fn now(&self) -> u64 {
        // Half a million years.
        self.began.elapsed().as_micros() as u64
    }

    fn put(&self, kind: Kind, bytes: &[u8]) {
        let misses = || self.missing.set(self.missing.get() + bytes.len() as u64);
        if self.is_cut.get() {
            return misses();
        }
        let at = self.now();
        if let Some(early) = &mut *self.early.borrow_mut() {
            return match early.len() + bytes.len() < EARLY {
                true => append(early, kind, self.session, at, bytes),
                false => misses(),
            };
        }
        let mut sink = self.sink.borrow_mut();
        let missing = self.missing.get();
        if missing > 0 {
            // One gap instead of many.
            if !sink.put(Kind::Missing, self.session, at, &missing.to_le_bytes(), TIGHT) {
                return misses();
            }
            self.missing.set(0);
            self.told_missing.set(self.told_missing.get() + missing);
        }
        if !sink.put(kind, self.session, at, bytes, RESERVE) {
            misses();
        }
    }
}

fn append(early: &mut Vec<u8>, kind: Kind, session: u32, at: u64, body: &[u8]) {
    early.extend_from_slice(&header(kind, session, at, body.len()));
    early.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::super::message;
    use super::*;
    use fpty::sys::queue::Taker;

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
        while let Some(message) = message::next(&mut rest).expect("sense") {
            told.push((message.kind, message.session, message.body.to_vec()));
        }
        assert!(rest.is_empty());
        told
    }

    #[test]
    fn what_comes_early_waits_for_the_beginning() {
        let (sink, mut taker, _other) = connected();
        let recording = Recording::new(&sink, 7, true);
        recording.input(b"early");
        recording.resized(Size { rows: 1, cols: 2 });
        assert_eq!(told(&mut taker), []);
        assert!(recording.begin(b"{}"));
        recording.output(b"out");
        recording.end(Some(3));
        let kinds: Vec<_> = told(&mut taker).into_iter().map(|(kind, _, _)| kind).collect();
        assert_eq!(kinds, [Kind::Begin, Kind::Input, Kind::Resize, Kind::Output, Kind::End]);
        // Without the option no input goes there.
        let recording = Recording::new(&sink, 8, false);
        assert!(recording.begin(b"{}"));
        recording.input(b"secret");
        assert_eq!(told(&mut taker).len(), 1);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_the_end_is_told() {
        let (sink, mut taker, _other) = connected();
        let recording = Recording::new(&sink, 7, false);
        assert!(recording.begin(b"{}"));
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
        let recording = Recording::new(&sink, 7, true);
        recording.input(b"x");
        assert!(!recording.begin(b"{}") && !recording.holds());
        recording.end(None);
    }
}
