//! A processor's tick, the timer interrupt that it stops when it is idle.
//!
//! What it brings (docs/performance.md): an echo on two processors takes 59 us instead of
//! 80, and the gateway 17 us of processor time instead of 21. What it costs: a pipe that
//! is opened and closed every 2 ms, and only in a quick exchange (`tick_policy.rs` of the
//! gateway), never while a person types. Without this file nothing else changes.

use super::splice_pipe::Pipe;

/// Lets this processor keep its tick for some milliseconds, idle or not; takes
/// a few microseconds.
///
/// An idle processor stops its tick, and starts it when it wakes up
/// (`CONFIG_NO_HZ_IDLE`). A virtual machine's does so in the shortest pause: its
/// idle governor does not guess how long one lasts, as others do. Each time the
/// timer is set, which leaves the machine. A processor that has an RCU
/// callback to run keeps its tick (`tick_nohz_next_event` in the kernel's
/// kernel/time/tick-sched.c), and a pipe that closes leaves one, for its inode
/// (`destroy_inode` in fs/inode.c). A kernel that does otherwise loses nothing.
pub fn keep_running() {
    drop(Pipe::new());
}
