//! A client of our own, which shares no code with the product: raw bytes, or
//! the four-byte headers of uwsgi mode. Every wait has a deadline, and every
//! failure shows what was read so far.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{Shutdown, shutdown};

use super::DEADLINE;

/// A connection to a gateway, or a terminal's master: bytes both ways.
pub struct Wire {
    fd: OwnedFd,
    peer: String,
    seen: Vec<u8>,
    /// Up to where `read_until` has looked.
    taken: usize,
    ended: bool,
}

impl Wire {
    /// Connects to a path, to `@name` (the server binds it with the NUL at
    /// its end) or to `host:port`.
    #[track_caller]
    pub fn connect(address: &str) -> Self {
        Self::try_connect(address)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// Connects to an address where nobody may listen.
    pub fn try_connect(address: &str) -> io::Result<Self> {
        let fd: OwnedFd = if let Some(name) = address.strip_prefix('@') {
            let address = SocketAddr::from_abstract_name(format!("{name}\0"))?;
            UnixStream::connect_addr(&address)?.into()
        } else if address.contains(':') {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.into()
        } else {
            UnixStream::connect(address)?.into()
        };
        Ok(Self::over(fd, address))
    }

    /// Takes any descriptor that can be polled.
    pub fn over(fd: OwnedFd, peer: &str) -> Self {
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .expect("a descriptor can be made non-blocking");
        Self { fd, peer: peer.to_owned(), seen: Vec::new(), taken: 0, ended: false }
    }

    /// The descriptor, for what this client has no words for.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Sends all of it.
    #[track_caller]
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        let mut rest = bytes.as_ref();
        let end = Instant::now() + DEADLINE;
        while !rest.is_empty() {
            match nix::unistd::write(&self.fd, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    assert!(
                        Instant::now() < end,
                        "{}: {} bytes cannot be sent; {}",
                        self.peer,
                        rest.len(),
                        self.so_far()
                    );
                    self.poll(PollFlags::POLLOUT, Duration::from_millis(100));
                }
                Err(error) => panic!("{}: cannot send: {error}; {}", self.peer, self.so_far()),
            }
        }
    }

    /// Sends until nothing was taken for `patience`; returns how much went.
    pub fn flood(&self, bytes: &[u8], patience: Duration) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            match nix::unistd::write(&self.fd, &bytes[sent..]) {
                Ok(count) => sent += count,
                Err(Errno::EAGAIN) if self.poll(PollFlags::POLLOUT, patience) => {}
                Err(_) => break,
            }
        }
        sent
    }

    /// Sends input in packets of uwsgi mode.
    #[track_caller]
    pub fn input(&self, bytes: impl AsRef<[u8]>) {
        for piece in bytes.as_ref().chunks(65535) {
            self.send([&header(piece.len() as u16, 0)[..], piece].concat());
        }
    }

    /// Says in uwsgi mode how large the terminal is.
    #[track_caller]
    pub fn resize(&self, rows: u16, cols: u16) {
        self.send([header(rows, 100), header(cols, 101)].concat());
    }

    /// Reads up to and with `marker`; returns what came since the last call.
    #[track_caller]
    pub fn read_until(&mut self, marker: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let found = self.seen[self.taken..]
                .windows(marker.len())
                .position(|window| window == marker.as_bytes());
            if let Some(at) = found {
                let from = self.taken;
                self.taken += at + marker.len();
                return String::from_utf8_lossy(&self.seen[from..self.taken]).into_owned();
            }
            assert!(!self.ended, "{}: ended before {marker:?}; {}", self.peer, self.so_far());
            self.read_more(end, &format!("{marker:?} did not come"));
        }
    }

    /// Reads until `enough` says so of everything read since the connection.
    #[track_caller]
    pub fn read_while(&mut self, what: &str, enough: impl Fn(&[u8]) -> bool) -> &[u8] {
        let end = Instant::now() + 4 * DEADLINE;
        while !enough(&self.seen) {
            assert!(!self.ended, "{}: ended before {what}; {}", self.peer, self.so_far());
            self.read_more(end, what);
        }
        &self.seen
    }

    /// Everything that was read since the connection.
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Reads to the end of the connection; returns everything that ever came.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let end = Instant::now() + 2 * DEADLINE;
        while !self.ended {
            self.read_more(end, "the connection did not end");
        }
        self.seen.clone()
    }

    /// Reads to the end, as text.
    #[track_caller]
    pub fn text_to_end(&mut self) -> String {
        String::from_utf8_lossy(&self.read_to_end()).into_owned()
    }

    /// Waits for the connection to end, be it with a reset.
    #[track_caller]
    pub fn wait_for_end(&mut self) {
        let end = Instant::now() + DEADLINE;
        let mut buffer = [0; 4096];
        loop {
            match nix::unistd::read(&self.fd, &mut buffer) {
                Ok(0) | Err(Errno::ECONNRESET | Errno::EIO) => return,
                Ok(_) => {}
                Err(_) => {
                    self.poll(PollFlags::POLLIN, Duration::from_millis(100));
                }
            }
            assert!(Instant::now() < end, "{}: the connection did not end", self.peer);
        }
    }

    /// Reads what comes first within a time; nothing where nothing comes.
    pub fn read_for(&self, wait: Duration) -> Vec<u8> {
        let mut buffer = vec![0; 65536];
        self.poll(PollFlags::POLLIN, wait);
        let count = nix::unistd::read(&self.fd, &mut buffer).unwrap_or(0);
        buffer.truncate(count);
        buffer
    }

    /// Waits that long for anything to come, or for the end.
    pub fn is_silent_for(&self, wait: Duration) -> bool {
        !self.poll(PollFlags::POLLIN, wait)
    }

    /// Says that no more will be sent.
    pub fn end_of_input(&self) {
        shutdown(self.fd.as_raw_fd(), Shutdown::Write).expect("shut down the writing half");
    }

    /// Has a shell run a command, and returns what the command printed.
    #[track_caller]
    pub fn shell(&mut self, command: &str) -> String {
        // The terminal echoes the line; only the shell joins the words.
        self.send(format!("echo 'be''gin'; {command}; echo 'do''ne'\n"));
        self.read_until("begin\r\n");
        let mut output = self.read_until("done\r\n");
        output.truncate(output.len() - "done\r\n".len());
        output
    }

    /// A shell's own descriptors: its terminal and nothing else. (It opens that
    /// once more for itself, under 10. `ls` needs a system call more than
    /// readlink, which a case may have refused.)
    #[track_caller]
    pub fn assert_only_a_terminal(&mut self, on: &str) {
        let own = self.shell("tty");
        let open = self.shell("readlink /proc/$$/fd/*");
        for to in open.lines() {
            assert!(to.trim() == own.trim() || to.trim() == "/dev/tty", "{on}: {to}: {open}");
        }
        assert!(open.lines().count() >= 3, "{on}: {open:?}");
    }

    #[track_caller]
    fn read_more(&mut self, end: Instant, why: &str) {
        let mut buffer = [0; 65536];
        loop {
            match nix::unistd::read(&self.fd, &mut buffer) {
                // A terminal's master says EIO at its end.
                Ok(0) | Err(Errno::EIO) => self.ended = true,
                Ok(count) => self.seen.extend_from_slice(&buffer[..count]),
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    let rest = end.saturating_duration_since(Instant::now());
                    assert!(!rest.is_zero(), "{}: {why} in time; {}", self.peer, self.so_far());
                    self.poll(PollFlags::POLLIN, rest.min(Duration::from_millis(500)));
                    continue;
                }
                Err(error) => panic!("{}: {why}: {error}; {}", self.peer, self.so_far()),
            }
            return;
        }
    }

    fn poll(&self, events: PollFlags, wait: Duration) -> bool {
        let mut poll = [PollFd::new(self.fd.as_fd(), events)];
        let wait = PollTimeout::try_from(wait).expect("a wait that poll can have");
        nix::poll::poll(&mut poll, wait).is_ok_and(|ready| ready > 0)
    }

    fn so_far(&self) -> String {
        let from = self.seen.len().saturating_sub(2000);
        format!(
            "read {} bytes so far, ending in {:?}",
            self.seen.len(),
            String::from_utf8_lossy(&self.seen[from..])
        )
    }
}

/// A packet's header; modifier1 means nothing.
pub fn header(size: u16, modifier2: u8) -> [u8; 4] {
    let [low, high] = size.to_le_bytes();
    [0, low, high, modifier2]
}

/// A whole input packet.
pub fn input(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let size = u16::try_from(bytes.len()).expect("a packet's worth of input");
    [&header(size, 0)[..], bytes].concat()
}

/// A packet of the extended mode with a payload.
pub fn packet(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&header(payload.len() as u16, kind)[..], payload].concat()
}

/// A pair of the payload of variables.
pub fn variable(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
    [text(name), text(value)].concat()
}
