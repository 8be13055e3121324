//! The recorder: the process that writes recordings (`fpty-recorder`). A user who is
//! recorded must not own the file, so the recorder is started before the server drops its
//! privileges, and it outlives a reload, after which the server has none.
//!
//! Gateways register at its registration socket with a queue (`sys/shm_queue.rs`) and a
//! channel. It ends with the last holder of the socket's other end, and the last gateway.
//! Recordings of a gateway that has ended wait for its successor, which goes on in the same
//! files. A parent that does nothing else starts another recorder if it is killed; gateways
//! register there with their queues. What was not in the files is in the queues, and what a
//! batch has written by half is taken out of the files again (`journal.rs`).

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::consumer::GatewayFeed;
use super::journal::{Journal, UnfinishedBatch};
use super::orphan_recordings::{OrphanedRecordings, RecorderContext, remove_where};
use super::recorder_protocol::Answer;
use crate::process::ipc::{Hello, decode};
use fpty::sys::clock;
use fpty::sys::dir::Dir;
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::shm_queue::Consumer;
use fpty::sys::signal::{block, own_dispositions};
use fpty::sys::socket::Stream;
use fpty::sys::{ReadOutcome, daemonize};

/// Delay of a restart after a recorder that lived shorter than this.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Blocked signals, which stop the service: the recorder ends by itself, after the last
/// gateway's last message.
const BLOCKED_SIGNALS: [Signal; 10] = [
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

/// Starts the recorder, for files in these directories. Returns the other end of its
/// registration socket.
///
/// # Errors
/// As fork(2) and dup(2).
pub fn start(folders: Vec<Dir>) -> std::io::Result<Stream> {
    let (ours, theirs) = Stream::pair()?;
    let mut kept: Vec<OwnedFd> = vec![theirs.into()];
    kept.extend(folders.into_iter().map(OwnedFd::from));
    daemonize::spawn(c"fpty-rec-keeper", kept, supervise)?;
    Ok(ours)
}

/// The parent: restarts the recorder.
fn supervise(kept: Vec<OwnedFd>) {
    fpty::sys::forbid_ptrace();
    own_dispositions(&[]);
    BLOCKED_SIGNALS.into_iter().for_each(block);
    let _ = std::env::set_current_dir("/");
    let mut kept = kept.into_iter();
    let Some(registration) = kept.next() else {
        return;
    };
    let folders: Vec<Dir> = kept.map(Dir::from_fd).collect();
    let Ok(journal) = Journal::new() else {
        return;
    };
    loop {
        let begin = clock::now();
        let ended = daemonize::run_and_wait(c"fpty-recorder", || {
            if let Ok(registration) = registration.try_clone() {
                let orphans = OrphanedRecordings::default();
                let ctx = RecorderContext { folders: &folders, journal: &journal, orphans };
                let _ = run(Stream::from(registration), ctx);
            }
        });
        if matches!(ended, Ok(true)) {
            return;
        }
        if begin.elapsed() < RESTART_DELAY {
            std::thread::sleep(RESTART_DELAY);
        }
    }
}

const REGISTRATION: u64 = 0;

/// The recorder's main loop.
fn run(registration: Stream, mut ctx: RecorderContext<'_>) -> std::io::Result<()> {
    fpty::sys::forbid_ptrace();
    // One for each session.
    let _ = fpty::sys::raise_descriptor_limit();
    let mut poller = Poller::new(64)?;
    poller.add(registration.as_fd(), REGISTRATION, Interest::READ)?;
    let mut registration = Some(registration);
    let mut feeds: HashMap<u64, GatewayFeed> = HashMap::new();
    let mut unfinished = ctx.journal.take();
    let mut next = REGISTRATION + 1;
    let uid = nix::unistd::geteuid().as_raw();
    while registration.is_some() || !feeds.is_empty() {
        let mut busy = false;
        let nonsense = remove_where(&mut feeds, |token, feed| {
            let worked = feed.process(&mut ctx);
            if let Ok(worked) = worked {
                busy |= worked || feed.queue.sleep();
                feed.send_answers(&poller, *token);
            }
            worked.is_err()
        });
        nonsense.into_iter().for_each(|feed| feed.end(&ctx));
        let count = poller.wait(busy.then_some(Duration::ZERO))?;
        for index in 0..count {
            match poller.ready(index).token {
                REGISTRATION => {
                    let Some(open) = &registration else { continue };
                    match register(open, &mut unfinished, &ctx) {
                        Registration::Gateway(mut feed, before) => {
                            // What the one before it had is known by now.
                            let is_over =
                                |_: &u64, one: &mut GatewayFeed| one.is_replaced_by(&feed);
                            for over in remove_where(&mut feeds, is_over) {
                                over.orphan(&mut ctx);
                            }
                            feed.answer(&Answer::Here { uid });
                            let is_malformed = before.is_some_and(|before| {
                                feed.restore_sessions(&before, &mut ctx).is_err()
                            });
                            let channel = feed.channel.as_fd();
                            if !is_malformed && poller.add(channel, next, Interest::READ).is_ok() {
                                feeds.insert(next, *feed);
                                next += 1;
                            }
                        }
                        Registration::Invalid => {}
                        Registration::Closed => {
                            let _ = poller.remove(open.as_fd());
                            registration = None;
                        }
                    }
                }
                token => {
                    if feeds.get(&token).is_some_and(GatewayFeed::drain_until_closed) {
                        if let Some(feed) = feeds.remove(&token) {
                            feed.orphan(&mut ctx);
                        }
                    }
                }
            }
        }
    }
    ctx.orphans.end(ctx.journal);
    Ok(())
}

enum Registration {
    /// A gateway, and a queue with the sessions of the recorder before.
    Gateway(Box<GatewayFeed>, Option<OwnedFd>),
    Invalid,
    Closed,
}

/// Receives a registration: a queue, a channel, and, where the recorder before had that
/// queue, another one with its sessions.
fn register(
    registration: &Stream,
    unfinished: &mut Option<UnfinishedBatch>,
    ctx: &RecorderContext<'_>,
) -> Registration {
    let (mut word, mut arrived) = ([0; 256], Vec::new());
    let hello = match registration.read_credentialed(&mut word, &mut arrived).0 {
        ReadOutcome::Bytes(count) => decode(&word[..count]).filter(Hello::is_proved),
        ReadOutcome::WouldBlock => None,
        // The end of the registration socket alone is not enough.
        ReadOutcome::Eof | ReadOutcome::Closed => return Registration::Closed,
    };
    let mut arrived = arrived.into_iter();
    let (Some(hello), Some(queue), Some(channel), before) =
        (hello, arrived.next(), arrived.next(), arrived.next())
    else {
        return Registration::Invalid;
    };
    let Ok(queue) = Consumer::of(&queue) else {
        return Registration::Invalid;
    };
    if let Some(unfinished) = unfinished.take_if(|unfinished| unfinished.queue == queue.id()) {
        unfinished.undo(queue.begins_at(), ctx.folders);
    }
    Registration::Gateway(Box::new(GatewayFeed::new(Stream::from(channel), queue, hello)), before)
}
