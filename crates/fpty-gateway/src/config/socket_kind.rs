//! Kinds of sockets, and which keys of a socket mean something at each of them.

use super::option_table::AppliesTo;
use fpty::sys::socket::Transport;

/// The kind of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// A UNIX socket that has a path.
    Path,
    /// A UNIX socket with an abstract name.
    Abstract,
    /// TCP.
    Tcp,
    /// A socket that was bound by another process: `fd://N`, `=N`, a zerg server. Its
    /// transport is known when it has been looked at.
    Passed(Option<Transport>),
}

impl SocketKind {
    /// Why a key that applies to such sockets means nothing at this kind.
    pub(crate) fn mismatch(self, at: AppliesTo) -> Option<&'static str> {
        use SocketKind::{Abstract, Passed, Path, Tcp};
        match (at, self) {
            (AppliesTo::Path, Abstract) => Some(
                "an abstract socket has neither mode nor owner: it is for everybody who is not \
                 kept out by allow_user, allow_group",
            ),
            (AppliesTo::Path, Passed(_)) => {
                Some("whoever has bound the socket gives it its mode and owner")
            }
            (AppliesTo::Path, Tcp) => Some("only a UNIX socket has users"),
            (AppliesTo::Unix, Tcp | Passed(Some(Transport::Tcp))) => {
                Some("only a UNIX socket knows users")
            }
            (AppliesTo::Tcp, Path | Abstract | Passed(Some(Transport::Unix))) => {
                Some("only a TCP socket knows addresses")
            }
            _ => None,
        }
    }
}
