//! Recordings of sessions (`forkptyrouter-record`): the gateway puts what a terminal shows
//! into a queue in shared memory; the recorder, a process of its own, writes the files.
//!
//! | file | subject |
//! | --- | --- |
//! | `tap.rs` | the tap of one session: what its terminal shows goes into the queue |
//! | `producer.rs` | the gateway's end of the queue: room, throttling, backlog |
//! | `recorded_sessions.rs` | recordings of a gateway: begin, end, failure |
//! | `recorder_link.rs` | the gateway's dialogue with the recorder |
//! | `recorder_event.rs` | events of the recorder: an answer, its end |
//! | `restart.rs` | the recorder was killed: the next one gets the queue |
//! | `orphan_ends.rs` | audit lines of ends that wait for the recorder's answer |
//! | `recorder_protocol.rs` | messages in the queue, and answers |
//! | `launcher.rs` | start of the recorder, and its handle over a reload |
//! | `recorder.rs` | the recorder's main loop |
//! | `consumer.rs` | the recorder's end of a gateway's queue |
//! | `orphan_recordings.rs` | recordings whose gateway has ended, until a successor claims them |
//! | `journal.rs` | lengths of files before a batch, for the recorder after a killed one |
//! | `recording_file.rs` | the file of one session |
//! | `asciicast.rs`, `utf8.rs` | asciicast v2 and v3; bytes as text in JSON |

pub(crate) mod asciicast;
pub(crate) mod consumer;
pub(crate) mod journal;
pub mod launcher;
pub mod orphan_ends;
pub(crate) mod orphan_recordings;
pub(crate) mod producer;
pub(crate) mod recorded_sessions;
pub(crate) mod recorder;
pub mod recorder_event;
pub(crate) mod recorder_link;
pub(crate) mod recorder_protocol;
pub(crate) mod recording_file;
pub(crate) mod restart;
pub mod tap;
pub(crate) mod utf8;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use super::audit::EndedSession;
use crate::config::recording_options::RecordOptions;
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::fault_domain::FaultDomain;
use crate::event_loop::outcome::Outcome;
use crate::log::log;
use crate::process::ipc::Hello;
use crate::session::relay::Sessions;
use fpty::error::reason;
use fpty::sys::child::Exit;
use fpty::sys::shm_queue::Producer;
use fpty::sys::socket::Stream;

use super::recording::orphan_ends::PendingEndLines;
use super::recording::producer::{RecorderLink, RecorderProducer};
use super::recording::recorder_event::RecorderEvent;
pub use super::recording::tap::{RecordingState, RecordingTap};

/// The sessions of a gateway that are recorded: it is told when one is about to
/// begin, has begun and is over; what goes by in between it sees by the
/// [`RecordingTap`] that it leaves with whoever reads the terminal.
pub struct Recordings {
    producer: Rc<RefCell<RecorderProducer>>,
    sessions: HashMap<u32, Rc<RecordingTap>>,
    /// Sessions that are over, until the recorder has said what became of
    /// their files.
    over: HashMap<u32, EndedRecording>,
    next: u32,
    /// How many bytes the recorder had taken when it was looked at.
    taken: u64,
    /// How often it had taken nothing since, while somebody waited.
    stalled_checks: u8,
    flush_is_scheduled: bool,
    check_is_scheduled: bool,
    /// Which gateway it is of.
    hello: Hello,
    /// The first gateway tells what concerns all of them.
    logs_for_all: bool,
    /// As whom those run who are recorded.
    users: Vec<u32>,
    /// What is recorded of those who come to each socket.
    sockets: Vec<RecordOptions>,
    /// Ends of sessions of a gateway before, that are told when it is known what became
    /// of their recordings.
    pending_ends: PendingEndLines,
}

/// A session that is over.
pub(crate) struct EndedRecording {
    recording: Rc<RecordingTap>,
    since: Instant,
    /// What is to be told of its end, where anybody wants to know.
    last: Option<Box<EndedSession>>,
}

impl Recordings {
    /// One for this gateway, with these sockets, where anything is recorded.
    pub fn new<'a>(sockets: impl Iterator<Item = &'a Rules>, hello: Hello) -> Option<Box<Self>> {
        let own = nix::unistd::geteuid().as_raw();
        let mut users = Vec::new();
        let sockets: Vec<_> = sockets
            .map(|rules| {
                if rules.record.dir.is_some() {
                    users.push(rules.identity.as_ref().map_or(own, |identity| identity.uid));
                }
                rules.record.clone()
            })
            .collect();
        let any = !users.is_empty();
        any.then(|| {
            Box::new(Self {
                producer: Rc::default(),
                sessions: HashMap::new(),
                over: HashMap::new(),
                next: 0,
                taken: 0,
                stalled_checks: 0,
                flush_is_scheduled: false,
                check_is_scheduled: false,
                hello,
                logs_for_all: hello.ordinal == 0,
                users,
                sockets,
                pending_ends: PendingEndLines::default(),
            })
        })
    }

    /// What is recorded of those who come to a socket, if anything is.
    fn of_socket(&self, socket: u16) -> Option<&RecordOptions> {
        self.sockets.get(usize::from(socket)).filter(|record| record.dir.is_some())
    }

    /// Has the loop turn to this when it is its turn.
    fn then(cx: &mut Context, fault_domain: FaultDomain, event: RecorderEvent) {
        cx.push_outcome(Outcome::Recorder(fault_domain, Box::new(event)));
    }

    /// What was to be done in its turn.
    pub fn handle_event(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        event: RecorderEvent,
    ) {
        match event {
            RecorderEvent::Answered(answer) => self.handle_answer(cx, sessions, answer),
            RecorderEvent::Killed => self.recorder_killed(cx),
            RecorderEvent::Lost { session, goes_on, unconsumed } => {
                self.continue_or_stop(cx, sessions, session, goes_on, unconsumed);
            }
        }
    }

    /// What nobody reads any more is over: after a panic, and where a session was
    /// not taken up after all.
    pub fn retain(&mut self) {
        self.sessions.retain(|_, recording| {
            let is_read = Rc::strong_count(recording) > 1;
            if !is_read {
                recording.end(None);
            }
            is_read
        });
    }
}

/// Sends the recorder a queue and a channel, and, where a recorder before it had that
/// queue, what is to be known of it.
fn connect(
    hello: &Hello,
    queue: Producer,
    before: Option<&Producer>,
) -> Result<RecorderLink, String> {
    let (channel, its_channel) = Stream::pair().map_err(|error| reason(&error))?;
    match launcher::register(hello, &queue, &its_channel, before) {
        true => Ok(RecorderLink { queue, channel }),
        false => Err(String::from("there is no recorder")),
    }
}

/// The status that a recording has of a program's end, as a shell would.
fn status_of(exit: Exit) -> i32 {
    match exit {
        Exit::Status(status) => status,
        Exit::Signal { number, .. } => 128 + number,
    }
}

/// What of a name may stand in a file's.
fn file_name_part(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '_' };
    text.chars().take(32).map(safe).collect()
}

fn log_session(id: &str, what: &str) {
    log(&format!("forkptyrouter: session {id} {what}"));
}
