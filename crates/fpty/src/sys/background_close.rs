//! close(2) on threads of its own, so that no loop waits for it.
//!
//! close(2) can take as long as somebody else likes: a TCP socket with SO_LINGER waits
//! for its peer, a file of FUSE or NFS for its server. Whoever may send us descriptors
//! (SCM_RIGHTS, unix(7)) may send such, and the last copy is ours where the sender has
//! closed theirs; so is what waits unread in a socket that we close. So that is done on
//! threads that do nothing else.
//!
//! A thread is there while there is something for it. A user who keeps some of them busy
//! has no more than a share, of them and of the descriptors that wait; a user whose share
//! is used up is no longer read from (see [`is_over_quota`]), and their sockets are
//! closed with what is unread in them: of that nothing but a lingering socket waits,
//! which a signal ends.

use std::collections::{BTreeMap, VecDeque};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat};

use super::fd_query;
use super::passable_stdio::NULL;
use super::signal::BlockedSignals;
use super::syscall_timeout::ThreadTimer;

/// Threads at most, and for one user.
const MAX_THREADS: usize = 32;
const MAX_THREADS_PER_USER: usize = 4;

/// Descriptors that may wait, and of one user.
const MAX_WAITING: usize = 2048;
const MAX_WAITING_PER_USER: usize = 256;

/// Time that a thread waits for more.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Stack of a thread, in bytes: a thread does little.
const STACK_SIZE: usize = 64 * 1024;

/// The user of whom nothing is known.
pub const UNKNOWN_USER: u32 = u32::MAX;

struct State {
    jobs: VecDeque<(OwnedFd, u32)>,
    quotas: BTreeMap<u32, Quota>,
    threads: usize,
    idle: usize,
}

/// Use of the threads and of the queue, by one user.
#[derive(Default)]
struct Quota {
    waiting: usize,
    running: usize,
}

static STATE: Mutex<State> =
    Mutex::new(State { jobs: VecDeque::new(), quotas: BTreeMap::new(), threads: 0, idle: 0 });
static MORE: Condvar = Condvar::new();

/// Whether something waits: who asks for quotas needs no lock until then.
static BUSY: AtomicBool = AtomicBool::new(false);

/// A descriptor that a stranger has sent: it is closed where nobody waits.
#[derive(Debug)]
pub struct ReceivedFd {
    /// Taken out at the end.
    fd: ManuallyDrop<OwnedFd>,
    user: u32,
}

impl ReceivedFd {
    /// A descriptor that this user has sent.
    pub fn new(fd: OwnedFd, user: u32) -> Self {
        Self { fd: ManuallyDrop::new(fd), user }
    }

    /// Accepts the descriptor: it is what it should be, and its close does not block.
    pub fn accept(self) -> OwnedFd {
        let mut accepted = ManuallyDrop::new(self);
        // SAFETY: it is not used any more, nor dropped.
        unsafe { ManuallyDrop::take(&mut accepted.fd) }
    }

    /// Whether the descriptor is a socket.
    pub fn is_socket(&self) -> bool {
        fd_query::file_type(self) == SFlag::S_IFSOCK
    }
}

impl AsFd for ReceivedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for ReceivedFd {
    fn drop(&mut self) {
        // SAFETY: it is not used after this.
        close(unsafe { ManuallyDrop::take(&mut self.fd) }, self.user);
    }
}

/// Closes a descriptor that somebody has sent; pipes, whose close does not wait,
/// at once.
pub fn close(fd: OwnedFd, user: u32) {
    let is_quick = fstat(&fd).is_ok_and(|status| match fd_query::file_type_of(status.st_mode) {
        SFlag::S_IFIFO => true,
        SFlag::S_IFCHR => status.st_rdev == NULL,
        _ => false,
    });
    if !is_quick {
        close_later(fd, user);
    }
}

/// Whether the user's share is used up; the user is looked up only where something waits.
pub fn is_over_quota(user: impl FnOnce() -> u32) -> bool {
    BUSY.load(Ordering::Relaxed) && lock().is_over_quota(user())
}

/// Closes whatever it is, and what is in it.
pub(super) fn close_later(fd: OwnedFd, user: u32) {
    super::poll::remove_everywhere(fd.as_fd());
    let mut state = lock();
    if state.is_over_quota(user) {
        drop(state);
        return close_now(fd);
    }
    state.jobs.push_back((fd, user));
    let quota = state.quota(user);
    quota.waiting += 1;
    // There is a thread for each of those before it.
    let is_mine = quota.running + quota.waiting <= MAX_THREADS_PER_USER;
    BUSY.store(true, Ordering::Relaxed);
    if state.idle > 0 {
        MORE.notify_one();
    } else if is_mine && state.threads < MAX_THREADS {
        state.threads += 1;
        if !start() {
            state.threads -= 1;
            // Nobody would ever come for it.
            let job = (state.threads == 0).then(|| state.jobs.pop_back()).flatten();
            if let Some((fd, user)) = job {
                state.quota(user).waiting -= 1;
                state.tidy();
                drop(state);
                close_now(fd);
            }
        }
    }
}

/// Closes a descriptor on the calling thread, with a timer that ends a wait.
fn close_now(fd: OwnedFd) {
    let hurried = ThreadTimer::start();
    if !hurried.has_timer() {
        // The socket is shared with its sender, who may need SO_LINGER, and who may set
        // it again.
        let off = libc::linger { l_onoff: 0, l_linger: 0 };
        let _ = setsockopt(&fd, sockopt::Linger, &off);
    }
    drop(fd);
    drop(hurried);
}

fn start() -> bool {
    // No signal is for it.
    let _blocked = BlockedSignals::all();
    let thread =
        std::thread::Builder::new().name(String::from("fpty-closer")).stack_size(STACK_SIZE);
    thread.spawn(run).is_ok()
}

fn run() {
    let mut state = lock();
    loop {
        let Some((fd, user)) = state.next() else {
            state.idle += 1;
            let (woken, wait) =
                MORE.wait_timeout(state, IDLE_TIMEOUT).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if wait.timed_out() && state.next_index().is_none() {
                state.threads -= 1;
                return;
            }
            continue;
        };
        drop(state);
        close_now(fd);
        state = lock();
        state.quota(user).running -= 1;
        state.tidy();
    }
}

fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn quota(&mut self, user: u32) -> &mut Quota {
        self.quotas.entry(user).or_default()
    }

    fn is_over_quota(&self, user: u32) -> bool {
        let waiting = self.quotas.get(&user).map_or(0, |quota| quota.waiting);
        waiting >= MAX_WAITING_PER_USER || (waiting > 0 && self.jobs.len() >= MAX_WAITING)
    }

    /// The next of a user who has not as many threads as one may have.
    fn next_index(&self) -> Option<usize> {
        let running = |user| self.quotas.get(user).map_or(0, |quota| quota.running);
        self.jobs.iter().position(|(_, user)| running(user) < MAX_THREADS_PER_USER)
    }

    fn next(&mut self) -> Option<(OwnedFd, u32)> {
        let job = self.jobs.remove(self.next_index()?)?;
        let quota = self.quota(job.1);
        quota.waiting -= 1;
        quota.running += 1;
        Some(job)
    }

    fn tidy(&mut self) {
        self.quotas.retain(|_, quota| quota.waiting + quota.running > 0);
        BUSY.store(!self.quotas.is_empty(), Ordering::Relaxed);
    }
}

/// Held while the process forks: a child that executes nothing begins with no
/// threads, and with none of what waits.
pub struct ForkGuard(MutexGuard<'static, State>);

/// Before a fork.
pub fn lock_for_fork() -> ForkGuard {
    ForkGuard(lock())
}

impl ForkGuard {
    /// In the child. Its descriptors are closed by their numbers, or are the
    /// parent's copies, which that closes.
    pub fn reset_in_child(mut self) {
        let jobs = std::mem::take(&mut self.0.jobs);
        jobs.into_iter().for_each(|(fd, _)| std::mem::forget(fd));
        self.0.quotas.clear();
        (self.0.threads, self.0.idle) = (0, 0);
        BUSY.store(false, Ordering::Relaxed);
    }
}

/// Sockets whose last close waits long.
#[cfg(test)]
pub(super) fn lingering(count: usize) -> Vec<OwnedFd> {
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let at = listener.local_addr().expect("its address");
    let sockets = (0..count).map(|_| {
        let mut socket = std::net::TcpStream::connect(at).expect("a connection");
        // Nobody ever reads it.
        std::mem::forget(listener.accept().expect("it"));
        socket.set_nonblocking(true).expect("a flag");
        while socket.write(&[0; 65536]).is_ok() {}
        socket.set_nonblocking(false).expect("a flag");
        // Longer than the test waits; a process that others fork meanwhile waits as long.
        let long = libc::linger { l_onoff: 1, l_linger: 20 };
        setsockopt(&socket, sockopt::Linger, &long).expect("an option");
        OwnedFd::from(socket)
    });
    sockets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[track_caller]
    fn comes_true(what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn has_any(user: u32) -> bool {
        lock().quotas.contains_key(&user)
    }

    #[test]
    fn a_close_that_waits_for_days_is_over_at_once() {
        let sockets = lingering(10);
        let begin = Instant::now();
        sockets.into_iter().for_each(|socket| drop(ReceivedFd::new(socket, 1)));
        // Where nobody else closes.
        lingering(2).into_iter().for_each(close_now);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        comes_true("all are closed", || !has_any(1));
    }

    #[test]
    fn a_pipe_needs_no_thread() {
        let (reads, writes) = nix::unistd::pipe().expect("a pipe");
        close(writes, 2);
        assert!(!has_any(2));
        assert_eq!(nix::unistd::read(&reads, &mut [0]), Ok(0), "it is closed");
    }

    /// A share is one's own.
    #[test]
    fn quotas() {
        let mut state =
            State { jobs: VecDeque::new(), quotas: BTreeMap::new(), threads: 0, idle: 0 };
        let nothing = || OwnedFd::from(std::fs::File::open("/dev/null").expect("it"));
        for _ in 0..MAX_THREADS_PER_USER + 2 {
            state.jobs.push_back((nothing(), 3));
            state.quota(3).waiting += 1;
        }
        state.jobs.push_back((nothing(), 4));
        state.quota(4).waiting += 1;
        for _ in 0..MAX_THREADS_PER_USER {
            assert_eq!(state.next().map(|(_, user)| user), Some(3));
        }
        assert_eq!(state.next().map(|(_, user)| user), Some(4));
        assert!(state.next_index().is_none(), "he has all that he may have");
        state.quota(3).waiting = MAX_WAITING_PER_USER;
        assert!(state.is_over_quota(3) && !state.is_over_quota(4) && !state.is_over_quota(5));
        // The one left waits for its thread alone.
        state.quota(3).running -= 1;
        assert!(state.next_index().is_some());
    }
}
