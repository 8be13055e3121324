//! Recordings of sessions (`forkptyrouter-record`): the gateway puts what a terminal shows
//! into a queue in shared memory; the recorder, a process of its own, writes the files.
//!
//! | file | subject |
//! | --- | --- |
//! | `tap.rs` | the tap of one session: what its terminal shows goes into the queue |
//! | `producer.rs` | the gateway's end of the queue: room, throttling, backlog |
//! | `recorded_sessions.rs` | recordings of a gateway: begin, end, failure |
//! | `recorder_link.rs` | the gateway's dialogue with the recorder |
//! | `recorder_restart.rs` | the recorder was killed: the next one gets the queue |
//! | `orphan_ends.rs` | audit lines of ends that wait for the recorder's answer |
//! | `recorder_protocol.rs` | messages in the queue, answers, and events of the recorder |
//! | `recorder_launcher.rs` | start of the recorder, and its handle over a reload |
//! | `recorder.rs` | the recorder's main loop |
//! | `consumer.rs` | the recorder's end of a gateway's queue |
//! | `orphan_recordings.rs` | recordings whose gateway has ended, until a successor claims them |
//! | `journal.rs` | lengths of files before a batch, for the recorder after a killed one |
//! | `recording_file.rs` | the file of one session |
//! | `asciicast.rs`, `utf8.rs` | asciicast v2 and v3; bytes as text in JSON |

pub(crate) mod asciicast;
pub(crate) mod consumer;
pub(crate) mod journal;
pub mod orphan_ends;
pub(crate) mod orphan_recordings;
pub(crate) mod producer;
pub(crate) mod recorded_sessions;
pub(crate) mod recorder;
pub mod recorder_launcher;
pub(crate) mod recorder_link;
pub mod recorder_protocol;
pub(crate) mod recorder_restart;
pub(crate) mod recording_file;
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
use fpty::sys::child::Exit;

use super::recording::orphan_ends::PendingEndLines;
use super::recording::producer::RecorderProducer;
use super::recording::recorder_protocol::RecorderEvent;
pub use super::recording::tap::{RecordingState, RecordingTap};

/// The recordings of a gateway: an observer of each start and end of a session; what a
/// terminal shows in between comes by the [`RecordingTap`] beside the terminal.
#[derive(Default)]
pub struct Recordings {
    producer: Rc<RefCell<RecorderProducer>>,
    sessions: HashMap<u32, Rc<RecordingTap>>,
    /// Ended sessions, until the recorder has answered with the result of their files.
    over: HashMap<u32, EndedRecording>,
    next: u32,
    /// Bytes that the recorder had taken at the last check.
    taken: u64,
    /// Checks without progress, while terminals were throttled.
    stalled_checks: u8,
    flush_is_scheduled: bool,
    check_is_scheduled: bool,
    /// The hello of the gateway.
    hello: Hello,
    /// The first gateway logs what concerns all of them.
    logs_for_all: bool,
    /// The uids of recorded programs.
    users: Vec<u32>,
    /// The options of recordings, by listener.
    sockets: Vec<RecordOptions>,
    /// Ends of sessions of the gateway before, which wait for the result of their
    /// recordings.
    pending_ends: PendingEndLines,
}

/// An ended session whose recording is not complete.
pub(crate) struct EndedRecording {
    recording: Rc<RecordingTap>,
    since: Instant,
    /// The audit's facts for the line of the end.
    last: Option<Box<EndedSession>>,
}

impl Recordings {
    /// The recordings of this gateway; `None`: no listener records.
    pub fn new<'a>(sockets: impl Iterator<Item = &'a Rules>, hello: Hello) -> Option<Box<Self>> {
        let own = nix::unistd::geteuid().as_raw();
        let (mut users, mut options) = (Vec::new(), Vec::new());
        for rules in sockets {
            if rules.record.dir.is_some() {
                users.push(rules.identity.as_ref().map_or(own, |identity| identity.uid));
            }
            options.push(rules.record.clone());
        }
        let logs_for_all = hello.ordinal == 0;
        (!users.is_empty()).then(|| {
            Box::new(Self { hello, logs_for_all, users, sockets: options, ..Self::default() })
        })
    }

    /// The options of recordings of a listener, if it records.
    fn of_socket(&self, socket: u16) -> Option<&RecordOptions> {
        self.sockets.get(usize::from(socket)).filter(|record| record.dir.is_some())
    }

    /// Emits an event of the recorder.
    fn then(cx: &mut Context, fault_domain: FaultDomain, event: RecorderEvent) {
        cx.push_outcome(Outcome::Recorder(fault_domain, Box::new(event)));
    }

    /// Handles an event of the recorder.
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

    /// Ends recordings without a terminal: after a panic, and where a session was not
    /// restored.
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

/// The exit status as a shell has it.
fn status_of(exit: Exit) -> i32 {
    match exit {
        Exit::Status(status) => status,
        Exit::Signal { number, .. } => 128 + number,
    }
}

/// A text as a part of a file's name.
fn file_name_part(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '_' };
    text.chars().take(32).map(safe).collect()
}

fn log_session(id: &str, what: &str) {
    log(&format!("forkptyrouter: session {id} {what}"));
}
