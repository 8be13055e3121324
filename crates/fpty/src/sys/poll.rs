//! epoll(7), level-triggered; and poll(2) for a few.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

/// Events to wait for at a descriptor. Its hang-up and its errors are always reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Readable: there is something to read, or the end of it.
    pub read: bool,
    /// Writable: a write will not block.
    pub write: bool,
}

impl Interest {
    /// Interest in input alone.
    pub const READ: Self = Self { read: true, write: false };

    fn flags(self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, self.read);
        flags.set(EpollFlags::EPOLLOUT, self.write);
        flags
    }
}

/// A wait in whole milliseconds, no shorter than it is; `None`: for ever.
fn rounded_up(timeout: Option<Duration>) -> PollTimeout {
    timeout.map_or(PollTimeout::NONE, |wait| {
        let millis = wait.as_nanos().div_ceil(1_000_000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    })
}

/// Events of a descriptor that is ready.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The token that the descriptor was registered under.
    pub token: u64,
    /// A read will not block.
    pub read: bool,
    /// A write will not block.
    pub write: bool,
    /// The other end is gone (EPOLLHUP), or there was an error (EPOLLERR).
    pub hang_up: bool,
}

/// The sets of this process.
static ALL_EPOLLS: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

fn all() -> MutexGuard<'static, Vec<RawFd>> {
    ALL_EPOLLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes a descriptor from each epoll that it is in: it is about to be closed
/// elsewhere, and would be reported until then.
pub(super) fn remove_everywhere(fd: BorrowedFd<'_>) {
    for epoll in all().iter() {
        // SAFETY: epoll_ctl(2) with numbers; it takes no event. Where the one is
        // no epoll any more it says so.
        unsafe {
            let nothing = std::ptr::null_mut();
            libc::epoll_ctl(*epoll, libc::EPOLL_CTL_DEL, fd.as_raw_fd(), nothing)
        };
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let ours = self.epoll.0.as_raw_fd();
        all().retain(|epoll| *epoll != ours);
    }
}

/// A set of descriptors to wait for.
pub struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poller {
    /// A set that reports at most `events` at once.
    ///
    /// # Errors
    /// epoll_create1(2).
    pub fn new(events: usize) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        all().push(epoll.0.as_raw_fd());
        Ok(Self { epoll, events: vec![EpollEvent::empty(); events.max(1)] })
    }

    /// Adds a descriptor. It is removed when it closes, with its last copy: a
    /// copy in a child would keep its events coming.
    ///
    /// # Errors
    /// epoll_ctl(2).
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(interest.flags(), token))?)
    }

    /// Changes what one wants to be told.
    ///
    /// # Errors
    /// epoll_ctl(2).
    pub fn change(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(interest.flags(), token))?)
    }

    /// Removes a descriptor.
    ///
    /// # Errors
    /// epoll_ctl(2).
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Waits, at most `timeout` (rounded up to a millisecond), and returns
    /// how many descriptors have something; see [`Poller::ready`]. A signal
    /// ends the wait with 0.
    ///
    /// # Errors
    /// epoll_wait(2).
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        match self.epoll.wait(&mut self.events, rounded_up(timeout)) {
            Ok(count) => Ok(count),
            Err(nix::errno::Errno::EINTR) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether anything but `token` has something right now.
    pub fn has_others_ready(&self, token: u64) -> bool {
        let mut events = [EpollEvent::empty(); 2];
        match self.epoll.wait(&mut events, PollTimeout::ZERO) {
            Ok(count) => events[..count].iter().any(|event| event.data() != token),
            Err(_) => false,
        }
    }

    /// The one at `index` of those the last wait counted.
    pub fn ready(&self, index: usize) -> Ready {
        let event = self.events[index];
        let flags = event.events();
        Ready {
            token: event.data(),
            read: flags.contains(EpollFlags::EPOLLIN),
            write: flags.contains(EpollFlags::EPOLLOUT),
            hang_up: flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR),
        }
    }
}

impl AsFd for Poller {
    /// The epoll's descriptor, to be waited for in another one: readable while something
    /// in here is ready.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// A few descriptors to wait for once (poll(2)).
#[derive(Default)]
pub struct PollSet<'a>(Vec<PollFd<'a>>);

/// Events that a wait has found, by descriptor.
pub struct PollResult(Vec<PollFlags>);

impl<'a> PollSet<'a> {
    /// Adds a descriptor; its hang-up is always reported. Returns its place.
    pub fn add(&mut self, fd: BorrowedFd<'a>, reads: bool, writes: bool) -> usize {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, reads);
        flags.set(PollFlags::POLLOUT, writes);
        self.0.push(PollFd::new(fd, flags));
        self.0.len() - 1
    }

    /// Waits, at most so long (rounded up to a millisecond).
    pub fn wait(mut self, timeout: Option<Duration>) -> PollResult {
        if nix::poll::poll(&mut self.0, rounded_up(timeout)).is_err() {
            return PollResult(Vec::new());
        }
        let events = |polled: &PollFd<'_>| polled.revents().unwrap_or(PollFlags::empty());
        PollResult(self.0.iter().map(events).collect())
    }
}

/// Events of a hang-up: a pipe reports POLLERR, a socket POLLHUP.
pub(super) const HANG_UP: PollFlags =
    PollFlags::POLLHUP.union(PollFlags::POLLERR).union(PollFlags::POLLNVAL);

impl PollResult {
    fn has(&self, at: usize, flags: PollFlags) -> bool {
        self.0.get(at).is_some_and(|events| events.intersects(flags))
    }

    /// Whether there is something to read, or the end of it.
    pub fn readable(&self, at: usize) -> bool {
        self.has(at, PollFlags::POLLIN | HANG_UP)
    }

    /// Whether the other end is gone.
    pub fn hung_up(&self, at: usize) -> bool {
        self.has(at, HANG_UP)
    }
}
