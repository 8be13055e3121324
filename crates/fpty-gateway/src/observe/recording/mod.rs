//! What happened: recordings of sessions (`forkptyrouter-record`).
//!
//! | file | subject |
//! | --- | --- |
//! | `asciicast.rs` | asciicast; bytes as text in JSON |
//! | `consumer.rs` | the recorder itself; a gateway, as it knows it |
//! | `file.rs` | the file of a session |
//! | `journal.rs` | the recorder was killed: what the next one is given; what was half written |
//! | `launcher.rs` | the recorder is started, and kept over a reload |
//! | `link.rs` | what both have to say to each other |
//! | `orphan_ends.rs` | the audit's last lines of sessions whose gateway is gone |
//! | `orphans.rs` | what it has of gateways that have ended |
//! | `producer.rs` | the gateway's end of the queue to the recorder |
//! | `protocol.rs` | what both say to each other |
//! | `recorder.rs` | the recorder itself; a gateway, as it knows it |
//! | `restart.rs` | the recorder was killed: what the next one is given; what was half written |
//! | `results.rs` | what becomes of them where it says something, or was killed |
//! | `sessions.rs` | sessions that are recorded |
//! | `tap.rs` | one of them, as whoever reads its terminal has it |
//! | `utf8.rs` | asciicast; bytes as text in JSON |

pub(crate) mod asciicast;
pub(crate) mod consumer;
pub(crate) mod file;
pub(crate) mod journal;
pub mod launcher;
pub(crate) mod link;
pub mod orphan_ends;
pub(crate) mod orphans;
pub(crate) mod producer;
pub(crate) mod protocol;
pub(crate) mod recorder;
pub(crate) mod restart;
pub mod results;
pub(crate) mod sessions;
pub mod tap;
pub(crate) mod utf8;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use super::audit::Last;
use crate::config::recording::Record;
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::subject::Whose;
use crate::log::log;
use crate::process::ipc::Hello;
use crate::session::relay::Sessions;
use fpty::error::reason;
use fpty::sys::child::Exit;
use fpty::sys::shm_queue::Giver;
use fpty::sys::socket::Stream;

use super::recording::orphan_ends::LastLines;
use super::recording::producer::{Link, Sink};
use super::recording::results::News;
pub use super::recording::tap::{Kept, Recording};

/// The sessions of a gateway that are recorded: it is told when one is about to
/// begin, has begun and is over; what goes by in between it sees by the
/// [`Recording`] that it leaves with whoever reads the terminal.
pub struct Recorder {
    sink: Rc<RefCell<Sink>>,
    sessions: HashMap<u32, Rc<Recording>>,
    /// Sessions that are over, until the recorder has said what became of
    /// their files.
    over: HashMap<u32, Over>,
    next: u32,
    /// How many bytes the recorder had taken when it was looked at.
    taken: u64,
    /// How often it had taken nothing since, while somebody waited.
    still: u8,
    soon_is_due: bool,
    look_is_due: bool,
    /// Which gateway it is of.
    hello: Hello,
    /// The first gateway tells what concerns all of them.
    tells: bool,
    /// As whom those run who are recorded.
    users: Vec<u32>,
    /// What is recorded of those who come to each socket.
    sockets: Vec<Record>,
    /// Ends of sessions of a gateway before, that are told when it is known what became
    /// of their recordings.
    last_lines: LastLines,
}

/// A session that is over.
pub(crate) struct Over {
    recording: Rc<Recording>,
    since: Instant,
    /// What is to be told of its end, where anybody wants to know.
    last: Option<Box<Last>>,
}

impl Recorder {
    /// One for this gateway, with these sockets, where anything is recorded.
    pub fn new<'a>(sockets: impl Iterator<Item = &'a Rules>, hello: Hello) -> Option<Box<Self>> {
        let own = nix::unistd::geteuid().as_raw();
        let mut users = Vec::new();
        let sockets: Vec<_> = sockets
            .map(|rules| {
                if rules.record.folder.is_some() {
                    users.push(rules.identity.as_ref().map_or(own, |identity| identity.uid));
                }
                rules.record.clone()
            })
            .collect();
        let any = !users.is_empty();
        any.then(|| {
            Box::new(Self {
                sink: Rc::default(),
                sessions: HashMap::new(),
                over: HashMap::new(),
                next: 0,
                taken: 0,
                still: 0,
                soon_is_due: false,
                look_is_due: false,
                hello,
                tells: hello.ordinal == 0,
                users,
                sockets,
                last_lines: LastLines::default(),
            })
        })
    }

    /// What is recorded of those who come to a socket, if anything is.
    fn of_socket(&self, socket: u16) -> Option<&Record> {
        self.sockets.get(usize::from(socket)).filter(|record| record.folder.is_some())
    }

    /// Has the loop turn to this when it is its turn.
    fn then(cx: &mut Context, whose: Whose, news: News) {
        cx.then(Outcome::Recording(whose, Box::new(news)));
    }

    /// What was to be done in its turn.
    pub fn turn_to(&mut self, cx: &mut Context, sessions: &mut Sessions, news: News) {
        match news {
            News::Said(answer) => self.hear(cx, sessions, answer),
            News::Gone => self.follow_killed(cx),
            News::Lost { session, goes_on, left } => {
                self.record_on(cx, sessions, session, goes_on, left);
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
fn connect(hello: &Hello, queue: Giver, before: Option<&Giver>) -> Result<Link, String> {
    let (channel, its_channel) = Stream::pair().map_err(|error| reason(&error))?;
    match launcher::enter(hello, &queue, &its_channel, before) {
        true => Ok(Link { queue, channel }),
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
fn in_a_name(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '_' };
    text.chars().take(32).map(safe).collect()
}

fn log_of(id: &str, what: &str) {
    log(&format!("forkptyrouter: session {id} {what}"));
}
