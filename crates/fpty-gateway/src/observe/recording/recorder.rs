//! The process that writes the recordings: `fpty-recorder`. Who is recorded
//! must not own the file, so it is started before the server drops its
//! privileges, and it outlives a reload, after which the server has none.
//!
//! It has a door: whoever holds the other end, the server and each gateway, may
//! send it a queue (`sys/queue.rs`) and a channel. It ends with the last of
//! them. What a gateway recorded that has ended waits for the next one, which
//! goes on with it in the same file. A parent that does nothing else starts another one if it is killed,
//! and the gateways give that one their queues: what was not in the files is in
//! there, and what was half in them is taken out of them again (`ledger.rs`).

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::consumer::Source;
use super::journal::{Ledger, Unfinished};
use super::orphans::{Parked, Place, take_out};
use super::protocol::Answer;
use crate::process::ipc::{Hello, decode};
use fpty::sys::dir::Folder;
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::shm_queue::Taker;
use fpty::sys::signal::{block, own_dispositions};
use fpty::sys::socket::Stream;
use fpty::sys::{Read, daemonize};

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
    daemonize::run(c"fpty-rec-keeper", kept, supervise)?;
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
        let ended = daemonize::watched(c"fpty-recorder", || {
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

/// The process's life.
fn run(door: Stream, place: &Place<'_>) -> std::io::Result<()> {
    fpty::sys::forbid_inspection();
    // One for each session.
    let _ = fpty::sys::raise_descriptor_limit();
    let mut poller = Poller::new(64)?;
    poller.add(door.as_fd(), DOOR, Interest::READ)?;
    let mut door = Some(door);
    let mut sources: HashMap<u64, Source> = HashMap::new();
    let mut parked = Parked::default();
    let mut unfinished = place.ledger.take();
    let mut next = DOOR + 1;
    while door.is_some() || !sources.is_empty() {
        let mut busy = false;
        let nonsense = take_out(&mut sources, |token, source| {
            let worked = source.work(place, &mut parked);
            if let Ok(worked) = worked {
                busy |= worked || source.queue.sleep();
                source.speak(&poller, *token);
            }
            worked.is_err()
        });
        nonsense.into_iter().for_each(|source| source.end(place));
        let count = poller.wait(busy.then_some(Duration::ZERO))?;
        for index in 0..count {
            match poller.ready(index).token {
                DOOR => {
                    let Some(open) = &door else { continue };
                    match enter(open, &mut unfinished, place) {
                        Entry::Source(source, before) => {
                            // What the one before it had is known by now.
                            let is_over = |_: &u64, one: &mut Source| one.is_followed_by(&source);
                            for over in take_out(&mut sources, is_over) {
                                over.park(place, &mut parked);
                            }
                            if let Some(source) = welcome(*source, before, &mut parked) {
                                let channel = source.channel.as_fd();
                                if poller.add(channel, next, Interest::READ).is_ok() {
                                    sources.insert(next, source);
                                    next += 1;
                                }
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
                    if sources.get(&token).is_some_and(Source::hear_end) {
                        if let Some(source) = sources.remove(&token) {
                            source.park(place, &mut parked);
                        }
                    }
                }
            }
        }
    }
    parked.end(place);
    Ok(())
}

enum Entry {
    /// A gateway, and what it says of sessions that a recorder before us had.
    Source(Box<Source>, Option<OwnedFd>),
    Nobody,
    Closed,
}

/// Somebody is at the door: with a queue, a channel, and, where a recorder
/// before us had that queue, another one with what is to be known of it.
fn enter(door: &Stream, unfinished: &mut Option<Unfinished>, place: &Place<'_>) -> Entry {
    let (mut word, mut arrived) = ([0; 256], Vec::new());
    let hello = match door.read_and_sender(&mut word, &mut arrived).0 {
        Read::Bytes(count) => decode(&word[..count]).filter(Hello::is_proved),
        Read::Blocked => None,
        // The end of the door alone is not enough.
        Read::End | Read::Gone => return Entry::Closed,
    };
    let mut arrived = arrived.into_iter();
    let (Some(hello), Some(queue), Some(channel), before) =
        (hello, arrived.next(), arrived.next(), arrived.next())
    else {
        return Entry::Nobody;
    };
    let Ok(queue) = Taker::of(&queue) else {
        return Entry::Nobody;
    };
    if let Some(unfinished) = unfinished.take_if(|unfinished| unfinished.is_of(queue.id())) {
        unfinished.undo(queue.begins_at(), place.folders);
    }
    Entry::Source(Box::new(Source::new(Stream::from(channel), queue, hello)), before)
}

/// A gateway has come in; it is none where what it says makes no sense.
fn welcome(mut source: Source, before: Option<OwnedFd>, parked: &mut Parked) -> Option<Source> {
    source.answer(&Answer::Here { uid: nix::unistd::geteuid().as_raw() });
    before.is_none_or(|before| source.learn(&before, parked).is_ok()).then_some(source)
}
