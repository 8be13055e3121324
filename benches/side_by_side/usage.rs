//! Resources that processes have used.

use std::fs;
use std::time::Duration;

use super::Result;

/// The processor time of these processes so far, to the nanosecond
/// (clock_getcpuclockid(3)).
pub fn cpu(pids: &[i32]) -> Result<Duration> {
    pids.iter().map(|pid| cpu_of(*pid)).sum()
}

fn cpu_of(pid: i32) -> Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the first call writes one clockid_t, the second one timespec.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid, &mut clock) != 0
            || libc::clock_gettime(clock, &mut time) != 0
    };
    if failed {
        return Err(format!("the gateway {pid} is gone").into());
    }
    Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
}

/// The private memory of these processes that they have written to, in
/// bytes (proc_pid_smaps(5)).
pub fn private_memory(pids: &[i32]) -> Result<u64> {
    pids.iter().map(|pid| private_memory_of(*pid)).sum()
}

/// The memory of a process that is in no file and shared with nobody, in bytes
/// (proc_pid_status(5)).
pub fn anonymous_memory(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|rest| rest.split_ascii_whitespace().next());
    Ok(kilobytes.ok_or("no RssAnon in status")?.parse::<u64>()? * 1024)
}

fn private_memory_of(pid: i32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kilobytes: u64 = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .ok_or("no Private_Dirty in smaps_rollup")?
        .parse()?;
    Ok(kilobytes * 1024)
}
