//! Closing where nobody waits.
//!
//! close(2) can take as long as somebody else likes: a TCP socket with
//! SO_LINGER waits for its peer, a file of FUSE or NFS for its server. Whoever
//! may send us descriptors (SCM_RIGHTS, unix(7)) may send such, and the last
//! copy is ours where he has closed his; so is what waits unread in a socket
//! that we close. So that is done on threads that do nothing else.
//!
//! A thread is there while there is something for it. A user who keeps some of
//! them busy has no more than a share, of them and of the descriptors that wait;
//! who has used it up is no longer read from (see [`is_over`]), and his sockets
//! are closed with what is unread in them: of that nothing but a lingering
//! socket waits, which a signal ends.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat};

use super::fd_query;
use super::itimer_guard::Hurried;
use super::signal::Blocked;
use super::stdio_pass::NULL;

/// Threads at most, and for one user.
const THREADS: usize = 32;
const THREADS_OF_ONE: usize = 4;

/// Descriptors that may wait, and of one user.
const WAITING: usize = 2048;
const WAITING_OF_ONE: usize = 256;

/// How long a thread waits for more.
const IDLE: Duration = Duration::from_secs(5);

/// A thread does little.
const STACK: usize = 64 * 1024;

/// The user of whom nothing is known.
pub const NOBODY: u32 = u32::MAX;

struct State {
    jobs: VecDeque<(OwnedFd, u32)>,
    shares: Vec<Share>,
    threads: usize,
    idle: usize,
}

/// What a user has of all.
struct Share {
    user: u32,
    waiting: usize,
    running: usize,
}

static STATE: Mutex<State> =
    Mutex::new(State { jobs: VecDeque::new(), shares: Vec::new(), threads: 0, idle: 0 });
static MORE: Condvar = Condvar::new();

/// Something waits: who asks for shares needs no lock until then.
static BUSY: AtomicBool = AtomicBool::new(false);

/// A descriptor that a stranger has sent: it is closed where nobody waits.
#[derive(Debug)]
pub struct Foreign {
    /// `None` once it was taken.
    fd: Option<OwnedFd>,
    user: u32,
}

impl Foreign {
    /// One of this user.
    pub fn new(fd: OwnedFd, user: u32) -> Self {
        Self { fd: Some(fd), user }
    }

    /// It is what it should be, and closes as our own do.
    pub fn accept(mut self) -> Option<OwnedFd> {
        self.fd.take()
    }

    /// Whether it is a socket.
    pub fn is_socket(&self) -> bool {
        self.fd.as_ref().is_some_and(|fd| fd_query::kind(fd) == SFlag::S_IFSOCK)
    }

    /// The descriptor.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            close(fd, self.user);
        }
    }
}

/// Closes a descriptor that somebody has sent; pipes, whose close does not wait,
/// at once.
pub fn close(fd: OwnedFd, user: u32) {
    let is_quick = fstat(&fd).is_ok_and(|status| match fd_query::kind_of(status.st_mode) {
        SFlag::S_IFIFO => true,
        SFlag::S_IFCHR => status.st_rdev == NULL,
        _ => false,
    });
    if !is_quick {
        later(fd, user);
    }
}

/// Whether a user has used up his share: nothing more is taken from him. He is
/// asked for only where anything waits.
pub fn is_over(user: impl FnOnce() -> u32) -> bool {
    BUSY.load(Ordering::Relaxed) && lock().is_over(user())
}

/// Closes whatever it is, and what is in it.
pub(super) fn later(fd: OwnedFd, user: u32) {
    super::poll::remove_everywhere(fd.as_fd());
    let mut state = lock();
    if state.is_over(user) {
        drop(state);
        return at_once(fd);
    }
    state.jobs.push_back((fd, user));
    let share = state.share(user);
    share.waiting += 1;
    // There is a thread for each of those before it.
    let is_mine = share.running + share.waiting <= THREADS_OF_ONE;
    BUSY.store(true, Ordering::Relaxed);
    if state.idle > 0 {
        MORE.notify_one();
    } else if is_mine && state.threads < THREADS {
        state.threads += 1;
        if !start() {
            state.threads -= 1;
            // Nobody would ever come for it.
            let job = (state.threads == 0).then(|| state.jobs.pop_back()).flatten();
            if let Some((fd, user)) = job {
                state.share(user).waiting -= 1;
                state.tidy();
                drop(state);
                at_once(fd);
            }
        }
    }
}

/// Here, and not for long.
fn at_once(fd: OwnedFd) {
    let hurried = Hurried::new();
    if !hurried.has_timer() {
        // It is somebody else's, too, who may have his reasons for it; and who
        // may set it again.
        let off = libc::linger { l_onoff: 0, l_linger: 0 };
        let _ = setsockopt(&fd, sockopt::Linger, &off);
    }
    drop(fd);
    drop(hurried);
}

fn start() -> bool {
    // No signal is for it.
    let _blocked = Blocked::all();
    let thread = std::thread::Builder::new().name(String::from("fpty-closer")).stack_size(STACK);
    thread.spawn(run).is_ok()
}

fn run() {
    let mut state = lock();
    loop {
        let Some((fd, user)) = state.next() else {
            state.idle += 1;
            let (woken, wait) =
                MORE.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if wait.timed_out() && !state.has_next() {
                state.threads -= 1;
                return;
            }
            continue;
        };
        drop(state);
        at_once(fd);
        state = lock();
        state.share(user).running -= 1;
        state.tidy();
    }
}

fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn share(&mut self, user: u32) -> &mut Share {
        let at = self.shares.iter().position(|share| share.user == user).unwrap_or_else(|| {
            self.shares.push(Share { user, waiting: 0, running: 0 });
            self.shares.len() - 1
        });
        &mut self.shares[at]
    }

    fn is_over(&self, user: u32) -> bool {
        let waiting = self.shares.iter().find(|share| share.user == user);
        let waiting = waiting.map_or(0, |share| share.waiting);
        waiting >= WAITING_OF_ONE || (waiting > 0 && self.jobs.len() >= WAITING)
    }

    /// The next of a user who has not as many threads as one may have.
    fn place(&self) -> Option<usize> {
        let may = |user| {
            let share = self.shares.iter().find(|share| share.user == user);
            share.is_none_or(|share| share.running < THREADS_OF_ONE)
        };
        self.jobs.iter().position(|(_, user)| may(*user))
    }

    fn has_next(&self) -> bool {
        self.place().is_some()
    }

    fn next(&mut self) -> Option<(OwnedFd, u32)> {
        let job = self.jobs.remove(self.place()?)?;
        let share = self.share(job.1);
        share.waiting -= 1;
        share.running += 1;
        Some(job)
    }

    fn tidy(&mut self) {
        self.shares.retain(|share| share.waiting + share.running > 0);
        BUSY.store(!self.shares.is_empty(), Ordering::Relaxed);
    }
}

/// Held while the process forks: a child that executes nothing begins with no
/// threads, and with none of what waits.
pub struct Forking(MutexGuard<'static, State>);

/// Before a fork.
pub fn before_fork() -> Forking {
    Forking(lock())
}

impl Forking {
    /// In the child. Its descriptors are closed by their numbers, or are the
    /// parent's copies, which that closes.
    pub fn forget_in_child(mut self) {
        let jobs = std::mem::take(&mut self.0.jobs);
        jobs.into_iter().for_each(|(fd, _)| std::mem::forget(fd));
        self.0.shares.clear();
        (self.0.threads, self.0.idle) = (0, 0);
        BUSY.store(false, Ordering::Relaxed);
    }
}

/// Sockets whose last close waits for days.
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
        let days = libc::linger { l_onoff: 1, l_linger: 1_000_000 };
        setsockopt(&socket, sockopt::Linger, &days).expect("an option");
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
        lock().shares.iter().any(|share| share.user == user)
    }

    #[test]
    fn a_close_that_waits_for_days_is_over_at_once() {
        let sockets = lingering(10);
        let begin = Instant::now();
        sockets.into_iter().for_each(|socket| drop(Foreign::new(socket, 1)));
        // Where nobody else closes.
        lingering(2).into_iter().for_each(at_once);
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
    fn shares() {
        let mut state = State { jobs: VecDeque::new(), shares: Vec::new(), threads: 0, idle: 0 };
        let nothing = || OwnedFd::from(std::fs::File::open("/dev/null").expect("it"));
        for _ in 0..THREADS_OF_ONE + 2 {
            state.jobs.push_back((nothing(), 3));
            state.share(3).waiting += 1;
        }
        state.jobs.push_back((nothing(), 4));
        state.share(4).waiting += 1;
        for _ in 0..THREADS_OF_ONE {
            assert_eq!(state.next().map(|(_, user)| user), Some(3));
        }
        assert_eq!(state.next().map(|(_, user)| user), Some(4));
        assert!(!state.has_next(), "he has all that he may have");
        state.share(3).waiting = WAITING_OF_ONE;
        assert!(state.is_over(3) && !state.is_over(4) && !state.is_over(5));
        // The one left waits for its thread alone.
        state.share(3).running -= 1;
        assert!(state.has_next());
    }
}
