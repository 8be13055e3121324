//! Two descriptors that outlive a reload of the instance, in which the master
//! executes itself anew: both ends of a connection, by which the gateways
//! reach what keeps their sessions (router/left/holder.rs).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use once_cell::sync::OnceCell;

use super::{inherited, proof};
use fpty::sys::socket::Stream;

/// Both numbers, and whether the other end is used, for the server that comes
/// after a reload.
const VARIABLE: &str = "FORKPTYROUTER_KEPT";

/// What lives as long as the master.
pub struct Outlives {
    ours: OwnedFd,
    theirs: OwnedFd,
    /// How many processes have had the other end so far.
    count: &'static AtomicI32,
}

static OUTLIVES: OnceCell<Outlives> = OnceCell::new();

/// Takes what a server before a reload has left, where there is any use for
/// it, or makes it anew. In the master, before it forks gateways.
pub fn reserve(wanted: bool) {
    let left = take();
    if !wanted && !left.as_ref().is_some_and(|(.., is_used)| *is_used) {
        return;
    }
    let is_used = left.as_ref().is_some_and(|(.., is_used)| *is_used);
    let pair = left.map(|(ours, theirs, _)| (ours, theirs)).or_else(|| {
        // Whoever keeps sessions asks who says hello.
        let (ours, theirs) = Stream::pair_that_tells().ok()?;
        Some((OwnedFd::from(ours), OwnedFd::from(theirs)))
    });
    let (Some((ours, theirs)), Some(count)) = (pair, proof::keepers()) else {
        return;
    };
    match is_used {
        true => _ = count.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire),
        false => count.store(0, Ordering::Release),
    }
    for fd in [&ours, &theirs] {
        inherited::by_gateways_only(fd.as_fd());
    }
    let _ = OUTLIVES.set(Outlives { ours, theirs, count });
}

/// The descriptors, and whether somebody has had the other end.
fn take() -> Option<(OwnedFd, OwnedFd, bool)> {
    let text = std::env::var(VARIABLE).ok()?;
    // SAFETY: the start of a server is on its only thread.
    unsafe { std::env::remove_var(VARIABLE) };
    let mut numbers = text.split(',').map(|number| number.parse::<RawFd>().ok());
    let (one, other) = (numbers.next()??, numbers.next()??);
    // A server before this had it only where it was used.
    let is_used = numbers.next() != Some(Some(0));
    if one == other || !is_one(one) || !is_one(other) {
        return None;
    }
    for number in [one, other] {
        // SAFETY: fcntl(2) with a flag.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // SAFETY: they were left by who was in this process before us, for us.
    unsafe { Some((OwnedFd::from_raw_fd(one), OwnedFd::from_raw_fd(other), is_used)) }
}

/// Whether there is such a connection under a number, above the standard ones.
fn is_one(number: RawFd) -> bool {
    use nix::sys::socket::{SockType, getsockopt, sockopt};
    // SAFETY: if it is not open the next call says so.
    let fd = unsafe { BorrowedFd::borrow_raw(number.max(3)) };
    number > 2 && getsockopt(&fd, sockopt::SockType) == Ok(SockType::SeqPacket)
}

/// The master may be about to execute itself.
pub fn before_exec() {
    let Some(outlives) = OUTLIVES.get() else {
        return;
    };
    for fd in [&outlives.ours, &outlives.theirs] {
        // SAFETY: fcntl(2) without a flag.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) };
    }
    let (ours, theirs) = (outlives.ours.as_raw_fd(), outlives.theirs.as_raw_fd());
    let count = outlives.count().load(std::sync::atomic::Ordering::Acquire);
    let numbers = format!("{ours},{theirs},{}", i32::from(count != 0));
    // SAFETY: the master is at its end, and starts no threads any more.
    unsafe { std::env::set_var(VARIABLE, numbers) };
}

/// What lives as long as the master, where it was asked for.
pub fn get() -> Option<&'static Outlives> {
    OUTLIVES.get()
}

impl Outlives {
    /// A copy of our end.
    pub fn ours(&self) -> Option<Stream> {
        self.ours.try_clone().ok().map(Stream::from)
    }

    /// A copy of the other end.
    pub fn theirs(&self) -> Option<OwnedFd> {
        self.theirs.try_clone().ok()
    }

    /// How many processes have had the other end so far; shared by all
    /// gateways.
    pub fn count(&self) -> &'static AtomicI32 {
        self.count
    }
}
