//! A session or command with its client, as lists have it.

use std::time::Duration;

use crate::observe::audit::ByteTotals;
use fpty::sys::child::Pid;
use fpty::sys::pty::Master;
use fpty::sys::socket::Stream;

/// The view of an attached session, for lists.
pub struct SessionView<'a> {
    /// The client.
    pub client: &'a Stream,
    /// The listener.
    pub listener: u16,
    /// The program's pid, while it runs.
    pub pid: Option<Pid>,
    /// The terminal's master, where there is one.
    pub master: Option<&'a Master>,
    /// The idle time, where it is known.
    pub idle: Option<Duration>,
    /// Whether the terminal, or a stream of the command, was handed over.
    pub is_handed_over: bool,
    /// Bytes of input and output that were relayed; `None`: not all were.
    pub bytes: ByteTotals,
}
