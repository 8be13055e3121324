//! What happened: recordings of sessions (`forkptyrouter-record`).
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | sessions that are recorded; what the recorder answers |
//! | `sink.rs` | the gateway's end of the queue to the recorder |
//! | `message.rs` | what both say to each other |
//! | `door.rs` | the recorder is started, and kept over a reload |
//! | `process.rs` | the recorder itself |
//! | `file.rs` | the file of a session |
//! | `cast.rs`, `text.rs` | asciicast; bytes as text in JSON |

mod cast;
pub mod door;
mod file;
mod message;
mod process;
mod sink;
mod text;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::GatewayLoop;
use super::table::{Key, Source};
use super::timers::Due;
use super::told::clock::Utc;
use super::told::{Last, Recorded, Subject};
use crate::config::record::{OnError, Record};
use crate::uwsgi::log::log;
use fpty::error::reason;
use fpty::proto::{Ended, Ending};
use fpty::sys::child::Exit;
use fpty::sys::poll::Interest;
use fpty::sys::queue::Giver;
use fpty::sys::socket::Stream;
use fpty::sys::{Read, Size};

use cast::Head;
use message::{Answer, Begin};
pub use sink::Recording;
use sink::{Link, Sink};

/// How soon the recorder is woken up for a little.
const SOON: Duration = Duration::from_millis(20);

/// How often is looked after what waits for the recorder.
const LOOK: Duration = Duration::from_millis(250);

/// How long the end of a session waits for the last word on its recording.
const PATIENCE: Duration = Duration::from_secs(10);

/// The sessions of a gateway that are recorded.
pub struct Recorder {
    sink: Rc<RefCell<Sink>>,
    sessions: HashMap<u32, Session>,
    /// Sessions that are over, until the recorder has said what became of
    /// their files.
    over: HashMap<u32, Over>,
    next: u32,
    /// How many bytes the recorder had taken when it was looked at.
    taken: u64,
    soon_is_due: bool,
    look_is_due: bool,
    /// The first gateway tells what concerns all of them.
    tells: bool,
}

/// A session that is recorded.
struct Session {
    key: Key,
    begin: Begin,
    /// In which of its files it is.
    part: u32,
    /// It has begun.
    began: bool,
}

struct Over {
    name: String,
    since: Instant,
    last: Box<Last>,
}

impl Recorder {
    /// One for a gateway, where anything is recorded.
    pub fn new(record: &Record, tells: bool) -> Option<Box<Self>> {
        record.folder.as_ref()?;
        Some(Box::new(Self {
            sink: Rc::default(),
            sessions: HashMap::new(),
            over: HashMap::new(),
            next: 0,
            taken: 0,
            soon_is_due: false,
            look_is_due: false,
            tells,
        }))
    }

    /// What an audit says of a file of which nothing more is known.
    fn unknown(name: &str) -> Recorded {
        Recorded { path: path_of(name), ..Recorded::default() }
    }
}

fn path_of(name: &str) -> String {
    let folder = door::folder().unwrap_or_default();
    folder.join(name).display().to_string()
}

/// The status that a recording has of a program's end, as a shell would.
fn status_of(exit: Exit) -> i32 {
    match exit {
        Exit::Status(status) => status,
        Exit::Signal { number, .. } => 128 + number,
    }
}

/// What of a name may stand in a file's.
fn in_a_name(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '_' };
    text.chars().take(32).map(safe).collect()
}

impl GatewayLoop {
    /// Reaches for the recorder, where there is one. Returns whether sessions
    /// can be recorded.
    pub(super) fn reach_recorder(&mut self) -> bool {
        let Some(recorder) = &mut self.recorder else {
            return false;
        };
        if recorder.sink.borrow().is_connected() {
            return true;
        }
        let link = match connect() {
            Ok(link) => link,
            // Whoever is not recorded for that is told, or the log is.
            Err(_) => return false,
        };
        let token = Source::Recorder.token();
        let mut sink = recorder.sink.borrow_mut();
        sink.connect(Some(link));
        let registered = sink
            .descriptor()
            .is_some_and(|channel| self.turn.poller.add(channel, token, Interest::READ).is_ok());
        if !registered {
            sink.connect(None);
        }
        registered
    }

    /// Why there can be no session, because it is to be recorded and cannot.
    pub(super) fn cannot_record(&mut self) -> Option<Ended> {
        let must = self.recorder.is_some() && self.config.record.on_error == OnError::Close;
        (must && !self.reach_recorder())
            .then(|| Ended::because(Ending::Refused, "it cannot be recorded: there is no recorder"))
    }

    /// A new session is to be recorded; it begins when its program is executed.
    pub(super) fn note_recording(&mut self, key: Key, size: Size) {
        if self.recorder.is_none() {
            return;
        }
        if !self.reach_recorder() {
            // It may go on, or there would be none.
            return self.log_of(key, "is not recorded: there is no recorder");
        }
        let record = &self.config.record;
        let (Some(recorder), Some(facts)) =
            (&mut self.recorder, self.told.of(Subject::Session(key)))
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
        let started = facts.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let name = format!("{}-{user}-{}", Utc::of(facts.started).in_a_name(), facts.id);
        let begin = Begin {
            folder: 0,
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
        recorder.sessions.insert(number, Session { key, begin, part: 1, began: false });
        if let Some(attached) = self.sessions.get_mut(key) {
            attached.wires.traffic.get_or_insert_with(Box::default).recording = Some(recording);
        }
    }

    /// The program of a session was executed.
    pub(super) fn begin_recording(&mut self, key: Key) {
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
            true => self.told.is_recorded(key, true),
            false => {
                self.cut(key);
                self.lose(key, "the recorder takes nothing", false);
            }
        }
    }

    /// A session ends, of which this is the last word but for the recording.
    /// Returns it where there is none.
    pub(super) fn end_recording(
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
            let recorded = Recorded { dropped, ..Recorder::unknown(&session.file()) };
            self.told.tell_last(&last, Some(&recorded));
            return None;
        }
        recording.end(exit.map(status_of));
        let over = Over { name: session.file(), since: Instant::now(), last };
        recorder.over.insert(recording.session(), over);
        self.look_after_recorder();
        None
    }

    /// There never was such a session.
    pub(super) fn forget_recording(&mut self, number: Option<u32>) {
        if let (Some(recorder), Some(number)) = (&mut self.recorder, number) {
            recorder.sessions.remove(&number);
        }
    }

    /// After each turn: what was recorded in it is passed on before long.
    pub(super) fn pass_on_recordings(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let fresh = recorder.sink.borrow().is_fresh();
        match fresh {
            Some(true) => recorder.sink.borrow_mut().flush(),
            Some(false) if !std::mem::replace(&mut recorder.soon_is_due, true) => {
                self.after(SOON, Due::Recording);
            }
            _ => {}
        }
        let waits = self.recorder.as_ref().is_some_and(|recorder| {
            let sink = recorder.sink.borrow();
            !sink.held.is_empty() || sink.has_more()
        });
        if waits {
            self.look_after_recorder();
        }
    }

    /// It is time to pass it on.
    pub(super) fn wake_recorder(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.soon_is_due = false;
            recorder.sink.borrow_mut().flush();
        }
    }

    fn look_after_recorder(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        if !std::mem::replace(&mut recorder.look_is_due, true) {
            recorder.taken = recorder.sink.borrow().taken();
            self.after(LOOK, Due::Recorder);
        }
    }

    /// Something waits for the recorder: whether it takes anything at all.
    pub(super) fn look_at_recorder(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        recorder.look_is_due = false;
        let mut sink = recorder.sink.borrow_mut();
        let stands_still = sink.taken() == recorder.taken;
        sink.flush();
        let mut waits = sink.has_more();
        if !sink.held.is_empty() {
            sink.stalled |= stands_still;
            waits |= !sink.stalled;
        }
        let stalled = sink.stalled;
        drop(sink);
        if stalled {
            self.let_go_of_held();
        }
        self.give_up_waiting();
        let Some(recorder) = &self.recorder else {
            return;
        };
        if waits || !recorder.over.is_empty() {
            self.look_after_recorder();
        }
    }

    /// Ends that have waited for long enough are told without the recorder's
    /// word.
    fn give_up_waiting(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let late: Vec<u32> = recorder
            .over
            .iter()
            .filter(|(_, over)| over.since.elapsed() >= PATIENCE)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            self.tell_without(number);
        }
    }

    fn tell_without(&mut self, number: u32) {
        let over = self.recorder.as_mut().and_then(|recorder| recorder.over.remove(&number));
        if let Some(Over { name, last, .. }) = over {
            self.told.tell_last(&last, Some(&Recorder::unknown(&name)));
        }
    }

    /// Terminals are read again.
    fn let_go_of_held(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let held = std::mem::take(&mut recorder.sink.borrow_mut().held);
        let keys: Vec<Key> = held
            .iter()
            .filter_map(|number| recorder.sessions.get(number))
            .map(|session| session.key)
            .collect();
        for key in keys {
            if let Some(recording) = self.sessions.get_mut(key).and_then(|it| it.wires.recording())
            {
                recording.let_go();
            }
            self.settle(key);
        }
    }

    /// The recorder says something, or is gone.
    pub(super) fn recorder_ready(&mut self) {
        // Answers are short, and names are.
        let mut buffer = [0; 8192];
        loop {
            let Some(recorder) = &mut self.recorder else {
                return;
            };
            let read = match recorder.sink.borrow().channel() {
                Some(channel) => channel.read(&mut buffer),
                None => return,
            };
            match read {
                Read::Bytes(count) => {
                    if let Ok(answer) = serde_json::from_slice(&buffer[..count]) {
                        self.recorder_says(answer);
                    }
                }
                Read::Blocked => return,
                Read::End | Read::Gone => return self.recorder_is_gone(),
            }
        }
    }

    fn recorder_says(&mut self, answer: Answer) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        match answer {
            Answer::Here { uid } => {
                let ours = nix::unistd::geteuid();
                if std::mem::take(&mut recorder.tells) && (ours.is_root() || ours.as_raw() == uid) {
                    log("forkptyrouter: recordings are not protected from the sessions' user, \
                         who is the recorder's or root");
                }
            }
            Answer::Room => self.let_go_of_held(),
            Answer::Failed { session, why, full } => {
                if let Some(session) = recorder.sessions.get(&session) {
                    let key = session.key;
                    self.lose(key, &why, full);
                } else if let Some(over) = recorder.over.get(&session) {
                    log_of(over.last.id(), &format!("is not recorded any more: {why}"));
                }
            }
            Answer::Done { session, name, bytes, dropped, sha256 } => {
                let Some(over) = recorder.over.remove(&session) else {
                    return;
                };
                let name = name.unwrap_or(over.name);
                let recorded =
                    Recorded { path: path_of(&name), bytes: Some(bytes), dropped, sha256 };
                self.told.tell_last(&over.last, Some(&recorded));
            }
        }
    }

    /// The recorder was killed. Another one is most often there at once.
    fn recorder_is_gone(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        if let Some(channel) = recorder.sink.borrow().descriptor() {
            let _ = self.turn.poller.remove(channel);
        }
        recorder.sink.borrow_mut().connect(None);
        let over: Vec<u32> = recorder.over.keys().copied().collect();
        let mut sessions: Vec<u32> = recorder.sessions.keys().copied().collect();
        sessions.sort_unstable();
        log("forkptyrouter: the recorder was killed");
        for number in over {
            self.tell_without(number);
        }
        let goes_on = self.reach_recorder();
        for number in sessions {
            self.record_on(number, goes_on);
        }
    }

    /// A session whose recorder is gone is recorded on, in another file, if it
    /// may go on at all.
    fn record_on(&mut self, number: u32, goes_on: bool) {
        let Some(session) = self.recorder.as_mut().and_then(|it| it.sessions.get_mut(&number))
        else {
            return;
        };
        let key = session.key;
        if !session.began {
            return;
        }
        let why = "the recorder was killed";
        if !goes_on || self.config.record.on_error == OnError::Close {
            self.cut(key);
            return self.lose(key, why, false);
        }
        session.part += 1;
        let mut begin = session.begin.clone();
        begin.name = session.name();
        begin.head.timestamp = fpty::sys::wall_clock_seconds().unsigned_abs();
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        let size = attached.session.size();
        (begin.head.rows, begin.head.cols) = (size.rows, size.cols);
        let json = serde_json::to_vec(&begin).unwrap_or_default();
        let again = attached.wires.recording().is_some_and(|it| it.begin_again(&json));
        match again {
            true => {
                self.log_of(key, "is recorded in another file from here on");
                self.settle(key);
            }
            false => {
                self.cut(key);
                self.lose(key, why, false);
            }
        }
    }

    fn cut(&mut self, key: Key) {
        if let Some(recording) = self.sessions.get_mut(key).and_then(|it| it.wires.recording()) {
            recording.cut();
        }
    }

    /// A session is not recorded any more: it ends, or goes on without.
    fn lose(&mut self, key: Key, why: &str, full: bool) {
        self.log_of(key, &format!("is not recorded any more: {why}"));
        self.told.is_recorded(key, false);
        self.cannot_go_on(key, why, full);
    }

    fn cannot_go_on(&mut self, key: Key, why: &str, full: bool) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        if let Some(recording) = attached.wires.recording() {
            recording.let_go();
        }
        if self.config.record.on_error == OnError::Close && attached.session.dismissed().is_none() {
            let ending = if full { Ending::Limit } else { Ending::Lost };
            let line = format!("session ended: it cannot be recorded: {why}");
            attached.session.dismiss(ending, &line, &mut attached.wires);
            self.after(Duration::from_secs(5), Due::Dismissed(key));
        }
        self.settle(key);
    }

    fn log_of(&mut self, key: Key, what: &str) {
        log_of(&self.ids.of(key), what);
    }
}

impl Session {
    /// The file's name, without its ending.
    fn name(&self) -> String {
        match self.part {
            1 => self.begin.name.clone(),
            part => format!("{}-part{part}", self.begin.name),
        }
    }

    fn file(&self) -> String {
        format!("{}.cast", self.name())
    }
}

fn log_of(id: &str, what: &str) {
    log(&format!("forkptyrouter: session {id} {what}"));
}

/// Makes a queue and a channel and sends them to the recorder.
fn connect() -> Result<Link, String> {
    let (queue, its_queue) = Giver::new().map_err(|error| reason(&error))?;
    let (channel, its_channel) = Stream::pair().map_err(|error| reason(&error))?;
    match door::enter(&its_queue, &its_channel) {
        true => Ok(Link { queue, channel }),
        false => Err(String::from("there is no recorder")),
    }
}
