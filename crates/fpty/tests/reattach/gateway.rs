//! A gateway of one session, as little as there can be: it speaks the extended
//! mode, hands its terminal over, and reads it while nobody else does.

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fpty::proto::session_key::{FoundBy, Secret, SessionKey};
use fpty::proto::{self, ClientPacket, ClientPacketDecoder, EndKind, SessionEnd};
use fpty::scrollback::{ScrollbackReader, ScrollbackWriter};
use fpty::sys::Size;
use fpty::sys::pty::{self, Master, Slave};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::DEADLINE;
use super::person::Person;

/// What the test may know.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// A client has the terminal, or is relayed.
    pub attached: bool,
    /// It waits for the word to go on.
    pub waits: bool,
    /// The gateway does nothing.
    pub stands_still: bool,
    /// The session was ended by who left.
    pub for_good: bool,
    /// Of the last client.
    pub variables: Vec<(String, String)>,
    pub request: String,
    pub input: String,
    /// What the gateway itself has read.
    pub output: Vec<u8>,
    pub size: (u16, u16),
    /// The secrets that were given, and the last that somebody came with.
    pub secrets: Vec<Vec<u8>>,
    pub came_with: Option<Vec<u8>>,
    /// How many clients have come.
    pub clients: usize,
}

impl Told {
    pub fn variable(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What it is to do.
#[derive(Default)]
struct Orders {
    over: bool,
    refuses: Option<String>,
    silent: bool,
    takes_away: Option<String>,
    /// The word to go on is kept back.
    keeps_waiting: bool,
    stands_still: bool,
    /// Clients are told by what they find their session again.
    gives_keys: bool,
    breaks: bool,
    /// Nobody is let in.
    is_deaf: bool,
    turns_away: Option<String>,
}

pub struct Gateway {
    pub address: String,
    _folder: tempfile::TempDir,
    told: Arc<Mutex<Told>>,
    orders: Arc<Mutex<Orders>>,
    ring: Arc<Mutex<Option<OwnedFd>>>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Hands the terminal over.
    pub fn of(command: &str) -> Self {
        Self::new(command, false)
    }

    pub fn new(command: &str, relays: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("fp").tempdir_in("/tmp").unwrap();
        let address = folder.path().join("s").display().to_string();
        let listener = UnixListener::bind(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (told, orders) = (Arc::<Mutex<Told>>::default(), Arc::<Mutex<Orders>>::default());
        let ring = Arc::<Mutex<Option<OwnedFd>>>::default();
        let mut work = Work {
            command: command.to_owned(),
            file: folder.path().join("file").display().to_string(),
            relays,
            told: told.clone(),
            orders: orders.clone(),
            ring: ring.clone(),
            listener,
            client: None,
            session: None,
        };
        let thread = std::thread::spawn(move || work.run());
        Self { address, _folder: folder, told, orders, ring, thread: Some(thread) }
    }

    pub fn told(&self) -> Told {
        self.told.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Told) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !condition(&self.told.lock().unwrap()) {
            let failed = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(Instant::now() < end && !failed, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// All that the ring has. The gateway writes nothing meanwhile: of a flood the
    /// oldest would be the newest.
    #[track_caller]
    pub fn ring(&self) -> Vec<u8> {
        self.orders.lock().unwrap().stands_still = true;
        self.wait_for("it stands still", |told| told.stands_still);
        let ring = self.ring.lock().unwrap().as_ref().unwrap().try_clone().unwrap();
        let output = ScrollbackReader::open(ring).unwrap().output(None).unwrap().1;
        self.orders.lock().unwrap().stands_still = false;
        output
    }

    /// Waits until the client has noted that a paste is under way.
    #[track_caller]
    pub fn sees_a_paste(&self) {
        use std::os::unix::fs::FileExt;
        let ring = self.ring.lock().unwrap().as_ref().unwrap().try_clone().unwrap();
        let file = std::fs::File::from(ring);
        let mut note = [0];
        let end = Instant::now() + DEADLINE;
        while note != [1] {
            assert!(Instant::now() < end, "no paste is noted");
            file.read_exact_at(&mut note, 64 + fpty::scrollback::checkpoints::NOTES_LENGTH as u64)
                .unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Writes what a hostile client might have.
    pub fn spoil(&self, seed: u64) {
        use std::os::unix::fs::FileExt;
        let ring = self.ring.lock().unwrap().as_ref().unwrap().try_clone().unwrap();
        let file = std::fs::File::from(ring);
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let traps: [&[u8]; 6] = [
            b"\x1b[c\x1b[6n",
            b"\x1b]52;c;aGk=\x07",
            b"\x1b[65535b",
            b"\x1b[?1049h",
            b"\x1bPq",
            b"\xff\x9b",
        ];
        match seed % 4 {
            // The count.
            0 => file.write_all_at(&random().to_le_bytes(), 16).unwrap(),
            // Everything behind the magic, as bytes without a sense.
            1 => {
                let noise: Vec<u8> = (0..200_000).map(|_| random() as u8).collect();
                file.write_all_at(&noise, 16).unwrap();
                file.write_all_at(&(random() % 500_000).to_le_bytes(), 16).unwrap();
            }
            // Here and there.
            2 => {
                for _ in 0..500 {
                    file.write_all_at(&[random() as u8], 16 + random() % 30_000).unwrap();
                }
            }
            // Output.
            _ => {
                let mut output = Vec::new();
                while output.len() < 20_000 {
                    output.extend_from_slice(traps[random() as usize % traps.len()]);
                    output.push(random() as u8);
                }
                file.write_all_at(&output, 16 * 1024).unwrap();
                file.write_all_at(&(output.len() as u64).to_le_bytes(), 16).unwrap();
            }
        }
    }

    pub fn refuses(&self, why: &str) {
        self.orders.lock().unwrap().refuses = Some(why.to_owned());
    }

    pub fn says_nothing(&self) {
        let mut orders = self.orders.lock().unwrap();
        (orders.refuses, orders.silent) = (None, true);
    }

    /// Relays, and tells its clients by what they find their session again.
    pub fn with_keys(command: &str) -> Self {
        let gateway = Self::new(command, true);
        gateway.orders.lock().unwrap().gives_keys = true;
        gateway
    }

    /// Breaks the connection; `deaf`: lets nobody in from then on.
    #[track_caller]
    pub fn breaks(&self, deaf: bool) {
        let mut orders = self.orders.lock().unwrap();
        (orders.breaks, orders.is_deaf) = (true, deaf);
        drop(orders);
        self.wait_for("the connection breaks", |told| !told.attached);
    }

    pub fn hears_again(&self) {
        self.orders.lock().unwrap().is_deaf = false;
    }

    pub fn turns_away(&self, why: &str) {
        self.orders.lock().unwrap().turns_away = Some(why.to_owned());
    }

    /// Keeps the word to go on back, or says it after all.
    pub fn keeps_waiting(&self, waits: bool) {
        self.orders.lock().unwrap().keeps_waiting = waits;
    }

    pub fn takes_away(&self, why: &str) {
        self.orders.lock().unwrap().takes_away = Some(why.to_owned());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.orders.lock().unwrap().over = true;
        let _ = self.thread.take().unwrap().join();
    }
}

struct Client {
    stream: UnixStream,
    decoder: ClientPacketDecoder,
    payload: Vec<u8>,
    size: (u16, u16),
    /// The word to go on was said.
    gone_on: bool,
}

struct Session {
    master: Master,
    _slave: Slave,
    program: Child,
    remains: ScrollbackWriter,
    total: u64,
    ended: Option<i32>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

struct Work {
    command: String,
    file: String,
    relays: bool,
    told: Arc<Mutex<Told>>,
    orders: Arc<Mutex<Orders>>,
    ring: Arc<Mutex<Option<OwnedFd>>>,
    listener: UnixListener,
    client: Option<Client>,
    session: Option<Session>,
}

impl Work {
    fn run(&mut self) {
        while !self.orders.lock().unwrap().over {
            let stands_still = self.orders.lock().unwrap().stands_still;
            self.told.lock().unwrap().stands_still = stands_still;
            if stands_still {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            self.wait();
            let mut orders = self.orders.lock().unwrap();
            let (breaks, is_deaf) = (std::mem::take(&mut orders.breaks), orders.is_deaf);
            drop(orders);
            if breaks {
                self.lost();
            }
            if !is_deaf {
                if let Ok((stream, _)) = self.listener.accept() {
                    self.greet(stream);
                }
            }
            self.hear();
            if self.told.lock().unwrap().waits && !self.orders.lock().unwrap().keeps_waiting {
                self.told.lock().unwrap().waits = false;
                self.go();
            }
            self.read();
            self.reap();
            let why = self.orders.lock().unwrap().takes_away.take();
            if let Some(why) = why {
                self.end(SessionEnd { ending: EndKind::Detached, value: 1, text: why });
            }
        }
    }

    fn wait(&self) {
        let mut polled = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if let Some(client) = &self.client {
            polled.push(PollFd::new(client.stream.as_fd(), PollFlags::POLLIN));
        }
        if let Some(session) = self.session.as_ref().filter(|_| self.reads()) {
            polled.push(PollFd::new(session.master.as_fd(), PollFlags::POLLIN));
        }
        let _ = poll(&mut polled, PollTimeout::from(10u8));
    }

    /// Whether nobody else reads the terminal, and nobody waits to.
    fn reads(&self) -> bool {
        self.client.as_ref().is_none_or(|client| self.relays && client.gone_on)
    }

    fn greet(&mut self, stream: UnixStream) {
        stream.set_nonblocking(true).unwrap();
        let mut decoder = ClientPacketDecoder::default();
        decoder.set_extended();
        let mut told = self.told.lock().unwrap();
        *told = Told {
            output: std::mem::take(&mut told.output),
            secrets: std::mem::take(&mut told.secrets),
            clients: told.clients + 1,
            ..Told::default()
        };
        drop(told);
        let payload = Vec::new();
        self.client = Some(Client { stream, decoder, payload, size: (0, 0), gone_on: false });
    }

    fn hear(&mut self) {
        let Some(client) = &mut self.client else {
            return;
        };
        let mut buffer = [0; 65536];
        let count = match client.stream.read(&mut buffer) {
            Ok(0) => return self.lost(),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(_) => return self.lost(),
        };
        let mut bytes = &buffer[..count];
        while let Some(client) = &mut self.client {
            let Some(packet) = client.decoder.next(&mut bytes) else {
                return;
            };
            match packet {
                ClientPacket::Hello(_) => client.say(&proto::encode_bare(proto::HELLO, 1)),
                ClientPacket::Rows(rows) => client.size.0 = rows,
                ClientPacket::Cols(cols) => {
                    client.size.1 = cols;
                    let (size, going) = (client.size, client.gone_on);
                    self.resize(size, going);
                }
                ClientPacket::Input(input) => {
                    let input = input.to_vec();
                    self.told.lock().unwrap().input.push_str(&String::from_utf8_lossy(&input));
                    if let Some(session) = &self.session {
                        let _ = session.master.write(&input);
                    }
                }
                ClientPacket::Part(kind, part, last) => {
                    client.payload.extend_from_slice(part);
                    if last {
                        let payload = std::mem::take(&mut client.payload);
                        self.packet(kind, &payload);
                    }
                }
                ClientPacket::Signal(_) | ClientPacket::Unknown(..) => {}
            }
        }
    }

    fn resize(&mut self, (rows, cols): (u16, u16), going: bool) {
        self.told.lock().unwrap().size = (rows, cols);
        if let Some(session) = self.session.as_mut().filter(|_| going) {
            session.master.resize(Size { rows, cols }).unwrap();
            session.remains.resized(Size { rows, cols });
        }
    }

    fn packet(&mut self, kind: u8, payload: &[u8]) {
        match kind {
            proto::VARIABLES if payload.is_empty() => self.begin(),
            proto::VARIABLES => {
                let mut rest = payload;
                let mut word = || {
                    let (length, after) = rest.split_first_chunk::<2>()?;
                    let (word, after) = after.split_at(u16::from_le_bytes(*length).into());
                    rest = after;
                    Some(word.to_vec())
                };
                let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
                while let (Some(name), Some(value)) = (word(), word()) {
                    let mut told = self.told.lock().unwrap();
                    told.variables.push((text(&name), text(&value)));
                    if name == b"fpty.secret" {
                        told.came_with = Some(value);
                    }
                }
            }
            proto::REQUEST => {
                self.told.lock().unwrap().request.push_str(&String::from_utf8_lossy(payload));
            }
            proto::TAKEN => self.told.lock().unwrap().waits = true,
            proto::DETACH if payload == proto::DETACH_AND_END => {
                self.told.lock().unwrap().for_good = true;
                self.session = None;
            }
            proto::DETACH => {
                let orders = self.orders.lock().unwrap();
                let (why_not, silent) = (orders.refuses.clone(), orders.silent);
                drop(orders);
                match (why_not, &mut self.client) {
                    (Some(why), Some(client)) => {
                        let mut packet = Vec::new();
                        proto::encode_packet(proto::NOTICE, why.as_bytes(), &mut packet);
                        client.say(&packet);
                    }
                    _ if silent => {}
                    _ => {
                        let text = String::from("k3x9q2aa");
                        self.end(SessionEnd { ending: EndKind::Detached, value: 0, text });
                    }
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self) {
        let orders = self.orders.lock().unwrap();
        let (turns_away, gives_keys) = (orders.turns_away.clone(), orders.gives_keys);
        drop(orders);
        if let Some(why) = turns_away {
            return self.end(SessionEnd::new(EndKind::Refused, why));
        }
        let client = self.client.as_mut().unwrap();
        if gives_keys {
            let secret = Secret::new().unwrap();
            self.told.lock().unwrap().secrets.push(secret.bytes().to_vec());
            let (id, secret) = (String::from("k3x9q2aa"), Some(secret));
            let key = SessionKey { id, secret, found_by: FoundBy::Secret };
            let mut packet = Vec::new();
            proto::encode_packet(proto::SESSION_KEY, &key.payload(), &mut packet);
            client.say(&packet);
        }
        if self.session.is_none() {
            let size = Size { rows: client.size.0, cols: client.size.1 };
            let session = Session::new(&self.command, &self.file, size);
            *self.ring.lock().unwrap() =
                Some(session.remains.shared_file().unwrap().try_clone_to_owned().unwrap());
            self.session = Some(session);
        }
        let session = self.session.as_ref().unwrap();
        let mut packet = Vec::new();
        let names: &[u8] = if self.relays { b"r" } else { b"mr" };
        proto::encode_packet(proto::OFFER, names, &mut packet);
        let (master, ring) = (
            session.master.as_fd().as_raw_fd(),
            session.remains.shared_file().unwrap().as_raw_fd(),
        );
        let all = [master, ring];
        let fds = if self.relays { &all[1..] } else { &all[..] };
        let control = [ControlMessage::ScmRights(fds)];
        let pieces = [IoSlice::new(&packet)];
        let to = client.stream.as_raw_fd();
        sendmsg::<()>(to, &pieces, &control, MsgFlags::MSG_NOSIGNAL, None).unwrap();
    }

    fn go(&mut self) {
        let client = self.client.as_mut().unwrap();
        let total = self.session.as_ref().map_or(0, |session| session.total).to_le_bytes();
        let mut packet = Vec::new();
        let before: &[u8] = if self.relays { &total } else { &[] };
        proto::encode_packet(proto::GO, before, &mut packet);
        client.say(&packet);
        client.gone_on = true;
        self.told.lock().unwrap().attached = true;
    }

    fn end(&mut self, ended: SessionEnd) {
        if let Some(mut client) = self.client.take() {
            client.say(&ended.packet());
        }
        self.lost();
    }

    /// The client is gone: what it has written is there.
    fn lost(&mut self) {
        self.client = None;
        if let Some(session) = self.session.as_mut().filter(|_| !self.relays) {
            session.remains.catch_up().unwrap();
        }
        self.told.lock().unwrap().attached = false;
    }

    fn read(&mut self) {
        if !self.reads() {
            return;
        }
        let Some(session) = &mut self.session else {
            return;
        };
        let mut buffer = [0; 65536];
        let fpty::sys::ReadOutcome::Bytes(count) = session.master.read(&mut buffer) else {
            return;
        };
        session.remains.write(&buffer[..count]);
        session.total += count as u64;
        self.told.lock().unwrap().output.extend_from_slice(&buffer[..count]);
        if let Some(client) = &mut self.client {
            let mut packet = Vec::new();
            proto::encode_packet(proto::INPUT, &buffer[..count], &mut packet);
            client.say(&packet);
        }
    }

    fn reap(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        if session.ended.is_none() {
            session.ended = session.program.try_wait().unwrap().map(|it| it.code().unwrap_or(1));
        }
        if let (Some(status), Some(true)) =
            (session.ended, self.client.as_ref().map(|client| client.gone_on))
        {
            let text = String::new();
            let mut client = self.client.take().unwrap();
            client.say(&SessionEnd { ending: EndKind::Exit, value: status as u8, text }.packet());
        }
    }
}

impl Client {
    fn say(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let mut polled = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
                    let _ = poll(&mut polled, PollTimeout::NONE);
                }
                Err(_) => return,
            }
        }
    }
}

impl Session {
    fn new(script: &str, file: &str, size: Size) -> Self {
        let (master, slave) = pty::open(size).unwrap();
        let mut command = Command::new("/bin/sh");
        let standard = || slave.as_fd().try_clone_to_owned().unwrap();
        command.args(["-c", script]).env("T", file).env("TERM", "xterm-256color");
        command.env_remove("PROMPT_COMMAND").env("LC_ALL", "C.UTF-8");
        command.stdin(standard()).stdout(standard()).stderr(standard());
        // SAFETY: setsid and ioctl are async-signal-safe and touch no memory.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let program = command.spawn().unwrap();
        let remains = ScrollbackWriter::new(256 * 1024, size).unwrap();
        Self { master, _slave: slave, program, remains, total: 0, ended: None }
    }
}

impl Person {
    /// Runs the command with these arguments before the address.
    pub fn run(gateway: &Gateway, arguments: &[&str], size: (u16, u16)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fpty"));
        command.args(arguments).arg(&gateway.address);
        Self::runs(command, size)
    }

    /// Runs it for a new session.
    pub fn begins(gateway: &Gateway, arguments: &[&str], size: (u16, u16)) -> Self {
        Self::run(gateway, arguments, size)
    }

    /// Runs it to come back.
    pub fn attaches(gateway: &Gateway, arguments: &[&str], size: (u16, u16)) -> Self {
        let arguments = [arguments, &["-a", "k3x9"]].concat();
        Self::run(gateway, &arguments, size)
    }
}
