//! The end of a session over TCP: a client that still sends when it comes loses no byte to
//! a reset, and a client that does not close is no burden.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{MsgFlags, recvmsg};

use crate::harness::client::{Mode, fpty};
use crate::harness::cost::Holdings;
use crate::harness::ports::free_address;
use crate::harness::servers::{C_BINARY, C_PLUGINS};
use crate::harness::wire::{header, input, packet, variable};
use crate::harness::{Setup, Wire, in_process, on_every_server, side_by_side, wait_until};

/// More than one read takes, and less than a connection holds, be it in pieces.
const OUTPUT: &str = "head -c 40000 /dev/zero | tr '\\0' x; exit 7";
const SIZE: usize = 40_000;

/// The end of the last packet's header, an exit, its status.
const ENDED: [u8; 3] = [110, 0, 7];

/// Received bytes, which stay there to be read.
fn peek(client: &Wire) -> Vec<u8> {
    let mut buffer = vec![0; 2 * SIZE];
    let mut pieces = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let count = recvmsg::<()>(client.fd().as_raw_fd(), &mut pieces, None, flags)
        .map_or(0, |message| message.bytes);
    buffer.truncate(count);
    buffer
}

/// Whether the other end has said that no more will come.
fn is_over(client: &Wire) -> bool {
    use std::os::fd::AsFd;
    let mut asked =
        [PollFd::new(client.fd().as_fd(), PollFlags::from_bits_retain(libc::POLLRDHUP))];
    nix::poll::poll(&mut asked, PollTimeout::ZERO) == Ok(1)
}

/// The packets that ask for something, all at once.
fn asks(packets: &[Vec<u8>]) -> Vec<u8> {
    [header(1, 102).to_vec(), packets.concat(), packet(103, &[])].concat()
}

/// Waits until all is there and the last word was said, says this and that,
/// and reads what there was.
#[track_caller]
fn late(mut client: Wire, what: &str, is_there: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    wait_until(what, || is_there(&peek(&client)));
    let mut buffer = Vec::new();
    for _ in 0..3 {
        buffer.extend(input("late"));
        buffer.extend(header(0, 107));
        // Where it has closed this is answered by a reset.
        let _ = nix::unistd::write(client.fd(), &buffer);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(is_there(&peek(&client)), "{what}: what was there is gone");
    client.read_to_end()
}

#[test]
fn a_client_that_still_sends_gets_every_kind_of_end() {
    in_process(|flavor| {
        let tcp = || free_address();
        let (raw, uwsgi, denied, stats) = (tcp(), tcp(), tcp(), tcp());
        let server = Setup::new(flavor)
            .script(&format!("#!/bin/sh\n{OUTPUT}\n"))
            .option("forkpty-router", &raw)
            .option("forkpty-router", "{dir}/s")
            .option("forkpty-urouter", &uwsgi)
            .option("forkpty-urouter", "{dir}/u")
            .option("forkpty-router2", &format!("addr={denied},deny_addr=127.0.0.0/8"))
            .option("forkptyrouter-allow-command", "true")
            .option("forkptyrouter-stats", &stats)
            .start();
        let path = |name: &str| server.path(name);
        let whole = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'x').count() == SIZE;
        side_by_side([raw.clone(), path("s")], |address| {
            let client = Wire::connect(&address);
            wait_until("the end of the stream", || is_over(&client));
            late(client, &address, whole);
        });
        side_by_side([uwsgi.clone(), path("u")], |address| {
            let client = Wire::connect(&address);
            client.resize(24, 80);
            wait_until("the end of the stream", || is_over(&client));
            late(client, &address, whole);
            let ends = |bytes: &[u8]| whole(bytes) && bytes.ends_with(&ENDED);
            let client = Wire::connect(&address);
            client.send(asks(&[]));
            late(client, &format!("{address}, extended"), ends);
            let client = Wire::connect(&address);
            let no_terminal = packet(103, &variable("fpty.terminal", "0"));
            client.send(asks(&[no_terminal, packet(105, &[b"c", OUTPUT.as_bytes()].concat())]));
            late(client, &format!("{address}, a command"), ends);
            let client = Wire::connect(&address);
            client.send(asks(&[packet(105, b"p/nowhere/at-all\0")]));
            let refused = late(client, "a refusal", |bytes| contains(bytes, b"/nowhere/at-all"));
            assert!(contains(&refused, &[110]), "{refused:?}");
            let client = Wire::connect(&address);
            client.send(asks(&[packet(105, b"l")]));
            late(client, "a list", |bytes| bytes.ends_with(&[110, 0, 0]));
            let client = Wire::connect(&address);
            client.send(asks(&[packet(105, b"kzzzzzzzz")]));
            late(client, "a kill", |bytes| contains(bytes, b"no such session"));
        });
        late(Wire::connect(&denied), "kept out", |bytes| contains(bytes, b"not permitted"));
        late(Wire::connect(&stats), "statistics", |bytes| contains(bytes, b"\"sessions\""));
    });
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// A client with room for little: most of what is sent to it waits in the
/// sender's kernel, and that is what a reset throws away.
fn narrow(address: &str) -> Wire {
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
    let address: std::net::SocketAddrV4 = address.parse().expect("an address");
    let (kind, flags) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
    let fd = socket::socket(AddressFamily::Inet, kind, flags, None).expect("a socket");
    socket::setsockopt(&fd, sockopt::RcvBuf, &1024).expect("its room");
    socket::connect(fd.as_raw_fd(), &SockaddrIn::from(address)).expect("a connection");
    Wire::over(fd, &address.to_string())
}

#[test]
fn unsent_output_is_delivered_before_the_close() {
    const OUTPUT: &str = "head -c 9000 /dev/zero | tr '\\0' x; exit 7";
    in_process(|flavor| {
        let no_terminal = packet(103, &variable("fpty.terminal", "0"));
        let command = packet(105, &[b"c", OUTPUT.as_bytes()].concat());
        let sizes = [header(24, 100), header(80, 101)].concat();
        let cases = [
            ("raw", "forkpty-router", Vec::new()),
            ("uwsgi", "forkpty-urouter", sizes),
            ("extended", "forkpty-urouter", asks(&[])),
            ("a command", "forkpty-urouter", asks(&[no_terminal, command])),
        ];
        side_by_side(cases, |(what, option, packets)| {
            let address = free_address();
            let server = Setup::new(flavor)
                .script(&format!("#!/bin/sh\n{OUTPUT}\n"))
                .option(option, &address)
                .option("forkptyrouter-allow-command", "true")
                .start();
            for _ in 0..3 {
                let mut client = narrow(&address);
                client.send(&packets);
                wait_until("it has begun", || peek(&client).len() > 100);
                wait_until("the program has ended", || server.programs().is_empty());
                for _ in 0..5 {
                    let _ = nix::unistd::write(client.fd(), &input("late"));
                    std::thread::sleep(Duration::from_millis(10));
                }
                let got = client.read_to_end();
                let count = got.iter().filter(|byte| **byte == b'x').count();
                assert_eq!(count, 9000, "{what}");
                assert!(
                    !packets.starts_with(&header(1, 102)) || contains(&got, &ENDED),
                    "{what}: its end"
                );
            }
        });
    });
}

#[test]
fn a_client_that_still_sends_gets_the_pty_servers_refusal() {
    on_every_server(|flavor| {
        let address = free_address();
        let server = Setup::new(flavor)
            .option("plugin", "pty")
            .option("forkpty-router", "{dir}/s")
            .option("pty-socket", &address)
            .killed_at_end()
            .start();
        server.wait_for_log("pty: there are no workers");
        late(Wire::connect(&address), "the refusal", |bytes| contains(bytes, b"no workers"));
    });
}

#[test]
fn a_client_that_does_not_close_is_closed_and_holds_no_permit() {
    in_process(|flavor| {
        let address = free_address();
        let server = Setup::new(flavor)
            .script("#!/bin/sh\necho hello\n")
            .option("forkpty-router", &address)
            .option("forkpty-urouter", "{dir}/u")
            .option("forkptyrouter-max-sessions", "1")
            .start();
        server.idle_descriptors();
        let gateway = server.gateway();
        let before = Holdings::of(gateway).descriptors;
        let begin = Instant::now();
        let mut stays = Vec::new();
        for _ in 0..3 {
            let mut client = Wire::connect(&address);
            client.read_until("hello");
            wait_until("the end of the stream", || is_over(&client));
            stays.push(client);
            let mut client = server.connect("u");
            client.send(asks(&[]));
            client.read_while("the end", |bytes| bytes.ends_with(&[110, 0, 0]));
            stays.push(client);
        }
        assert!(Holdings::of(gateway).descriptors > before, "none was kept open");
        wait_until("all are closed", || Holdings::of(gateway).descriptors <= before);
        assert!(begin.elapsed() > Duration::from_secs(5), "they had no time");
        drop(stays);
    });
}

/// `fpty` with a command, so often: how it ended each time.
fn runs(address: &str, times: usize) -> Vec<(Option<i32>, usize)> {
    let mut command = fpty(Mode::Uwsgi, address);
    command.arg("head -c 3000000 /dev/zero; exit 7").stdin(Stdio::null());
    (0..times)
        .map(|_| {
            let output = command.output().expect("fpty runs");
            (output.status.code(), output.stdout.len())
        })
        .collect()
}

#[test]
fn three_megabytes_and_the_status_arrive() {
    in_process(|flavor| {
        let address = free_address();
        let _server = Setup::new(flavor)
            .option("forkpty-urouter", &address)
            .option("forkptyrouter-allow-command", "true")
            .start();
        for (number, run) in runs(&address, 40).into_iter().enumerate() {
            assert_eq!(run, (Some(7), 3_000_000), "run {number}");
        }
    });
}

#[test]
fn three_megabytes_and_the_status_arrive_behind_a_rawrouter() {
    if !Path::new(C_PLUGINS).join("rawrouter_plugin.so").exists() {
        return eprintln!("skipped: there is no rawrouter");
    }
    in_process(|flavor| {
        let tcp = || free_address();
        let (node, one, other) = (tcp(), tcp(), tcp());
        let server = Setup::new(flavor)
            .option("forkpty-urouter", &node)
            .option("forkpty-urouter", "{dir}/u")
            .option("forkptyrouter-allow-command", "true")
            .start();
        for (front, node) in [(one, node), (other, server.path("u"))] {
            let _router = Setup::bare("a rawrouter", Path::new(C_BINARY))
                .plugin(Path::new(C_PLUGINS), "corerouter,rawrouter")
                .switch("master")
                .option("rawrouter", &front)
                .option("rawrouter-to", &node)
                .launch();
            wait_until("the gateway serves", || Wire::try_connect(&front).is_ok());
            for (number, run) in runs(&front, 20).into_iter().enumerate() {
                assert_eq!(run, (Some(7), 3_000_000), "run {number} by {node}");
            }
        }
    });
}

#[test]
fn a_slow_reader_gets_all() {
    in_process(|flavor| {
        let address = free_address();
        let _server = Setup::new(flavor)
            .option("forkpty-urouter", &address)
            .option("forkptyrouter-allow-command", "true")
            .start();
        let client = fpty(Mode::Uwsgi, &address);
        let line = "\"$@\" 'head -c 900000 /dev/zero; exit 7' | \
                    (sleep 2; wc -c); echo ${PIPESTATUS[0]}";
        let output = Command::new("/bin/bash")
            .args(["-c", line, "bash"])
            .arg(client.get_program())
            .args(client.get_args())
            .stdin(Stdio::null())
            .output()
            .expect("a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "900000\n7\n");
    });
}
