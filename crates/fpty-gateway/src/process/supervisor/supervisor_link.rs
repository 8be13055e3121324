//! The socket pair by which gateways reach the supervisor: both ends live as long as the
//! master, over its reloads. Whether a supervisor runs says a lock (`sys/process_lock.rs`),
//! which the kernel releases at the end of its process, however that comes.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use once_cell::sync::OnceCell;

use crate::host::host;
use crate::process::gateway_token;
use fpty::sys::child::Pid;
use fpty::sys::process_lock;
use fpty::sys::socket::Stream;

/// The name of both ends for the next image of the server, and the version of the protocol:
/// a supervisor of another version ends.
const NAME: &str = "FORKPTYROUTER_KEPT";
const VERSION: &str = "2";

struct LinkSockets {
    gateway_end: OwnedFd,
    supervisor_end: OwnedFd,
}

static LINK: OnceCell<LinkSockets> = OnceCell::new();

/// Takes the socket pair of the image before a reload, where it is of use, or makes one. In
/// the master, before it forks gateways.
pub fn reserve(wanted: bool) {
    let left = host().take_kept_sockets(NAME).filter(|(_, note)| note == VERSION);
    let left = left.and_then(|(fds, _)| <[OwnedFd; 2]>::try_from(fds).ok());
    let is_needed = left.is_some() && is_running();
    if !wanted && !is_needed {
        return;
    }
    let made = || {
        // The supervisor asks for the credentials of the sender of a hello.
        let (gateway_end, supervisor_end) = Stream::credentialed_pair().ok()?;
        Some([OwnedFd::from(gateway_end), OwnedFd::from(supervisor_end)])
    };
    let (Some([gateway_end, supervisor_end]), Some(_)) =
        (left.or_else(made), gateway_token::page())
    else {
        return;
    };
    for fd in [&gateway_end, &supervisor_end] {
        host().inherited_by_gateways_only(fd.as_fd());
    }
    let _ = LINK.set(LinkSockets { gateway_end, supervisor_end });
}

/// Keeps the socket pair over an exec of the master.
pub fn before_exec() {
    if let Some(link) = LINK.get() {
        host().keep_over_exec(
            NAME,
            &[link.gateway_end.as_fd(), link.supervisor_end.as_fd()],
            OsStr::new(VERSION),
        );
    }
}

/// Whether sessions can outlive a gateway at all.
pub fn is_available() -> bool {
    LINK.get().is_some()
}

/// A copy of the gateways' end.
pub(crate) fn gateway_end() -> Option<Stream> {
    LINK.get()?.gateway_end.try_clone().ok().map(Stream::from)
}

/// A copy of the supervisor's end.
pub(crate) fn supervisor_end() -> Option<OwnedFd> {
    LINK.get()?.supervisor_end.try_clone().ok()
}

/// Whether a supervisor runs: another process than this.
pub fn is_running() -> bool {
    gateway_token::page().is_some_and(process_lock::is_held)
}

/// The pid of the supervisor.
pub(crate) fn supervisor_pid() -> Option<Pid> {
    process_lock::holder(gateway_token::page()?)
}
