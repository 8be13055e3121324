//! On which processors we may run, and where the kernel works for us: a byte
//! that crosses a terminal does so in one of its unbound workers.

use std::collections::BTreeSet;
use std::fs;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Processors of the unbound workers, as a mask.
const WORKERS: &str = "/sys/devices/virtual/workqueue/cpumask";

/// Concurrency: the parts that can run at the same time as this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// Nothing runs at the same time: one processor for all.
    None,
    /// The kernel's workers; we and our children have one processor.
    Workers,
    /// Everything.
    Everything,
}

impl Concurrency {
    /// The concurrency now (sched_getaffinity(2)); where the kernel does not tell, all
    /// processors of the machine count.
    pub fn now() -> Self {
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
        let all: BTreeSet<usize> = (0..usize::try_from(online).unwrap_or(1)).collect();
        let ours = affinity().unwrap_or_else(|| all.clone());
        let mask = fs::read_to_string(WORKERS).ok();
        let workers = mask.and_then(|mask| members(&mask)).unwrap_or_else(|| all.clone());
        Self::of(all.len(), &ours, &workers)
    }

    fn of(online: usize, ours: &BTreeSet<usize>, workers: &BTreeSet<usize>) -> Self {
        if online < 2 || ours.union(workers).count() < 2 {
            Concurrency::None
        } else if ours.len() < 2 {
            Concurrency::Workers
        } else {
            Concurrency::Everything
        }
    }
}

fn affinity() -> Option<BTreeSet<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    Some((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu) == Ok(true)).collect())
}

/// The members of a mask: hexadecimal, with commas between words.
fn members(mask: &str) -> Option<BTreeSet<usize>> {
    let digits = mask.trim().chars().rev().filter(|digit| *digit != ',');
    let mut members = BTreeSet::new();
    for (index, digit) in digits.enumerate() {
        let bits = digit.to_digit(16)?;
        members.extend((0..4).filter(|bit| bits >> bit & 1 == 1).map(|bit| 4 * index + bit));
    }
    Some(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(members("3\n"), Some([0, 1].into()));
        assert_eq!(members("80000000,00000010\n"), Some([4, 63].into()));
        assert_eq!(members(""), Some([].into()));
        assert_eq!(members("0-1"), None);
    }

    #[test]
    fn who_runs_at_the_same_time() {
        let of = |online, ours: &[usize], workers: &[usize]| {
            Concurrency::of(
                online,
                &ours.iter().copied().collect(),
                &workers.iter().copied().collect(),
            )
        };
        assert_eq!(of(1, &[0], &[0, 1, 2, 3]), Concurrency::None);
        assert_eq!(of(4, &[1], &[1]), Concurrency::None);
        assert_eq!(of(4, &[1], &[0, 1, 2, 3]), Concurrency::Workers);
        assert_eq!(of(4, &[1], &[2]), Concurrency::Workers);
        assert_eq!(of(4, &[1, 2], &[2]), Concurrency::Everything);
    }
}
