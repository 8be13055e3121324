//! The instance stops: its gateways tell their clients so before the master kills
//! them. That happens in the master's handler of the signal, at once and by SIGKILL
//! (kill_them_all and uwsgi_destroy_processes in uWSGI's core), so ours goes first.
//! Reloads have other handlers, and are left alone.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use once_cell::sync::OnceCell;

use super::gateway;

/// The process of each gateway that has told its clients.
static NOTIFIED: OnceCell<&'static [AtomicU64]> = OnceCell::new();

/// The process whose handlers are ours, and the one that it had before.
static MASTER: AtomicI32 = AtomicI32::new(0);
static BEFORE: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

/// How long the gateways may take, in steps.
const STEPS: u32 = 150;
const STEP: Duration = Duration::from_millis(2);

/// Sets the words of gateways that have told their clients, one for each: memory that the
/// master shares with them.
pub fn set_memory(words: &'static [AtomicU64]) {
    let _ = NOTIFIED.set(words);
}

/// Has the gateways told before the signals that stop the instance do what they
/// did. In the master, when it has set its handlers; more than once does nothing.
pub fn install() {
    static WATCHES: AtomicBool = AtomicBool::new(false);
    if NOTIFIED.get().is_none() || WATCHES.swap(true, Ordering::Relaxed) {
        return;
    }
    let stops = action(libc::SIGINT);
    let is_one = |action: &libc::sigaction| {
        !matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
            && action.sa_flags & libc::SA_SIGINFO == 0
    };
    if !is_one(&stops) {
        return;
    }
    MASTER.store(std::process::id() as i32, Ordering::Relaxed);
    BEFORE.store(stops.sa_sigaction, Ordering::Release);
    // SIGTERM has the handler of SIGINT only with `die-on-term`; else it reloads.
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        let mut action = action(signal);
        if is_one(&action) && action.sa_sigaction == stops.sa_sigaction {
            let ours: extern "C" fn(c_int) = on_stop;
            action.sa_sigaction = ours as usize;
            // SAFETY: the server's own action with another handler, which makes system
            // calls alone (signal-safety(7)) and then calls the server's.
            unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
        }
    }
}

fn action(signal: c_int) -> libc::sigaction {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction(2) with no new action fills one struct; all zero is a valid
    // one.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    }
}

extern "C" fn on_stop(signal: c_int) {
    // A child that the master has just forked still has the master's handlers.
    if std::process::id() as i32 == MASTER.load(Ordering::Relaxed) {
        notify_gateways();
    }
    let before = BEFORE.load(Ordering::Acquire);
    // SAFETY: the address of the handler that the server had set for this signal,
    // without SA_SIGINFO.
    let before = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(before) };
    before(signal);
}

/// Asks all gateways to tell their clients, and waits for them, not long. Called
/// in a handler: what it calls are system calls and no more (signal-safety(7)).
fn notify_gateways() {
    static ONCE: AtomicBool = AtomicBool::new(false);
    let Some(words) = NOTIFIED.get().filter(|_| !ONCE.swap(true, Ordering::Relaxed)) else {
        return;
    };
    let pids =
        || gateway::all().iter().filter(|one| gateway::is_ours(one)).map(|gateway| gateway.pid);
    for pid in pids().filter(|pid| *pid > 1) {
        // The id of a child that was not waited for stands for no other process.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    for _ in 0..STEPS {
        let is_done =
            |(pid, word): (i32, &AtomicU64)| pid <= 1 || word.load(Ordering::Acquire) == pid as u64;
        if pids().zip(*words).all(is_done) {
            return;
        }
        std::thread::sleep(STEP);
    }
}
