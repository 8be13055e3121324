//! The identity of a process, stored for a later process: its id, and a proof that the
//! id is still its own.

use nix::time::{ClockId, clock_gettime};

use super::child::Pid;
use super::pidfd::PidFd;
use super::procfs;

/// A number is below 4 194 304 (PID_MAX_LIMIT in include/linux/threads.h).
const PID_BITS: u32 = 22;
/// Two bits for the user of an identity; see [`ProcessIdentity::to_bits`].
const FREE_BIT: u32 = PID_BITS;
const INODE_BIT: u32 = FREE_BIT + 2;
const PROOF_BITS: u32 = INODE_BIT + 1;

/// Proof that a process id still means the noted process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// The process ran at this time (ticks since boot, as in proc(5)'s stat): whoever
    /// gets the id after it starts later.
    StartedBefore(u64),
    /// The process's inode in pidfs, or so much of it as there is room for; for a jail
    /// without /proc.
    Inode(u64),
}

/// A process that ran when it was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessIdentity {
    pid: Pid,
    proof: Proof,
}

impl ProcessIdentity {
    /// A child of ours that was not reaped: it costs no system call where there
    /// is a /proc. `None`: there is nothing to know it by later.
    pub fn running(pid: Pid) -> Option<Self> {
        let proof = match procfs::is_own_namespace() {
            true => Proof::StartedBefore(ticks_since_boot()?),
            false => Proof::Inode(truncated(PidFd::open(pid)?.inode()?)),
        };
        Some(Self { pid, proof })
    }

    /// The process that got this id within a second after this time (of
    /// [`ticks_since_boot`]; 0: it is not known), where that can be proved.
    pub fn begun_at(pid: Pid, ticks: u64) -> Option<Self> {
        let ran_at = ticks.checked_add(procfs::ticks_per_second()?)?;
        (ticks > 0 && procfs::is_own_namespace())
            .then_some(Self { pid, proof: Proof::StartedBefore(ran_at) })
    }

    /// The process id, as long as the process was not reaped.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Encodes the identity in one word, which is never 0 and has two bits free, those of
    /// [`ProcessIdentity::MARK`] and [`ProcessIdentity::OTHER_MARK`].
    pub fn to_bits(self) -> u64 {
        let (is_inode, proof) = match self.proof {
            Proof::StartedBefore(ticks) => (0, truncated(ticks)),
            Proof::Inode(inode) => (1 << INODE_BIT, inode),
        };
        proof << PROOF_BITS | is_inode | u64::from(self.pid.as_raw().unsigned_abs())
    }

    /// The first free bit of the word.
    pub const MARK: u64 = 1 << FREE_BIT;
    /// The second free bit of the word.
    pub const OTHER_MARK: u64 = 1 << (FREE_BIT + 1);

    /// The identity that was stored in a word, whatever its marks.
    pub fn of_bits(bits: u64) -> Option<Self> {
        // Bits that fit.
        let pid = Pid::new((bits & ((1 << PID_BITS) - 1)) as i32)?;
        let proof = bits >> PROOF_BITS;
        let proof = match bits & (1 << INODE_BIT) {
            0 => Proof::StartedBefore(proof),
            _ => Proof::Inode(proof),
        };
        Some(Self { pid, proof })
    }

    /// Whether this identity is that of a process that was opened under its number.
    pub(super) fn is(&self, pidfd: &PidFd) -> bool {
        match self.proof {
            Proof::Inode(inode) => pidfd.inode().map(truncated) == Some(inode),
            // The time is that of a number: it has to be the descriptor's still.
            Proof::StartedBefore(_) => self.has_begun() && pidfd.has_its_number(),
        }
    }

    /// Whether whoever has the number has begun before it was noted.
    pub(super) fn has_begun(&self) -> bool {
        let Proof::StartedBefore(ran_at) = self.proof else {
            return false;
        };
        procfs::number(self.pid, 22).is_some_and(|started: u64| started <= ran_at)
    }
}

/// A number, cut to the room there is: 174 years, or more processes than there are
/// until the next boot.
fn truncated(number: u64) -> u64 {
    number & (u64::MAX >> PROOF_BITS)
}

/// The present, in the ticks of proc(5)'s stat.
pub fn ticks_since_boot() -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    let per_second = procfs::ticks_per_second()?;
    let (seconds, rest) = (u64::try_from(now.tv_sec()).ok()?, u64::try_from(now.tv_nsec()).ok()?);
    Some(seconds * per_second + rest * per_second / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_word_is_read_as_it_was_written() {
        for proof in [Proof::StartedBefore(1), Proof::Inode(u64::MAX >> PROOF_BITS)] {
            for pid in [2, 4_194_303] {
                let noted = ProcessIdentity { pid: Pid::new(pid).expect("above 1"), proof };
                let bits = noted.to_bits();
                let marks = ProcessIdentity::MARK | ProcessIdentity::OTHER_MARK;
                assert_eq!(bits & marks, 0);
                assert_eq!(ProcessIdentity::of_bits(bits), Some(noted));
                assert_eq!(ProcessIdentity::of_bits(bits | marks), Some(noted));
            }
        }
        assert_eq!((ProcessIdentity::of_bits(0), ProcessIdentity::of_bits(1)), (None, None));
    }

    #[test]
    fn whoever_has_its_number_later_is_another() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a child");
        let pid = Pid::new(child.id() as i32).expect("above 1");
        let pidfd = PidFd::open(pid).expect("it runs");
        let noted = ProcessIdentity::running(pid).expect("noted");
        assert!(noted.is(&pidfd) && noted.has_begun());
        let Proof::StartedBefore(ticks) = noted.proof else {
            panic!("there is a /proc");
        };
        let earlier =
            ProcessIdentity { pid, proof: Proof::StartedBefore(ticks.saturating_sub(100)) };
        assert!(!earlier.is(&pidfd) && !earlier.has_begun());
        if let Some(inode) = pidfd.inode() {
            let noted = ProcessIdentity { pid, proof: Proof::Inode(truncated(inode)) };
            let other = ProcessIdentity { pid, proof: Proof::Inode(truncated(inode) ^ 1) };
            assert!(noted.is(&pidfd) && !other.is(&pidfd));
        }
        child.kill().expect("a child");
        child.wait().expect("a child");
        assert!(!noted.is(&pidfd));
    }
}
