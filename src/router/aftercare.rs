//! What becomes of the sessions when the gateway itself ends, killed by its
//! master at a stop or a reload, or by anybody.
//!
//! Their terminals close with the gateway, so the kernel hangs them up. A
//! program that ignores that would stay for good, without terminal, client
//! or supervisor. So a small process waits for the gateway's end, gives them
//! the same grace as any, and kills what is left then.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::sys::child::{self, Pid};
use crate::sys::guardian::{self, Watched};
use crate::sys::pidfd::PidFd;
use crate::sys::shared::SharedWords;
use crate::uwsgi::log::log;

/// Sessions that can be listed; memory is used only for as many as there are.
const MOST: usize = 1 << 20;

/// What stands in a place: never used, free again, or a pid.
const NEVER_USED: i32 = 0;
const FREE: i32 = -1;

/// The list of session leaders that both processes see.
pub struct Aftercare {
    leaders: SharedWords,
    free: VecDeque<usize>,
    used: usize,
    _watched: Watched,
}

/// A place on the list.
#[derive(Clone, Copy, Debug)]
pub struct Listed(usize);

impl Aftercare {
    /// Starts the process; `None` where it cannot be, or is not wanted.
    pub fn begin(grace: Option<Duration>) -> Option<Self> {
        let grace = grace?;
        let begun = SharedWords::new(MOST).and_then(|leaders| {
            let watched = guardian::after_our_end(move || see_to(leaders, grace))?;
            Ok(Self { leaders, free: VecDeque::new(), used: 0, _watched: watched })
        });
        begun
            .inspect_err(|error| {
                log(&format!(
                    "forkptyrouter: programs that ignore SIGHUP will outlive the gateway: {error}"
                ));
            })
            .ok()
    }

    /// Puts a session's leader on the list.
    pub fn add(&mut self, leader: Pid) -> Option<Listed> {
        let place = self.free.pop_front().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        self.leaders.words().get(place)?.store(leader.as_raw(), Ordering::Release);
        Some(Listed(place))
    }

    /// Takes it off: it was reaped.
    pub fn remove(&mut self, Listed(place): Listed) {
        if let Some(word) = self.leaders.words().get(place) {
            word.store(FREE, Ordering::Release);
            self.free.push_back(place);
        }
    }
}

/// After the gateway's end: waits for the leaders to end, and kills the
/// sessions of those that do not.
fn see_to(leaders: SharedWords, grace: Duration) {
    const LOOK: Duration = Duration::from_millis(100);
    // Nothing is added any more, and places are used from the beginning.
    let mut left: Vec<PidFd> = leaders
        .words()
        .iter()
        .map_while(|word| match word.load(Ordering::Acquire) {
            NEVER_USED => None,
            pid => Some(pid),
        })
        .filter_map(|pid| PidFd::open(Pid::new(pid)?))
        .collect();
    let mut waited = Duration::ZERO;
    while waited < grace {
        left.retain(|leader| !leader.has_ended());
        if left.is_empty() {
            return;
        }
        std::thread::sleep(LOOK);
        waited += LOOK;
    }
    for leader in left {
        child::kill_session(leader.pid());
    }
}
