//! Descriptors and memory that only gateways inherit from the master: descriptors that
//! lead to other people's terminals (the supervisor's socket, inboxes, the recorder's
//! registration socket), and memory that gateways share. All else that the server forks
//! has nothing of it: workers, mules, spoolers, other plugins' gateways, the Emperor, and
//! what any of them starts.
//!
//! Three things see to it, because no one of them is everywhere. Whatever
//! executes something loses them by close-on-exec. What is forked while all of
//! our gateways run is none of them: it loses them within fork(3), before any
//! code of its own. While one is missing the child may be that one, so it is
//! asked who it is: a gateway says so as its first deed, other plugins' gateways
//! begin in a function of ours, and for the rest there are the server's hooks.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::addr_of_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::{exec_handoff, gateway};
use crate::ffi;
use fpty::sys::shm;

/// The most registered descriptors: two ends for each of 64 gateways, and a few
/// more.
const MAX_DESCRIPTORS: usize = 160;

/// Numbers of descriptors; 0: none.
static DESCRIPTORS: [AtomicI32; MAX_DESCRIPTORS] = [const { AtomicI32::new(0) }; MAX_DESCRIPTORS];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether this is the master, whose children are checked.
static IS_MASTER: AtomicBool = AtomicBool::new(false);

/// The child that is about to be forked may be a gateway of ours.
static MAY_BE_OURS: AtomicBool = AtomicBool::new(true);

/// No gateway is forked any more.
static BEFORE_EXEC: AtomicBool = AtomicBool::new(false);

/// The master could be inspected before we forbade that, and so can what it
/// forks.
static WAS_DUMPABLE: AtomicBool = AtomicBool::new(false);

type Loop = unsafe extern "C" fn(c_int, *mut c_void);

/// Main functions of other plugins' gateways, by their numbers.
static LOOPS: OnceLock<Vec<Option<Loop>>> = OnceLock::new();

/// Registers a descriptor of the master's that stays open there: gateways alone inherit
/// it. The server does not close it either, as it does after a reload with descriptors
/// that it does not know: its number could mean something else then.
pub fn gateways_only(fd: BorrowedFd<'_>) {
    exec_handoff::protect(fd);
    let at = COUNT.fetch_add(1, Ordering::Relaxed);
    if let Some(number) = DESCRIPTORS.get(at) {
        number.store(fd.as_raw_fd(), Ordering::Release);
    }
}

/// From here on what the master forks is looked at; and nobody of its user, who
/// is also that of workers and sessions, may look into the master itself: it
/// has all of that. To be called by the master when all gateways are
/// registered, and before any is forked.
///
/// What is forked can be inspected as before: a worker's core dump is the
/// application's. Where the master is root nobody else could inspect it.
pub fn install() {
    forbid_inspection();
    wrap_other_gateways();
    IS_MASTER.store(true, Ordering::Release);
    // SAFETY: the functions live as long as the process, and make system calls alone.
    // Where pthread_atfork(3) has no memory for them the server's hooks remain.
    unsafe { libc::pthread_atfork(Some(before_fork), None, Some(in_child)) };
}

/// Forbids other processes of the master's own user to inspect the master.
pub fn forbid_inspection() {
    if !nix::unistd::geteuid().is_root() {
        let was = nix::sys::prctl::get_dumpable().unwrap_or(false);
        WAS_DUMPABLE.fetch_or(was, Ordering::Relaxed);
        fpty::sys::forbid_ptrace();
    }
}

/// This process is a gateway of ours. To be called before anything else.
pub fn keep_in_gateway() {
    IS_MASTER.store(false, Ordering::Release);
}

/// Closes what only gateways inherit, once, in a process that is no gateway.
pub fn close_all() {
    for number in &DESCRIPTORS {
        let number = number.swap(0, Ordering::AcqRel);
        if number > 2 {
            // SAFETY: a descriptor of the master's that was open when this process was
            // forked. Nothing in this process uses the descriptor: its owners run in the
            // master and in its gateways alone.
            unsafe { libc::close(number) };
        }
    }
    shm::forget();
    IS_MASTER.store(false, Ordering::Release);
    if WAS_DUMPABLE.swap(false, Ordering::Relaxed) {
        let _ = nix::sys::prctl::set_dumpable(true);
    }
}

/// The master is about to execute itself, and its descriptors do not close with
/// that any more: whatever it forks before that has none.
pub fn before_exec() {
    BEFORE_EXEC.store(true, Ordering::Release);
}

extern "C" fn before_fork() {
    if IS_MASTER.load(Ordering::Acquire) {
        let may_be = !BEFORE_EXEC.load(Ordering::Acquire) && is_gateway_missing();
        MAY_BE_OURS.store(may_be, Ordering::Release);
    }
}

extern "C" fn in_child() {
    if IS_MASTER.load(Ordering::Acquire) && !MAY_BE_OURS.load(Ordering::Acquire) {
        close_all();
    }
}

/// Whether one of our gateways does not run: the server may be about to fork it.
fn is_gateway_missing() -> bool {
    gateway::all().iter().any(|one| gateway::is_ours(one) && !is_child(one.pid))
}

/// Whether a process is a child of ours that runs. The child is not reaped by that: the
/// server does so.
fn is_child(pid: libc::pid_t) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    pid > 0 && waitid(Id::Pid(Pid::from_raw(pid)), flags) == Ok(WaitStatus::StillAlive)
}

/// Other plugins' gateways begin in a function of ours.
fn wrap_other_gateways() {
    // SAFETY: the master has forked no gateway yet, so no other process has the array.
    let gateways = unsafe { &mut (*(*addr_of_mut!(ffi::uwsgi)).shared).gateways };
    let mut loops = Vec::new();
    for gateway in gateways.iter_mut() {
        let is_other = !gateway.name.is_null() && !gateway::is_ours(gateway);
        loops.push(gateway.loop_.filter(|_| is_other));
        if is_other && gateway.loop_.is_some() {
            gateway.loop_ = Some(other_gateway_main);
        }
    }
    let _ = LOOPS.set(loops);
}

unsafe extern "C" fn other_gateway_main(id: c_int, data: *mut c_void) {
    close_all();
    let number = usize::try_from(id).ok();
    let theirs = number.and_then(|number| LOOPS.get()?.get(number).copied().flatten());
    if let Some(theirs) = theirs {
        // SAFETY: the function that the server would have called, with the same arguments.
        unsafe { theirs(id, data) };
    }
}
