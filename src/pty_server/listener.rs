//! Listening sockets of the shared terminal, which what the application forks does not have.

use std::io;

use fpty::sys::private_fd::Private;
use fpty::sys::socket::{ListeningSocket, Stream};
use fpty_gateway::host::Socket;

/// The number of the rules of a socket whose clients only watch.
pub const READONLY: usize = 1;

/// A socket of the shared terminal.
pub struct Listener {
    /// The listening socket.
    pub socket: Private<ListeningSocket>,
    /// Whether its clients only watch.
    pub readonly: bool,
}

impl Listener {
    /// The listening socket that the server has bound.
    pub fn of(socket: &Socket) -> Self {
        Self { socket: Private::of(socket.listener), readonly: socket.rules == READONLY }
    }
}

/// Accepts a connection, which no process that the application forks inherits: it would
/// hold the connection open. `None`: none is waiting.
///
/// # Errors
/// As accept(2).
pub fn accept(listener: &ListeningSocket) -> io::Result<Option<Private<Stream>>> {
    Private::open(|| listener.accept().map(|accepted| accepted.map(|(stream, _)| stream)))
}
