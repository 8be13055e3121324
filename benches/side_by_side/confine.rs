//! Everything on one processor: this program, the servers and their children
//! by inheritance, and the kernel's own workers where we may.
//!
//! A byte that crosses a terminal wakes a worker of the kernel. In a virtual
//! machine a wake-up on another processor costs some thirty times one on the
//! same, and chance decides which it is.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Result;

/// Where the kernel keeps which processors its unbound workers may use.
const WORKERS: &str = "/sys/devices/virtual/workqueue/cpumask";

/// The processors are as they were when this ends.
pub struct Confined {
    guard: Option<Child>,
}

impl Confined {
    /// Confines this process and all that it starts to one processor.
    pub fn to_one_processor(wanted: Option<usize>) -> Result<Self> {
        let cpu = match wanted {
            Some(cpu) => cpu,
            None => last_processor()?,
        };
        let guard = confine_workers(cpu);
        confine_this_process(cpu)?;
        eprintln!(
            "everything on processor {cpu}, the kernel's unbound workers {}",
            if guard.is_some() { "too, until the end" } else { "anywhere (not ours to say)" }
        );
        Ok(Self { guard })
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

/// The last processor that this process may use.
fn last_processor() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last = list.and_then(|list| list.rsplit([',', '-']).next());
    Ok(last.ok_or("no Cpus_allowed_list in /proc/self/status")?.trim().parse()?)
}

fn confine_this_process(cpu: usize) -> Result<()> {
    if cpu >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(format!("no processor {cpu}").into());
    }
    // SAFETY: a set of bits, for which all zeros is a value; the number lies
    // in it, and the size is the set's.
    let failed = unsafe {
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut one);
        libc::sched_setaffinity(0, size_of_val(&one), &one) < 0
    };
    if failed {
        return Err(format!("processor {cpu}: {}", std::io::Error::last_os_error()).into());
    }
    Ok(())
}

/// Confines the workers, and starts a process that lets them go again when we
/// end, however that happens.
fn confine_workers(cpu: usize) -> Option<Child> {
    let before = fs::read_to_string(WORKERS).ok()?;
    let mut file = fs::OpenOptions::new().write(true).open(WORKERS).ok()?;
    let guard = Command::new("/bin/sh")
        .args(["-c", "trap '' HUP INT TERM; read -r nothing; echo \"$1\" >\"$2\"", "sh"])
        .args([before.trim(), WORKERS])
        .stdin(Stdio::piped())
        .spawn()
        .ok()?;
    let confined = Confined { guard: Some(guard) };
    // The mask is written in words of 32 processors, the highest first.
    let mut mask = format!("{:x}", 1u32 << (cpu % 32));
    for _ in 0..cpu / 32 {
        mask.push_str(",00000000");
    }
    file.write_all(mask.as_bytes()).ok()?;
    let mut confined = confined;
    confined.guard.take()
}

/// A thousand sessions want more than the usual thousand descriptors.
pub fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}
