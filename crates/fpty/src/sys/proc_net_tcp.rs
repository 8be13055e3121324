//! TCP connections within this machine, as the kernel lists them (proc_net_tcp(5)).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::socket::{SockaddrIn, SockaddrIn6, SockaddrStorage, getpeername, getsockname};
use std::os::fd::{AsFd, AsRawFd};

use super::socket::Stream;

/// A list that took so long to read is good for so many times as long: many
/// who ask it share one, and the reading takes a twentieth of the time.
const REUSE_FACTOR: u32 = 20;

/// The lists, as last read.
#[derive(Default)]
pub struct ProcNetTcp {
    v4: Option<TcpTable>,
    v6: Option<TcpTable>,
}

/// Every socket by its two addresses (`local remote`, as the kernel writes
/// them), and whether a process holds it.
struct TcpTable {
    held: HashMap<Box<str>, bool>,
    until: Instant,
}

impl ProcNetTcp {
    /// Whether a TCP peer that has shut down its writing half has in truth
    /// closed its socket. TCP itself does not tell; but of a peer on this
    /// machine the kernel lists the socket, without an inode once nobody
    /// holds it. Of a peer elsewhere this never says so.
    pub fn peer_has_closed(&mut self, stream: &Stream) -> bool {
        let fd = stream.as_fd().as_raw_fd();
        let (Ok(us), Ok(peer)) =
            (getsockname::<SockaddrStorage>(fd), getpeername::<SockaddrStorage>(fd))
        else {
            return true;
        };
        let (list, path, us, peer) = match (us.as_sockaddr_in(), peer.as_sockaddr_in()) {
            (Some(us), Some(peer)) => (&mut self.v4, "/proc/net/tcp", v4(us), v4(peer)),
            _ => match (us.as_sockaddr_in6(), peer.as_sockaddr_in6()) {
                (Some(us), Some(peer)) => (&mut self.v6, "/proc/net/tcp6", v6(us), v6(peer)),
                _ => return false,
            },
        };
        if list.as_ref().is_none_or(|sockets| Instant::now() >= sockets.until) {
            *list = TcpTable::read(path);
        }
        let Some(sockets) = list else {
            return false;
        };
        let ours = sockets.held.get(format!("{us} {peer}").as_str());
        let theirs = sockets.held.get(format!("{peer} {us}").as_str());
        ours.is_some() && theirs == Some(&false)
    }
}

impl TcpTable {
    fn read(path: &str) -> Option<Self> {
        let begin = Instant::now();
        let text = std::fs::read_to_string(path).ok()?;
        let held = text.lines().filter_map(socket).collect();
        let end = Instant::now();
        Some(Self {
            held,
            until: end + REUSE_FACTOR * (end - begin).min(Duration::from_millis(100)),
        })
    }
}

/// A line of the table: number, local and remote address, state, queues, timer,
/// retransmissions, uid, timeout, inode, ...
fn socket(line: &str) -> Option<(Box<str>, bool)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (fields.next()?, fields.next()?);
    let inode = fields.nth(6)?;
    Some((format!("{local} {remote}").into(), inode != "0"))
}

fn v4(address: &SockaddrIn) -> String {
    let ip = u32::from_ne_bytes(address.ip().octets());
    format!("{ip:08X}:{:04X}", address.port())
}

fn v6(address: &SockaddrIn6) -> String {
    let words: String = address
        .ip()
        .octets()
        .chunks_exact(4)
        .map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
        .collect();
    format!("{words}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel() {
        let line = "   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  \
                    1000        0 81234 1 0000000000000000 20 4 30 10 -1";
        let pair = Box::from("0100007F:1F90 0100007F:9C40");
        assert_eq!(socket(line), Some((pair, true)));
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when";
        assert_eq!(socket(heading), None);
        let closed = line.replace(" 81234 ", " 0 ");
        assert!(socket(&closed).is_some_and(|(_, held)| !held));
    }
}
