//! A terminal without a client: its output is kept. A program that ends while
//! nobody is there.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::super::GatewayLoop;
use super::super::fault;
use super::super::handover::HELD_UP;
use super::super::hang_up::Copies;
use super::super::recovery::Whose;
use super::super::table::{Key, Source};
use super::{Alone, Entry, LOOK, Left, Over, Place, SOON};
use fpty::ended::of_exit;
use fpty::proto::{Ended, Ending};
use fpty::sys::Read;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::poll::Interest;
use fpty::sys::process::Process;

/// What a terminal yields at once, how often one is asked in a turn, and how
/// often at its end.
pub(super) const ONE_READ: usize = 4096;
const READS: usize = 4;
pub(super) const LAST_READS: usize = 1024;

/// How much is read of all of them in [`SOON`]: programs that flood nobody's
/// terminal go on, and slowly.
const ENOUGH: usize = 256 * 1024;

/// How long whoever inherited a program may take to reap it.
const REAPED: Duration = Duration::from_secs(5);

/// What a program is told that asks what its terminal is: a VT220 with colours,
/// as most are.
const ANSWER: &[u8] = b"\x1b[?62;22c";

impl GatewayLoop {
    /// Something happened to what is waited for here.
    pub(in crate::router) fn left_ready(&mut self) {
        let Some(left) = &mut self.left else {
            return;
        };
        let count = left.poller.wait(Some(Duration::ZERO)).unwrap_or(0);
        let ready: Vec<_> = (0..count).map(|index| left.poller.ready(index)).collect();
        for ready in ready {
            let source = Source::of(ready.token);
            let whose = match source {
                Source::Terminal(entry) | Source::Caller(entry) => Whose::Left(entry),
                Source::Client(watcher) => Whose::Watcher(watcher),
                _ => Whose::All,
            };
            self.guarded(whose, |router| match source {
                Source::Terminal(entry) => router.alone_ready(entry),
                Source::Caller(entry) => router.adopted_is_over(entry),
                Source::Client(watcher) => router.watcher_ready(watcher, ready),
                Source::Children => router.supervisor_ready(),
                _ => {}
            });
        }
        let Some(left) = self.left.as_mut().filter(|left| left.taken > ENOUGH) else {
            return;
        };
        if !std::mem::replace(&mut left.pauses, true) {
            let token = Source::Left.token();
            let _ = self.cx.poller.change(&left.poller, token, Interest::default());
        }
        self.look_at_left(SOON);
    }

    /// A terminal has something; it waits where there might be no room to record it.
    fn alone_ready(&mut self, key: Key) {
        if let Some(left) = &mut self.left {
            let Left { entries, poller, .. } = &mut **left;
            let Some(Place::Alone(alone)) = entries.get(key).map(|entry| &entry.place) else {
                return;
            };
            if alone.recording.as_ref().is_some_and(|recording| recording.holds()) {
                // A hang-up is told again and again, asked for or not.
                let _ = poller.remove(&alone.master);
                return;
            }
        }
        self.read_alone(key, READS);
    }

    /// There is room to record it again.
    pub(in crate::router) fn alone_goes_on(&mut self, key: Key) {
        let Some(left) = &self.left else {
            return;
        };
        let Some(Place::Alone(alone)) = left.entries.get(key).map(|entry| &entry.place) else {
            return;
        };
        if alone.closed.is_none() {
            let _ = left.poller.add(&alone.master, Source::Terminal(key).token(), Interest::READ);
            self.alone_ready(key);
        }
    }

    /// Reads on, at most so often.
    fn read_alone(&mut self, key: Key, reads: usize) {
        let Some(left) = &mut self.left else {
            return;
        };
        let Left { entries, poller, taken, .. } = &mut **left;
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        let answers = self.cx.doors.rules(entry.door).is_some_and(|rules| rules.detach.answer);
        let Place::Alone(alone) = &mut entry.place else {
            return;
        };
        let armed = alone.master.arm();
        let buffer = &mut self.cx.buffer[..ONE_READ];
        for _ in 0..reads {
            match alone.master.read(buffer) {
                Read::Bytes(count) => {
                    *taken += count;
                    fault::strike("left", || &buffer[..count]);
                    alone.remains.keep(&buffer[..count]);
                    if let Some(recording) = &alone.recording {
                        recording.output(&buffer[..count]);
                    }
                }
                Read::Blocked => break,
                Read::End | Read::Gone => {
                    // It may be opened again.
                    let _ = poller.remove(&alone.master);
                    alone.closed = Some(Instant::now() + LOOK);
                    break;
                }
            }
        }
        if alone.remains.take_asked() && answers {
            let _ = alone.master.write(ANSWER);
        }
        let (is_closed, is_held_up) = (alone.closed.is_some(), alone.master.is_held_up());
        drop(armed);
        if is_held_up {
            self.cx.doors.log_refusal(&format!("forkptyrouter: {HELD_UP}"));
            return self.end_alone(key);
        }
        if is_closed {
            self.look_at_left(LOOK);
        }
    }

    /// A terminal was closed: it may have been opened again.
    pub(super) fn alone_reopened(&mut self, key: Key) {
        let Some(left) = &mut self.left else {
            return;
        };
        let Some(Place::Alone(alone)) = left.entries.get_mut(key).map(|entry| &mut entry.place)
        else {
            return;
        };
        alone.closed = None;
        let token = Source::Terminal(key).token();
        let _ = left.poller.add(&alone.master, token, Interest::READ);
        self.alone_ready(key);
    }

    /// The program of a session that nobody is attached to has ended.
    /// Whether it was one.
    pub(in crate::router) fn left_program_ended(&mut self, program: Pid, exit: Exit) -> bool {
        let found = self.left.as_ref().and_then(|left| left.of_program(program));
        if let Some(key) = found {
            self.alone_over(key, of_exit(exit), Some(exit));
        }
        found.is_some()
    }

    /// What is left of a session is kept for a while.
    fn alone_over(&mut self, key: Key, ended: Ended, exit: Option<Exit>) {
        // What it wrote last is there by now.
        self.read_alone(key, LAST_READS);
        let Some(left) = &mut self.left else {
            return;
        };
        let Some(entry) = left.entries.get_mut(key) else {
            return;
        };
        entry.ending = None;
        let Place::Alone(alone) = &mut entry.place else {
            return;
        };
        let Alone { master, remains, recording, .. } = &mut **alone;
        if let Some(recorder) = &mut self.recorder {
            recorder.end(&mut self.cx, recording.take(), exit, None);
        }
        let _ = left.poller.remove(&*master);
        let Ok(ring) = remains.as_fd().try_clone_to_owned() else {
            left.remove(key);
            return;
        };
        entry.place = Place::Over(Over { ring, ended, at: Timestamp::now() });
        left.bound_ended();
        self.tell_store(key);
        self.look_at_left(SOON);
    }

    /// A session is ended that nobody is attached to.
    pub(super) fn end_alone(&mut self, key: Key) {
        let Some(entry) = self.left.as_mut().and_then(|left| left.remove(key)) else {
            return;
        };
        let Entry { pid, program, adopted, place, .. } = *entry;
        let Place::Alone(alone) = place else {
            return;
        };
        if let Some(recorder) = &mut self.recorder {
            recorder.end(&mut self.cx, alone.recording, None, None);
        }
        if let Some(left) = &self.left {
            // Others may have copies.
            let _ = left.poller.remove(&alone.master);
        }
        let program = match adopted {
            true => Process::held(program),
            false => Process::child(pid),
        };
        // Clients that had it may have kept a copy.
        self.programs.hang_up_terminal(&mut self.cx, &alone.master, program, Copies::Ended);
    }

    /// A program that is not our child has ended: whoever inherited it reaps it.
    fn adopted_is_over(&mut self, key: Key) {
        let Some(left) = &mut self.left else {
            return;
        };
        let Some(entry) = left.entries.get_mut(key) else {
            return;
        };
        let _ = left.poller.remove(&entry.program);
        entry.ending.get_or_insert_with(|| Instant::now() + REAPED);
        self.adopted_ended(key);
    }

    /// Its status may be known by now.
    pub(super) fn adopted_ended(&mut self, key: Key) {
        let Some(entry) = self.left.as_mut().and_then(|left| left.entries.get_mut(key)) else {
            return;
        };
        let exit = entry.program.exit();
        let is_late = entry.ending.is_some_and(|until| Instant::now() >= until);
        if exit.is_none() && !is_late {
            return self.look_at_left(LOOK);
        }
        let ended = exit.map(of_exit).unwrap_or_else(|| {
            let why = "its gateway was killed, and this kernel does not tell a program's status";
            Ended::because(Ending::Lost, why)
        });
        entry.ending = None;
        match &entry.place {
            Place::Attached(taken) => {
                let session = taken.session;
                if let Some(exit) = exit {
                    self.sessions.exited(&mut self.cx, session, exit);
                }
                if let Some(attached) = self.sessions.get_mut(session) {
                    attached.wires.program = None;
                }
                self.session_ended(session, ended);
            }
            Place::Alone(_) | Place::Over(_) => self.alone_over(key, ended, exit),
        }
    }
}
