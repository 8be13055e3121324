//! The server that a gateway runs in, as the gateway sees it: all that it needs of
//! uWSGI, or of a test.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use once_cell::sync::OnceCell;

use fpty::error::Result;
use fpty::proto::Protocol;
use fpty::sys::socket::ListeningSocket;

/// A socket of the server's that a gateway accepts connections from.
pub struct Socket {
    /// The listening socket.
    pub listener: ListeningSocket,
    /// The role of the socket: the service for its clients.
    pub role: SocketRole,
    /// The socket's address, as the server names it; bytes that are not UTF-8 as U+FFFD.
    pub name: String,
    /// The number of the socket's rules in the configuration.
    pub rules: usize,
}

/// Role of a socket: the service for its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketRole {
    /// A terminal, by this protocol.
    Terminal(Protocol),
    /// The statistics.
    Statistics,
}

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// The metric only grows.
    Counter,
    /// The metric goes up and down.
    Gauge,
}

/// Descriptors that were kept over an exec, and the note beside them.
pub type KeptSockets = (Vec<OwnedFd>, OsString);

/// A server that gateways run in. What has a body here is what a server does without it: one
/// that has no name, no log but standard error, no metrics, no watchdog, never executes itself,
/// and forks nothing but gateways.
pub trait Host: Sync {
    /// The server's version.
    fn version(&self) -> &str;

    /// The name of the instance: a name, or the path of its configuration.
    fn instance(&self) -> Option<String> {
        None
    }

    /// The shell for commands with a blank.
    fn shell(&self) -> CString {
        c"/bin/sh".to_owned()
    }

    /// Writes one line to the server's log. Whether the log takes one is asked of
    /// standard error before, see [`crate::log`].
    fn write_log(&self, line: &str) {
        fpty::sys::stdio::say(line);
    }

    /// Bytes that one packet for the log may hold, where lines go in packets.
    fn log_packet_size(&self) -> Option<usize> {
        None
    }

    /// Whether the statistics are asked for by HTTP on their own socket.
    fn statistics_by_http(&self) -> bool {
        false
    }

    /// The sockets that are bound, for a gateway that begins.
    ///
    /// # Errors
    /// A descriptor is no listening socket.
    fn sockets(&self) -> Result<Vec<Socket>>;

    /// Has the server show a number in shared memory among its own metrics.
    fn export_metric(&self, name: &'static CStr, kind: MetricKind, number: &'static AtomicU64) {
        let _ = (name, kind, number);
    }

    /// Marks a descriptor of the master's that gateways inherit, and nothing else
    /// that the master forks or executes. The server does not close it.
    fn inherited_by_gateways_only(&self, fd: BorrowedFd<'_>) {
        let _ = fd;
    }

    /// Keeps descriptors, with a note, for the next image of the server: the last thing
    /// before the master executes itself.
    fn keep_over_exec(&self, name: &str, fds: &[BorrowedFd<'_>], note: &OsStr) {
        let _ = (name, fds, note);
    }

    /// Takes sockets that the image before this one has kept.
    fn take_kept_sockets(&self, name: &str) -> Option<KeptSockets> {
        let _ = name;
        None
    }

    /// Takes memory that the image before this one has kept (memfd_create(2)).
    fn take_kept_memory(&self, name: &str) -> Option<(OwnedFd, OsString)> {
        let _ = name;
        None
    }

    /// Whether the instance stops for good; asked by the master at its end.
    fn is_stopping(&self) -> bool {
        true
    }

    /// The gateway has work: a watchdog of the server may kill it if that takes too long.
    fn arm_watchdog(&self) {}

    /// The gateway is about to wait, for any time.
    fn disarm_watchdog(&self) {}

    /// Ends this process as the server's processes end.
    fn exit(&self, status: i32) -> !;
}

static HOST: OnceCell<&'static dyn Host> = OnceCell::new();

/// Says which server this process belongs to: once, before anything else of this crate.
pub fn set(host: &'static dyn Host) {
    let _ = HOST.set(host);
}

/// The server of this process.
pub fn host() -> &'static dyn Host {
    match HOST.get() {
        Some(host) => *host,
        None => &Nobody,
    }
}

/// Server where none was named: for unit tests of parts.
struct Nobody;

impl Host for Nobody {
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn sockets(&self) -> Result<Vec<Socket>> {
        Ok(Vec::new())
    }

    fn exit(&self, status: i32) -> ! {
        std::process::exit(status)
    }
}
