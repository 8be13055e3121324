//! Descriptors that nobody asked for (SCM_RIGHTS), and whose close takes as long as their
//! sender likes: nobody waits for it, and none stays open.

use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};

use crate::harness::client::Pipes;
use crate::harness::cost::{ECHO, Holdings, echo_session, echoes, wait_until_as_before};
use crate::harness::process::descriptors;
use crate::harness::seccomp::{Filter, call_with};
use crate::harness::users::can_be_others;
use crate::harness::wire::{header, packet, variable};
use crate::harness::{
    Flavor, Server, Setup, Wire, comes_true, in_process, on_one_server, pty_server, servers,
    side_by_side, wait_until,
};

const HELLO: u8 = 102;
const VARIABLES: u8 = 103;
const REQUEST: u8 = 105;
const OFFER: u8 = 112;

/// `SO_PASSRIGHTS` of asm-generic/socket.h.
const SO_PASSRIGHTS: u32 = 83;

/// This kernel, and one before Linux 6.16.
fn kernels(setup: impl Fn() -> Setup) -> [(bool, Setup); 2] {
    let refused = [call_with(libc::SYS_setsockopt, 2, SO_PASSRIGHTS)];
    let old = setup().filter(Filter::refusing(&refused, libc::ENOPROTOOPT));
    [(false, setup()), (true, old)]
}

/// Sockets whose last close waits for days: their peers, which are here, read
/// nothing.
struct Lingering {
    /// Closed first: the others wait for them.
    _peers: Vec<TcpStream>,
    sockets: Vec<OwnedFd>,
}

impl Lingering {
    fn new(count: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peers = Vec::new();
        let mut sockets = Vec::new();
        for _ in 0..count {
            let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            peers.push(listener.accept().unwrap().0);
            socket.set_nonblocking(true).unwrap();
            setsockopt(&socket, sockopt::SndBuf, &4096).unwrap();
            // There is room again when the kernel has passed on what it can.
            for _ in 0..3 {
                while socket.write(&[b'x'; 65536]).is_ok() {}
                std::thread::sleep(Duration::from_millis(1));
            }
            socket.set_nonblocking(false).unwrap();
            let days = libc::linger { l_onoff: 1, l_linger: 1_000_000 };
            setsockopt(&socket, sockopt::Linger, &days).unwrap();
            sockets.push(socket.into());
        }
        Self { _peers: peers, sockets }
    }

    /// Sends them along with these bytes; then the receiver's are the last copies.
    /// Whether they went.
    fn send(&mut self, to: &impl AsRawFd, bytes: &[u8], flags: MsgFlags) -> bool {
        let numbers: Vec<_> = self.sockets.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&numbers)];
        let pieces = [IoSlice::new(bytes)];
        let sent = sendmsg::<()>(to.as_raw_fd(), &pieces, &control, flags, None);
        let went = sent.is_ok();
        if went {
            self.sockets.clear();
        }
        went
    }
}

/// The last of many.
#[track_caller]
fn nobody_waits(other: &mut Wire, what: &str) {
    let took = echoes(other, 30);
    // Days, or never: a slow machine is neither.
    assert!(took[28] < Duration::from_secs(1), "{what}: {took:?}");
}

fn servers_of(flavor: &Flavor) -> [(bool, Setup); 2] {
    kernels(|| {
        Setup::new(flavor)
            .script(ECHO)
            .option("forkpty-urouter", "{dir}/u")
            .option("forkptyrouter-allow-command", "true")
            .option("forkptyrouter-stats", "{dir}/stats")
    })
}

/// Says this, waits for an answer, and is at the place where they are to come.
#[track_caller]
fn at(server: &Server, socket: &str, said: &[Vec<u8>], answers: usize) -> UnixStream {
    let mut stream = UnixStream::connect(server.path(socket)).unwrap();
    for (number, said) in said.iter().enumerate() {
        stream.write_all(said).unwrap();
        if number < answers {
            let _ = stream.read(&mut [0; 4096]).unwrap();
        }
    }
    stream
}

/// Wherever somebody can connect, at every stage, read or not.
#[test]
fn unwanted_descriptors_delay_nobody() {
    in_process(|flavor| {
        side_by_side(servers_of(flavor), |(is_old, setup)| {
            let server = setup.raw();
            let gateway = server.gateway();
            let mut other = echo_session(&server, "s");
            let before = Holdings::of(gateway);
            let hello = header(1, HELLO).to_vec();
            let begin = packet(VARIABLES, &[]);
            let command = [
                packet(VARIABLES, &variable("fpty.terminal", "0")),
                packet(REQUEST, b"csleep 1000"),
                begin.clone(),
            ]
            .concat();
            let places: [(&str, &str, Vec<Vec<u8>>, usize); 6] = [
                ("raw", "s", vec![], 0),
                ("the statistics", "stats", vec![], 0),
                ("before the hello", "u", vec![], 0),
                ("after the hello", "u", vec![hello.clone()], 1),
                ("in a session", "u", vec![hello.clone(), begin], 2),
                ("in a command", "u", vec![hello, command], 2),
            ];
            for (name, socket, said, answers) in places {
                let what = format!("{name}, old kernel: {is_old}");
                for (flags, bytes) in [
                    (MsgFlags::empty(), &b"x"[..]),
                    (MsgFlags::empty(), &[0, 1, 0, OFFER, b'0']),
                    (MsgFlags::MSG_OOB, b"x"),
                ] {
                    let stream = at(&server, socket, &said, answers);
                    let mut hostile = Lingering::new(3);
                    let went = hostile.send(&stream, bytes, flags);
                    // Only where they are wanted, or cannot be refused.
                    assert!(is_old || !went || name == "after the hello", "{what}");
                    let _ = (&stream).write_all(b"more");
                    nobody_waits(&mut other, &what);
                    drop(stream);
                    nobody_waits(&mut other, &what);
                    // Nobody has read them.
                    let stream = at(&server, socket, &said, answers);
                    let mut hostile = Lingering::new(3);
                    hostile.send(&stream, bytes, flags);
                    drop(stream);
                    nobody_waits(&mut other, &what);
                }
            }
            wait_until_as_before(gateway, before);
            assert_eq!(server.gateway(), gateway);
        });
    });
}

/// From a user whom the rules keep out.
#[test]
fn unwanted_descriptors_of_a_refused_client_delay_nobody() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        for (is_old, setup) in kernels(|| {
            Setup::new(flavor)
                .script(ECHO)
                .option("forkpty-router2", "addr={dir}/t,chmod=666,allow_user=48001")
        }) {
            let server = setup.raw();
            let mut other = echo_session(&server, "s");
            for _ in 0..10 {
                let stream = as_user(48_002, || UnixStream::connect(server.path("t")).unwrap());
                let mut hostile = Lingering::new(2);
                // It may be closed by then.
                let went = hostile.send(&stream, b"x", MsgFlags::empty());
                assert!(is_old || !went);
                nobody_waits(&mut other, "refused");
            }
            server.wait_for_log("is refused");
        }
    });
}

/// On a thread of its own, which alone is that user.
fn as_user<T: Send>(uid: u32, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: the system call with three numbers, of this thread alone.
            let set = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
            assert_eq!(set, 0);
            body()
        });
        thread.join().unwrap()
    })
}

/// Each user has their own share: others' commands go on, with streams that are sockets,
/// and neither threads nor descriptors pile up.
#[test]
fn one_users_descriptors_are_limited_to_a_share() {
    in_process(|flavor| {
        side_by_side(servers_of(flavor), |(_, setup)| {
            let server = setup.raw();
            let gateway = server.gateway();
            let mut other = echo_session(&server, "s");
            let before = Holdings::of(gateway);
            let threads = || std::fs::read_dir(format!("/proc/{gateway}/task")).unwrap().count();
            let hello = [header(1, HELLO).to_vec()];
            let mut most = 0;
            for _ in 0..30 {
                let stream = at(&server, "u", &hello, 1);
                Lingering::new(20).send(&stream, &[0, 1, 0, OFFER, b'0'], MsgFlags::empty());
                most = most.max(descriptors(gateway).len());
                assert!(threads() < 8, "{}", threads());
            }
            nobody_waits(&mut other, "a share");
            assert!(most < before.descriptors + 300, "{most}");
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut fpty = Command::new(servers::fpty());
            fpty.args([&server.path("u"), "cat"]).stderr(Stdio::null());
            fpty.stdin(Stdio::from(OwnedFd::from(theirs.try_clone().unwrap())));
            fpty.stdout(Stdio::from(OwnedFd::from(theirs)));
            let mut child = fpty.spawn().unwrap();
            drop(fpty);
            (&ours).write_all(b"through it").unwrap();
            ours.shutdown(std::net::Shutdown::Write).unwrap();
            let mut through = String::new();
            (&ours).read_to_string(&mut through).unwrap();
            assert_eq!(through, "through it");
            assert_eq!(child.wait().unwrap().code(), Some(0));
            wait_until_as_before(gateway, before);
            wait_until("no threads are left", || threads() == 1);
        });
    });
}

#[test]
fn unwanted_descriptors_at_a_pty_server_delay_nobody() {
    on_one_server(|flavor| {
        for (is_old, setup) in kernels(|| pty_server::shared(flavor)) {
            let server = pty_server::start(setup);
            let worker = pty_server::worker(&server);
            let before = descriptors(worker).len();
            for bytes in [&b"x"[..], b""] {
                let stream = UnixStream::connect(server.path("p")).unwrap();
                let mut hostile = Lingering::new(2);
                if bytes.is_empty() {
                    // With nothing in it nothing is sent.
                    assert_eq!(hostile.send(&stream, b"y", MsgFlags::MSG_OOB), is_old);
                } else {
                    assert_eq!(hostile.send(&stream, bytes, MsgFlags::empty()), is_old);
                }
                drop(stream);
                let mut client = pty_server::join(&server);
                pty_server::request_is_seen(&server, &mut client);
            }
            wait_until("none is left", || descriptors(worker).len() <= before);
        }
    });
}

/// Descriptors of a truncated message that were delivered are closed.
#[test]
fn truncated_descriptors_are_closed_near_the_limit() {
    on_one_server(|flavor| {
        let refused = [call_with(libc::SYS_setsockopt, 2, SO_PASSRIGHTS)];
        for filter in [None, Some(Filter::refusing(&refused, libc::ENOPROTOOPT))] {
            let setup = Setup::bare(&flavor.name, std::path::Path::new("/bin/sh"))
                .argument("-c")
                .argument("ulimit -n 100; exec \"$@\"")
                .argument("sh")
                .argument(&flavor.binary.display().to_string())
                .plugin(&flavor.plugins, "forkptyrouter")
                .script(ECHO)
                .option("forkpty-urouter", "{dir}/u")
                .option("forkptyrouter-allow-command", "true");
            let setup = match filter {
                Some(filter) => setup.filter(filter),
                None => setup,
            };
            let server = setup.raw();
            let gateway = server.gateway();
            server.idle_descriptors();
            let before = descriptors(gateway).len();
            let null = std::fs::File::open("/dev/null").unwrap();
            for said in [&[][..], &[header(1, HELLO).to_vec()]] {
                for _ in 0..3 {
                    let stream = at(&server, "u", said, said.len());
                    let numbers = [null.as_raw_fd(); 253];
                    let control = [ControlMessage::ScmRights(&numbers)];
                    let pieces = [IoSlice::new(&[0, 1, 0, OFFER, b'0'])];
                    let flags = MsgFlags::empty();
                    let _ = sendmsg::<()>(stream.as_raw_fd(), &pieces, &control, flags, None);
                    // A client that sends them is dropped, or was refused.
                    echo_session(&server, "s").send("x");
                }
            }
            wait_until("none is left", || descriptors(gateway).len() <= before);
        }
    });
}

/// A listening socket would give a program the connections of others; so would
/// sockets that are none of a stream's.
#[test]
fn a_listening_socket_is_not_accepted_as_stdio() {
    in_process(|flavor| {
        let server = Setup::new(flavor).option("forkptyrouter-allow-command", "true").uwsgi();
        let tcp: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
        let unix: OwnedFd = UnixListener::bind(server.path("listens")).unwrap().into();
        for listener in [tcp, unix] {
            let mut stream = at(&server, "u", &[header(1, HELLO).to_vec()], 1);
            let numbers = [listener.as_raw_fd()];
            let control = [ControlMessage::ScmRights(&numbers)];
            let pieces = [IoSlice::new(&[0, 1, 0, OFFER, b'0'])];
            sendmsg::<()>(stream.as_raw_fd(), &pieces, &control, MsgFlags::empty(), None).unwrap();
            let rest = [
                packet(VARIABLES, &variable("fpty.terminal", "0")),
                packet(REQUEST, b"ctrue"),
                packet(VARIABLES, &[]),
            ];
            stream.write_all(&rest.concat()).unwrap();
            let mut said = Vec::new();
            stream.read_to_end(&mut said).unwrap();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(said.contains("no connected stream socket"), "{said:?}");
            // Our own client relays it.
            let mut fpty = Command::new(servers::fpty());
            fpty.args([&server.path("u"), "exit 4"]);
            let finished = Pipes::reading(fpty, Stdio::from(listener)).finish();
            assert_eq!(finished.status.code(), Some(4), "{finished:?}");
        }
    });
}

/// The client is not held up by its server, either.
#[test]
fn a_gateways_unwanted_descriptors_do_not_hold_the_client() {
    in_process(|_| {
        let folder = tempfile::Builder::new().prefix("fp").tempdir_in("/tmp").unwrap();
        let address = folder.path().join("liar");
        let listener = UnixListener::bind(&address).unwrap();
        for (count, bytes, command) in [
            (1, &[0, 1, 0, OFFER, b'm'][..], false),
            (100, &[0, 200, 0, OFFER, b'm'], false),
            (2, &[0, 1, 0, 0, b'x'], false),
            (2, b"x", true),
        ] {
            let mut fpty = Command::new(servers::fpty());
            fpty.arg(&address).stdin(Stdio::piped());
            if command {
                fpty.arg("true");
            }
            let client = Pipes::open(fpty);
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&header(1, HELLO)).unwrap();
            let mut seen = Vec::new();
            assert!(comes_true(Duration::from_secs(10), || {
                let mut buffer = [0; 4096];
                let count = stream.read(&mut buffer).unwrap_or(0);
                seen.extend_from_slice(&buffer[..count]);
                seen.ends_with(&packet(VARIABLES, &[]))
            }));
            let mut hostile = Lingering::new(count.min(20));
            hostile.send(&stream, bytes, MsgFlags::empty());
            let begin = Instant::now();
            drop(stream);
            let finished = client.finish();
            assert_ne!(finished.status.code(), Some(0), "{finished:?}");
            assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
        }
    });
}
