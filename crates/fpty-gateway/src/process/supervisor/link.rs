//! By which gateways reach the process that keeps their sessions: a connection that
//! lives as long as the master, over its reloads, both ends of it. Whether there is
//! such a process says a lock (`sys/lock.rs`): the kernel takes that from it at its
//! end, however that comes.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use once_cell::sync::OnceCell;

use crate::host::host;
use crate::process::proof;
use fpty::sys::child::Pid;
use fpty::sys::process_lock;
use fpty::sys::socket::Stream;

/// What both ends are called for the next image of the server, and what it is that
/// is said through them: another server's process is told to end instead.
const NAME: &str = "FORKPTYROUTER_KEPT";
const VERSION: &str = "2";

struct Door {
    ours: OwnedFd,
    theirs: OwnedFd,
}

static DOOR: OnceCell<Door> = OnceCell::new();

/// Takes what a server before a reload has left, where there is any use for
/// it, or makes it anew. In the master, before it forks gateways.
pub fn reserve(wanted: bool) {
    let left = host().take_kept_sockets(NAME).filter(|(_, note)| note == VERSION);
    let left = left.and_then(|(fds, _)| <[OwnedFd; 2]>::try_from(fds).ok());
    let is_needed = left.is_some() && is_held();
    if !wanted && !is_needed {
        return;
    }
    let made = || {
        // Whoever keeps sessions asks who says hello.
        let (ours, theirs) = Stream::pair_that_tells().ok()?;
        Some([OwnedFd::from(ours), OwnedFd::from(theirs)])
    };
    let (Some([ours, theirs]), Some(_)) = (left.or_else(made), proof::page()) else {
        return;
    };
    for fd in [&ours, &theirs] {
        host().inherited_by_gateways_only(fd.as_fd());
    }
    let _ = DOOR.set(Door { ours, theirs });
}

/// The master may be about to execute itself.
pub fn before_exec() {
    if let Some(door) = DOOR.get() {
        host().keep_over_exec(NAME, &[door.ours.as_fd(), door.theirs.as_fd()], OsStr::new(VERSION));
    }
}

/// Whether sessions can be kept at all.
pub fn there_is_one() -> bool {
    DOOR.get().is_some()
}

/// A copy of the gateways' end.
pub(crate) fn ours() -> Option<Stream> {
    DOOR.get()?.ours.try_clone().ok().map(Stream::from)
}

/// A copy of the other end.
pub(crate) fn theirs() -> Option<OwnedFd> {
    DOOR.get()?.theirs.try_clone().ok()
}

/// Whether there is a process that keeps sessions: another one than this.
pub fn is_held() -> bool {
    proof::page().is_some_and(process_lock::is_held)
}

/// Which one.
pub(crate) fn holder() -> Option<Pid> {
    process_lock::holder(proof::page()?)
}
