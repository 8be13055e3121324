//! A terminal that others have copies of, or had: none of our calls on it can
//! wait, whatever they do to it.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Master;
use crate::sys::fd_query::{self, IoctlFlag};
use crate::sys::syscall_timeout::{self, ArmedTimer};

/// A call may be ended by chance: after a while that is forgotten. (Seconds.)
const STRIKE_PERIOD: i64 = 8;

/// Blocked calls within a period from which on it is no chance.
const MAX_STRIKES: u8 = 16;

impl Master {
    /// Marks the master as shared: another process gets a copy. (A master that was sent
    /// back is shared from the first moment, see [`Master::returned`].)
    pub fn share(&mut self) {
        self.shared = true;
    }

    /// Whether another process has a copy, or had one.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether a process with a copy has made our calls block: the terminal is not read
    /// and not written any more.
    pub fn is_stalled(&self) -> bool {
        self.strikes.get() >= MAX_STRIKES
    }

    /// For several calls in a row on a terminal that others have: arms once. No
    /// system call for one that is ours alone.
    #[inline]
    pub fn arm(&self) -> Option<ArmedTimer> {
        self.shared.then(syscall_timeout::arm)
    }

    /// Takes the master back from another process: what that has set and our reads and
    /// writes do not expect is undone (O_NONBLOCK; the packet mode of ioctl_tty(2), in
    /// which each read begins with a byte of its own).
    pub fn take_back(&self) {
        self.set_nonblocking();
        let _ = fd_query::switch(self, IoctlFlag::PACKETS, false);
    }

    /// Makes a read or a write that a timer ends where it blocks. By that a process that
    /// has cleared O_NONBLOCK since we set it is told from a slow machine; the process
    /// may have set it again, so a call that was ended counts in any case. (A read or
    /// write in part proves nothing: that is as ever.)
    ///
    /// # Errors
    /// As of the call; EAGAIN: it would block.
    #[cold]
    pub(super) fn interruptible(
        &self,
        call: impl FnOnce() -> nix::Result<usize>,
    ) -> nix::Result<usize> {
        if self.is_stalled() {
            return Err(Errno::EAGAIN);
        }
        self.set_nonblocking();
        let armed = syscall_timeout::arm();
        let result = call();
        if armed.has_fired() {
            let flags = fcntl(&self.fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
            if flags.is_ok_and(|flags| !flags.contains(OFlag::O_NONBLOCK)) {
                self.strikes.set(MAX_STRIKES);
            } else if result == Err(Errno::EINTR) {
                self.strike();
            }
        }
        result
    }

    fn strike(&self) {
        // It comes round after half an hour.
        let period = (crate::sys::unix_time() / STRIKE_PERIOD) as u8;
        if self.period.replace(period) != period {
            self.strikes.set(0);
        }
        self.strikes.set(self.strikes.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{ReadOutcome, Size, WriteOutcome, pty};
    use nix::unistd::ForkResult;
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    /// In a process of its own, which alone gets the signal.
    fn alone(body: impl FnOnce() -> bool) {
        // SAFETY: the child makes a few system calls, and ends.
        match unsafe { nix::unistd::fork() }.unwrap() {
            ForkResult::Child => {
                let holds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
                // SAFETY: ends without the test's exit handlers.
                unsafe { libc::_exit(i32::from(!holds.unwrap_or(false))) };
            }
            ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
    }

    fn clear(master: &Master) {
        let _ = fcntl(master, FcntlArg::F_SETFL(OFlag::O_RDWR));
    }

    fn opened() -> (Master, pty::Slave) {
        let (mut master, slave) = pty::open(Size { rows: 24, cols: 80 }).unwrap();
        master.share();
        (master, slave)
    }

    /// Another process clears O_NONBLOCK between two system calls of ours.
    #[test]
    fn nothing_waits_for_a_terminal_that_others_have() {
        alone(|| {
            let (master, _slave) = opened();
            let begin = Instant::now();
            // We have set it before.
            clear(&master);
            let read = master.read(&mut [0; 100]);
            let cleared = master.interruptible(|| {
                clear(&master);
                nix::unistd::read(&master.fd, &mut [0; 100])
            });
            let later = (master.read(&mut [0; 100]), master.write(b"x"));
            read == ReadOutcome::WouldBlock
                && cleared == Err(Errno::EINTR)
                && master.is_stalled()
                && later == (ReadOutcome::WouldBlock, WriteOutcome::WouldBlock)
                && begin.elapsed() < Duration::from_secs(5)
        });
    }

    /// The other process may set it again before we look.
    #[test]
    fn who_does_it_again_and_again_is_found_out() {
        alone(|| {
            let (master, _slave) = opened();
            let mut rounds = 0;
            while !master.is_stalled() && rounds < 10 * MAX_STRIKES {
                rounds += 1;
                let _ = master.interruptible(|| {
                    clear(&master);
                    let read = nix::unistd::read(&master.fd, &mut [0; 100]);
                    master.set_nonblocking();
                    read
                });
            }
            // A new period may begin meanwhile.
            (MAX_STRIKES..=2 * MAX_STRIKES).contains(&rounds)
        });
    }

    #[test]
    fn a_slow_machine_is_no_offence() {
        alone(|| {
            let (master, slave) = opened();
            for round in 0..2 * MAX_STRIKES {
                // Less than there is room for, or nothing.
                if round % 2 == 0 {
                    let _ = nix::unistd::write(slave.as_fd(), b"output");
                }
                let _ = master.interruptible(|| {
                    std::thread::sleep(Duration::from_millis(3));
                    nix::unistd::read(&master.fd, &mut [0; 100])
                });
            }
            !master.is_stalled()
        });
    }
}
