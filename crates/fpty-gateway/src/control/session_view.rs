//! A session or command with its client, as lists have it.

use std::time::Duration;

use crate::observe::audit::Relayed;
use fpty::sys::child::Pid;
use fpty::sys::pty::Master;
use fpty::sys::socket::Stream;

/// What lists have of one.
pub struct SessionView<'a> {
    /// Its client.
    pub client: &'a Stream,
    /// Where that came in.
    pub door: u16,
    /// Its process, while it runs.
    pub pid: Option<Pid>,
    /// Its terminal, where it has one.
    pub master: Option<&'a Master>,
    /// How long it has been idle, where that is known.
    pub idle: Option<Duration>,
    /// Whether its client has the terminal, or a stream of the command's.
    pub is_handed_over: bool,
    /// Bytes of input and output that came through here; `None`: not all did.
    pub bytes: Relayed,
}
