//! A client that leaves its session and comes back, by the protocol's reference
//! alone. It takes what it is offered, and can be lost in every way.

use std::cell::Cell;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::wire::{header, input, packet, variable};
use super::{DEADLINE, Server, Wire};

const HELLO: u8 = 102;
const VARIABLES: u8 = 103;
const REQUEST: u8 = 105;
const TAKEN: u8 = 108;
const DETACH: u8 = 109;
const ENDED: u8 = 110;
const NOTICE: u8 = 111;
const OFFER: u8 = 112;
const GO: u8 = 113;

/// Time that the gateway gives a hello on a UNIX socket.
const HELLO_TIMEOUT: Duration = Duration::from_millis(50);

/// End of a session as the client is told: kind, value, text.
pub type End = (u8, u8, String);

/// The client.
pub struct AttachClient {
    pub stream: UnixStream,
    bytes: Vec<u8>,
    arrived: Vec<OwnedFd>,
    /// Output that was relayed.
    pub output: Vec<u8>,
    pub notices: Vec<String>,
    /// The gateway speaks the extended mode.
    agreed: bool,
    pub end: Option<End>,
    /// The names of what was offered last.
    pub offer: String,
    pub go: Option<Vec<u8>>,
    over: bool,
    /// The terminal, where it was handed over.
    pub master: Option<Wire>,
    pub ring: Option<OwnedFd>,
}

impl AttachClient {
    /// Begins a session that it can leave.
    #[track_caller]
    pub fn begins(server: &Server, variables: &[(&str, &str)]) -> Self {
        let all = [&[("fpty.detach", "1"), ("fpty.take", "1")], variables].concat();
        Self::connects(server, "u", None, &all)
    }

    /// Asks for a session: its id, or name.
    #[track_caller]
    pub fn comes(server: &Server, which: &str, variables: &[(&str, &str)]) -> Self {
        let all = [&[("fpty.detach", "1"), ("fpty.take", "1")], variables].concat();
        Self::connects(server, "u", Some(which), &all)
    }

    #[track_caller]
    pub fn connects(
        server: &Server,
        socket: &str,
        which: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Self {
        let mut client = Self::calls(server, socket);
        client.asks(which, variables);
        client
    }

    /// Connects, and says hello. Where that took so long that the gateway has begun without
    /// it, another connection is made, as real clients do.
    #[track_caller]
    pub fn calls(server: &Server, socket: &str) -> Self {
        loop {
            let begun = Instant::now();
            let mut client = Self::says_hello(server, socket);
            if begun.elapsed() < HELLO_TIMEOUT || !client.closes_without_hello() {
                return client;
            }
        }
    }

    #[track_caller]
    fn says_hello(server: &Server, socket: &str) -> Self {
        let stream = UnixStream::connect(server.path(socket)).expect("the gateway listens");
        let mut client = Self {
            stream,
            bytes: Vec::new(),
            arrived: Vec::new(),
            output: Vec::new(),
            notices: Vec::new(),
            agreed: false,
            end: None,
            offer: String::new(),
            go: None,
            over: false,
            master: None,
            ring: None,
        };
        client.say(&header(1, HELLO));
        client
    }

    /// Whether the gateway closes without a hello; one that says nothing is not waited for.
    fn closes_without_hello(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(1);
        while !self.agreed && !self.over && Instant::now() < end {
            self.read();
        }
        self.over && !self.agreed
    }

    /// Waits until the gateway has said hello, too.
    #[track_caller]
    pub fn agrees(mut self) -> Self {
        self.waits("a hello", |client| client.agreed);
        self
    }

    /// Says what it wants.
    pub fn asks(&mut self, which: Option<&str>, variables: &[(&str, &str)]) {
        let mut said = [header(24, 100), header(80, 101)].concat();
        if let Some(which) = which {
            said.extend(packet(REQUEST, format!("a{which}").as_bytes()));
        }
        for (name, value) in variables {
            said.extend(packet(VARIABLES, &variable(name, value)));
        }
        said.extend(packet(VARIABLES, &[]));
        self.say(&said);
    }

    /// Lost or refused, nothing of it matters.
    pub fn say(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Waits for an offer, or for the session's end instead.
    #[track_caller]
    pub fn gets_an_answer(&mut self) {
        self.waits("an answer", |client| client.end.is_some() || !client.offer.is_empty());
    }

    /// Takes the offer, and waits for the word to go on.
    #[track_caller]
    pub fn takes(mut self) -> Self {
        self.waits("an offer", |client| !client.offer.is_empty());
        self.say(&packet(TAKEN, &[]));
        self.waits("the word to go on", |client| client.go.is_some());
        let names = std::mem::take(&mut self.offer);
        assert_eq!(names.len(), self.arrived.len(), "{names}");
        for (name, fd) in names.bytes().zip(std::mem::take(&mut self.arrived)) {
            match name {
                b'm' => self.master = Some(Wire::over(fd, "the terminal")),
                b'r' => self.ring = Some(fd),
                _ => {}
            }
        }
        self.offer = names;
        self
    }

    /// Takes the terminal, and waits until the shell is at its prompt.
    #[track_caller]
    pub fn at_the_prompt(self) -> Self {
        let mut client = self.takes();
        client.terminal().send("\n");
        client.terminal().read_until("$ ");
        client
    }

    /// Has the terminal that is offered, and does not say so.
    #[track_caller]
    pub fn keeps_silent(&mut self) -> OwnedFd {
        self.waits("an offer", |client| !client.offer.is_empty());
        assert!(self.offer.starts_with('m'), "{}", self.offer);
        self.arrived.remove(0)
    }

    /// The terminal.
    #[track_caller]
    pub fn terminal(&mut self) -> &mut Wire {
        self.master.as_mut().expect("the terminal was handed over")
    }

    /// Asks to leave; the session's id.
    #[track_caller]
    pub fn leaves(mut self) -> String {
        self.say(&packet(DETACH, &[]));
        self.waits("an answer", |client| client.end.is_some() || !client.notices.is_empty());
        match self.end {
            Some((9, 0, id)) => id,
            other => panic!("{other:?} {:?}", self.notices),
        }
    }

    /// Asks to leave, and may not: why.
    #[track_caller]
    pub fn stays(&mut self) -> String {
        self.notices.clear();
        self.say(&packet(DETACH, &[]));
        self.waits("an answer", |client| client.end.is_some() || !client.notices.is_empty());
        assert_eq!(self.end, None);
        self.notices.remove(0)
    }

    /// Ends the session.
    pub fn ends_it(&mut self) {
        self.say(&packet(DETACH, b"."));
    }

    /// The end of the session.
    #[track_caller]
    pub fn ended(&mut self) -> End {
        self.waits("the end", |client| client.end.is_some());
        self.end.clone().expect("just seen")
    }

    /// Whether its connection is over, be its end told or not.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Types where the terminal was not handed over.
    pub fn types(&mut self, text: &str) {
        self.say(&input(text));
    }

    /// Waits until this text was relayed.
    #[track_caller]
    pub fn sees(&mut self, text: &str) {
        // Of a flood each byte is looked at once.
        let from = Cell::new(0);
        self.waits(text, |client| {
            let fresh = &client.output[from.get()..];
            from.set(client.output.len().saturating_sub(text.len()));
            fresh.windows(text.len()).any(|window| window == text.as_bytes())
        });
    }

    /// Content of the ring, as text.
    #[track_caller]
    pub fn kept(&self) -> String {
        kept(self.ring.as_ref().expect("a ring was offered"))
    }

    #[track_caller]
    pub fn waits(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !enough(self) {
            let said = || {
                let output = String::from_utf8_lossy(&self.output);
                format!("{:?} {:?} {output:?}", self.end, self.notices)
            };
            assert!(!self.over, "{what} did not come before the connection's end: {}", said());
            assert!(Instant::now() < end, "{what} did not come: {}", said());
            self.read();
        }
    }

    /// Waits until it is enough, or until the connection has ended.
    #[track_caller]
    pub fn waits_to_its_end(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !enough(self) && !self.over {
            assert!(Instant::now() < end, "{what} did not come");
            self.read();
        }
    }

    fn read(&mut self) {
        let mut poll = [PollFd::new(std::os::fd::AsFd::as_fd(&self.stream), PollFlags::POLLIN)];
        if nix::poll::poll(&mut poll, PollTimeout::from(100u8)) != Ok(1) {
            return;
        }
        let mut buffer = [0; 65536];
        let mut space = nix::cmsg_space!([RawFd; 8]);
        let mut pieces = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let count =
            match recvmsg::<()>(self.stream.as_raw_fd(), &mut pieces, Some(&mut space), flags) {
                Ok(message) => {
                    for control in message.cmsgs().expect("whole messages") {
                        if let ControlMessageOwned::ScmRights(numbers) = control {
                            // SAFETY: just made for us.
                            let owned =
                                numbers.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) });
                            self.arrived.extend(owned);
                        }
                    }
                    message.bytes
                }
                Err(_) => 0,
            };
        self.over = count == 0;
        self.bytes.extend_from_slice(&buffer[..count]);
        while let &[_, low, high, kind, ref rest @ ..] = self.bytes.as_slice() {
            let size = if kind == HELLO { 0 } else { usize::from(u16::from_le_bytes([low, high])) };
            let Some((payload, rest)) = rest.split_at_checked(size) else {
                return;
            };
            let (payload, rest) = (payload.to_vec(), rest.to_vec());
            let text = String::from_utf8_lossy(&payload).into_owned();
            match kind {
                0 => self.output.extend(payload),
                NOTICE => self.notices.push(text),
                ENDED => {
                    let text = String::from_utf8_lossy(&payload[2..]).into_owned();
                    self.end = Some((payload[0], payload[1], text));
                }
                OFFER => self.offer = text,
                HELLO => self.agreed = true,
                GO => self.go = Some(payload),
                _ => {}
            }
            self.bytes = rest;
        }
    }
}

/// Content of a ring, as text: all of it, while it was never full.
#[track_caller]
pub fn kept(ring: &OwnedFd) -> String {
    let file = std::fs::File::from(ring.try_clone().expect("a copy"));
    let mut total = [0; 8];
    file.read_exact_at(&mut total, 16).expect("a ring");
    let total = u64::from_le_bytes(total);
    let length = file.metadata().expect("a file").len() - 16384;
    let from = total.saturating_sub(length);
    let mut output = vec![0; (total - from) as usize];
    for (at, byte) in (from..total).zip(&mut output) {
        file.read_exact_at(std::slice::from_mut(byte), 16384 + at % length).expect("a ring");
    }
    String::from_utf8_lossy(&output).into_owned()
}

/// Waits until a ring has this text.
#[track_caller]
pub fn comes_to_be_kept(ring: &OwnedFd, text: &str) {
    let end = Instant::now() + DEADLINE;
    while !kept(ring).contains(text) {
        assert!(Instant::now() < end, "{text:?} is not kept: {:?}", kept(ring));
        std::thread::sleep(Duration::from_millis(5));
    }
}
