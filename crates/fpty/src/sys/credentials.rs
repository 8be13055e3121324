//! Credentials and address of the peer of a connection, as the kernel tells them
//! (unix(7), tcp(7)).

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

use nix::sys::socket::{SockaddrStorage, getpeername, getsockopt, sockopt};

use super::child::Pid;
use super::pidfd::PidFd;
use super::procfs;
use super::socket::Stream;

/// The process that connected to a UNIX socket, as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process's id; 0: it is in none of our PID namespaces.
    pub pid: i32,
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
}

/// The user `nobody`, which stands for every user of another user namespace that has no
/// number here (user_namespaces(7), overflowuid of proc(5)).
pub const OVERFLOW_UID: u32 = 65_534;

/// The kernel's value for "nobody has logged in".
const LOGINUID_UNSET: u32 = u32::MAX;

impl Stream {
    /// The credentials of the process that connected (SO_PEERCRED); `None` over TCP.
    pub fn credentials(&self) -> Option<Credentials> {
        let told = getsockopt(self, sockopt::PeerCredentials).ok()?;
        // Of a TCP socket there is something that looks like one.
        let known = told.pid() > 0 || told.uid() != u32::MAX;
        known.then(|| Credentials { pid: told.pid(), uid: told.uid(), gid: told.gid() })
    }

    /// The user of the process that connected to a UNIX socket (SO_PEERCRED, unix(7));
    /// `None` where that cannot be known: over TCP, or of a user namespace in which
    /// that user has no number.
    pub fn peer_uid(&self) -> Option<u32> {
        Some(self.credentials()?.uid).filter(|uid| *uid != u32::MAX && *uid != OVERFLOW_UID)
    }

    /// The groups of whoever has connected, but for that of
    /// [`Stream::credentials`] (SO_PEERGROUPS, Linux 4.13); none over TCP.
    pub fn peer_groups(&self) -> Vec<u32> {
        /// `SO_PEERGROUPS` of asm-generic/socket.h.
        const SO_PEERGROUPS: libc::c_int = 59;
        /// The most groups of a process (credentials(7)).
        const NGROUPS_MAX: usize = 65_536;
        let mut groups: Vec<libc::gid_t> = vec![0; NGROUPS_MAX];
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: writes at most so many bytes there, and how many it has.
        let told = unsafe {
            libc::getsockopt(
                self.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut length,
            )
        };
        let count = if told == 0 { length as usize / size_of::<libc::gid_t>() } else { 0 };
        groups.truncate(count);
        groups
    }

    /// The address of the other end; `None` of a UNIX socket. One of IPv4 is
    /// one, whatever our socket is.
    pub fn peer_address(&self) -> Option<(IpAddr, u16)> {
        let name: SockaddrStorage = getpeername(self.as_fd().as_raw_fd()).ok()?;
        let v4 = || Some(SocketAddr::from(SocketAddrV4::from(*name.as_sockaddr_in()?)));
        let v6 = || Some(SocketAddr::from(SocketAddrV6::from(*name.as_sockaddr_in6()?)));
        let address = v4().or_else(v6)?;
        Some((address.ip().to_canonical(), address.port()))
    }

    /// The process itself (SO_PEERPIDFD, Linux 6.5).
    fn peer_pidfd(&self, pid: Pid) -> Option<PidFd> {
        Some(PidFd::reopened(pid, getsockopt(self, sockopt::PeerPidfd).ok()?))
    }
}

/// The login uid of the last peer. A peer that comes again is not looked up again:
/// while it lives, its process id is its own.
#[derive(Debug, Default)]
pub struct LoginUidCache {
    last: Option<(Credentials, PidFd, Option<u32>)>,
}

impl LoginUidCache {
    /// The login uid of the process that connected, whichever user it is by now
    /// (`/proc/PID/loginuid`, proc(5)); `None`: unknown, or unset.
    pub fn of(&mut self, client: &Stream, peer: Credentials) -> Option<u32> {
        if let Some((last, process, login)) = &self.last {
            if *last == peer && !process.is_over() {
                return *login;
            }
        }
        let pid = Pid::new(peer.pid).filter(|_| procfs::is_own_namespace())?;
        let told = client.peer_pidfd(pid);
        let is_certain = told.is_some();
        // Before Linux 6.5 whoever has its number by now.
        let process = told.or_else(|| PidFd::open(pid))?;
        let login = read_login(peer, is_certain);
        // While it lives the number is no other's.
        if process.is_over() {
            return None;
        }
        self.last = Some((peer, process, login));
        login
    }
}

fn read_login(peer: Credentials, is_certain: bool) -> Option<u32> {
    let mut file = File::open(format!("/proc/{}/loginuid", peer.pid)).ok()?;
    if !is_certain {
        // Of one that may not be inspected it is root's.
        let owner = file.metadata().ok()?.uid();
        if owner != peer.uid && owner != 0 {
            return None;
        }
    }
    let mut text = [0; 16];
    let length = file.read(&mut text).ok()?;
    let text = std::str::from_utf8(&text[..length]).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != LOGINUID_UNSET)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn who_connected_to_a_unix_socket() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let stream = Stream::from(OwnedFd::from(one));
        let peer = stream.credentials().expect("known");
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(peer.gid, nix::unistd::getegid().as_raw());
        assert_eq!(stream.peer_address(), None);
        let own = std::fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
        let own = own.trim().parse().ok().filter(|uid| *uid != LOGINUID_UNSET);
        let mut logins = LoginUidCache::default();
        for _ in 0..3 {
            assert_eq!(logins.of(&stream, peer), own);
        }
        // Nobody's number.
        let nobody = Credentials { pid: 0, ..peer };
        assert_eq!(logins.of(&stream, nobody), None);
    }

    #[test]
    fn over_tcp_there_is_an_address() {
        for (bound, shown) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
            let Ok(listener) = TcpListener::bind(bound) else {
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("there");
            let port = client.local_addr().expect("connected").port();
            let (served, _) = listener.accept().expect("a client");
            let stream = Stream::from(OwnedFd::from(served));
            let (address, from) = stream.peer_address().expect("TCP");
            assert_eq!((address.to_string().as_str(), from), (shown, port));
            assert_eq!(stream.credentials(), None);
        }
    }
}
