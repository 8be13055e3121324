//! Commands as the protocol's reference has them: a client of our own, and
//! one that means no good.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::harness::client::Pipes;
use crate::harness::process::signal;
use crate::harness::wire::{header, input, packet, variable};
use crate::harness::{Flavor, Server, Setup, Wire, in_process, servers, wait_until};

const HELLO: u8 = 102;
const VARIABLES: u8 = 103;
const END_OF_STREAM: u8 = 104;
const REQUEST: u8 = 105;
const WINDOW: u8 = 106;
const TAKEN: u8 = 108;
const ENDED: u8 = 110;
const OFFER: u8 = 112;

/// Bytes that come before the client says that it took some.
const OUTPUT_WINDOW: usize = 1024 * 1024;

fn no_terminal() -> Vec<u8> {
    packet(VARIABLES, &variable("fpty.terminal", "0"))
}

fn start(flavor: &Flavor) -> Server {
    Setup::new(flavor).option("forkptyrouter-allow-command", "true").uwsgi()
}

/// Says hello and gets the answer.
#[track_caller]
fn agreed(server: &Server) -> Wire {
    let mut client = server.connect("u");
    client.send(header(1, HELLO));
    client.read_while("the answer", |bytes| bytes.len() >= 4);
    client
}

/// Asks for a command line without a terminal.
#[track_caller]
fn ask(client: &Wire, line: &[u8]) {
    client.send(no_terminal());
    client.send(packet(REQUEST, &[b"c", line].concat()));
    client.send(packet(VARIABLES, &[]));
}

/// Packets of a gateway after its answer: the outputs, and other packets in their order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    outputs: [Vec<u8>; 2],
    others: Vec<(u8, Vec<u8>)>,
}

impl Said {
    fn of(bytes: &[u8]) -> Self {
        let mut said = Self::default();
        let mut bytes = &bytes[4..];
        while let &[_, low, high, kind, ref rest @ ..] = bytes {
            let size = usize::from(u16::from_le_bytes([low, high]));
            let Some((payload, rest)) = rest.split_at_checked(size) else { break };
            match kind {
                0 | 1 => said.outputs[usize::from(kind)].extend_from_slice(payload),
                kind => said.others.push((kind, payload.to_vec())),
            }
            bytes = rest;
        }
        said
    }

    fn has(&self, kind: u8, payload: &[u8]) -> bool {
        self.others.iter().any(|(other, said)| *other == kind && said == payload)
    }

    /// The end: kind, value, text.
    #[track_caller]
    fn end(&self) -> (u8, u8, String) {
        let Some((ENDED, end)) = self.others.last() else { panic!("no end: {:?}", self.others) };
        (end[0], end[1], String::from_utf8_lossy(&end[2..]).into_owned())
    }
}

#[track_caller]
fn to_the_end(client: &mut Wire) -> Said {
    Said::of(&client.read_to_end())
}

#[test]
fn a_command_runs_by_the_protocol_reference_alone() {
    in_process(|flavor| {
        let server = start(flavor);
        let mut client = agreed(&server);
        ask(&client, b"cat; echo err >&2; exit 7");
        client.read_while("room for input", |bytes| Said::of(bytes).others.len() >= 2);
        client.send(input("in"));
        client.send(packet(END_OF_STREAM, &[]));
        let said = to_the_end(&mut client);
        assert_eq!(said.outputs, [b"in".to_vec(), b"err\n".to_vec()]);
        assert_eq!(said.others[0], (TAKEN, Vec::new()), "nothing was passed");
        assert!(matches!(&said.others[1], (WINDOW, room) if room.len() == 5 && room[0] == 0));
        assert!(said.has(END_OF_STREAM, &[1]) && said.has(END_OF_STREAM, &[2]), "{said:?}");
        assert_eq!(said.end(), (0, 7, String::new()));
    });
}

#[test]
fn the_end_of_the_input_may_come_before_the_request() {
    in_process(|flavor| {
        let server = start(flavor);
        let mut client = agreed(&server);
        client.send(packet(END_OF_STREAM, &[]));
        ask(&client, b"cat; exit 4");
        assert_eq!(to_the_end(&mut client).end(), (0, 4, String::new()));
    });
}

#[test]
fn an_unread_output_does_not_hold_up_the_other() {
    in_process(|flavor| {
        let server = start(flavor);
        let mut client = agreed(&server);
        ask(&client, b"yes & sleep 0.2; echo err >&2; wait");
        let all = |bytes: &[u8]| {
            let said = Said::of(bytes);
            said.outputs[1] == b"err\n" && said.outputs[0].len() >= OUTPUT_WINDOW
        };
        client.read_while("the other output", all);
        assert_eq!(Said::of(client.seen()).outputs[0].len(), OUTPUT_WINDOW);
        assert!(client.is_silent_for(Duration::from_millis(200)));
        let taken = [&[1][..], &100_000_u32.to_le_bytes()].concat();
        client.send(packet(WINDOW, &taken));
        let more = |bytes: &[u8]| Said::of(bytes).outputs[0].len() == OUTPUT_WINDOW + 100_000;
        client.read_while("as much as was taken", more);
        // It reads that one no more: whoever writes there gets SIGPIPE.
        client.send(packet(END_OF_STREAM, &[1]));
        assert_eq!(to_the_end(&mut client).end(), (0, 0, String::new()));
    });
}

#[test]
fn bad_requests_are_refused_with_a_line() {
    in_process(|flavor| {
        let server = start(flavor);
        let long = packet(REQUEST, &[&b"c"[..], &[b'x'; 60_000]].concat());
        let cases: [(Vec<u8>, &str); 5] = [
            (packet(REQUEST, b"ca\0b"), "NUL"),
            (packet(REQUEST, b"c"), "empty"),
            (packet(REQUEST, b"?"), "does not know"),
            ([packet(REQUEST, b"ca"), packet(REQUEST, b"pb")].concat(), "two things"),
            (long.repeat(20), "1 MB"),
        ];
        for (packets, part) in cases {
            let mut client = agreed(&server);
            client.send([no_terminal(), packets, packet(VARIABLES, &[])].concat());
            let (kind, _, text) = to_the_end(&mut client).end();
            assert!(kind == 3 && text.contains(part), "{part}: {kind} {text}");
        }
        assert!(server.session_processes().is_empty());
    });
}

#[test]
fn passed_descriptors_that_are_no_streams_are_not_taken() {
    in_process(|flavor| {
        let server = start(flavor);
        let idle = server.idle_descriptors();
        let offer = |names: &[u8], files: &[&str]| {
            let client = agreed(&server);
            let rest = [no_terminal(), packet(REQUEST, b"ctrue"), packet(VARIABLES, &[])];
            let packets = [vec![packet(OFFER, names)], rest.to_vec()].concat().concat();
            let open = |path: &&str| File::open(path).expect(path);
            let files: Vec<OwnedFd> = files.iter().map(open).map(OwnedFd::from).collect();
            let numbers: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
            sendmsg::<()>(
                client.fd().as_raw_fd(),
                &[IoSlice::new(&packets)],
                &[ControlMessage::ScmRights(&numbers)],
                MsgFlags::empty(),
                None,
            )
            .expect("they are sent");
            client
        };
        for (names, files) in [
            (&b"0"[..], &["/etc/passwd"][..]),
            (b"0", &["/"]),
            (b"0", &["/dev/ptmx"]),
            (b"0", &["/dev/zero"]),
            // Open for reading only.
            (b"1", &["/dev/null"]),
            (b"00", &["/dev/null", "/dev/null"]),
            (b"3", &["/dev/null"]),
            (b"01", &["/dev/null"]),
            (b"0", &["/dev/null", "/dev/null"]),
        ] {
            let (kind, _, text) = to_the_end(&mut offer(names, files)).end();
            assert!(kind == 3 && text.contains("descriptor"), "{files:?}: {kind} {text}");
        }
        // More than there are streams: it is not even spoken to.
        let mut many = offer(b"0", &["/dev/null"; 200]);
        many.wait_for_end();
        let said = to_the_end(&mut offer(b"0", &["/dev/null"]));
        assert!(said.has(TAKEN, b"0"), "{said:?}");
        wait_until("all are closed", || server.idle_descriptors() == idle);
    });
}

#[test]
fn a_killed_gateway_ends_its_commands() {
    in_process(|flavor| {
        let server = start(flavor);
        let mut fpty = Command::new(servers::fpty());
        fpty.args([&server.path("u"), "sleep 1000; :"]);
        let pipes = Pipes::reading(fpty, Stdio::null());
        wait_until("it runs", || server.session_processes().len() == 2);
        signal(server.gateway(), Signal::SIGKILL);
        wait_until("the command is hung up", || server.session_processes().is_empty());
        let ended = pipes.finish();
        assert_eq!(ended.status.code(), Some(254), "{ended:?}");
        assert!(ended.stderr.contains("lost"), "{ended:?}");
    });
}

#[test]
fn a_flood_of_unread_input_is_bounded() {
    in_process(|flavor| {
        let server = start(flavor);
        let mut client = agreed(&server);
        ask(&client, b"exec sleep 1000");
        client.read_while("room for input", |bytes| Said::of(bytes).others.len() >= 2);
        // It does not keep to what it was told.
        let packets = input(vec![b'x'; 60_000]).repeat(50);
        let sent = client.flood(&packets, Duration::from_millis(500));
        assert!(sent < packets.len(), "{sent} bytes were taken");
        // Others are served, and it is let go when it leaves.
        let mut other = agreed(&server);
        ask(&other, b"exit 3");
        assert_eq!(to_the_end(&mut other).end(), (0, 3, String::new()));
        drop(client);
        wait_until("its command is hung up", || server.session_processes().is_empty());
    });
}
