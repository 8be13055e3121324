//! A request is done as a whole, or not at all: nothing starts before the end of the
//! request, and a late hello ends in no other program.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::client::{Mode, Pipes, Seat, both, fpty};
use crate::harness::proxy::{Line, Proxy};
use crate::harness::wire::{header, input, packet, variable};
use crate::harness::{
    Flavor, Server, Setup, Wire, in_process, process, servers, side_by_side, wait_until,
};

const HELLO: u8 = 102;
const VARIABLES: u8 = 103;
const REQUEST: u8 = 105;
const ENDED: u8 = 110;

fn setup(flavor: &Flavor, script: &str) -> Setup {
    both(Setup::new(flavor).script(script))
        .option("forkptyrouter-allow-command", "true")
        .option("forkptyrouter-detach", "9")
        .option("forkptyrouter-audit", "json")
}

fn server(flavor: &Flavor, script: &str) -> Server {
    setup(flavor, script).start()
}

/// Parts of a request before the packet that ends it.
fn requests(server: &Server) -> Vec<(&'static str, Vec<u8>)> {
    let touch = format!("touch {}", server.path("ran"));
    let command = packet(REQUEST, format!("c{touch}").as_bytes());
    let program = packet(REQUEST, format!("p/usr/bin/touch\0{}\0", server.path("ran")).as_bytes());
    let streams = [packet(VARIABLES, &variable("fpty.terminal", "0")), command.clone()].concat();
    vec![
        ("nothing", Vec::new()),
        ("a size", [header(33, 100), header(99, 101)].concat()),
        ("a signal", header(0, 15).to_vec()),
        ("input", input(format!("{touch}\n"))),
        ("the end of the input", packet(104, &[])),
        ("a command", command.clone()),
        ("a program", program),
        ("a command without a terminal", streams),
        ("half a command", command[..command.len() - 4].to_vec()),
        ("a list", packet(REQUEST, b"l")),
        ("a kill", packet(REQUEST, b"kname")),
        ("an attach", packet(REQUEST, b"aname")),
        ("a session's name", packet(VARIABLES, &variable("fpty.name", "name"))),
        ("half a header", vec![0, 0, 0]),
    ]
}

/// A refusal is all that came after the answer to the hello.
#[track_caller]
fn assert_refused(what: &str, client: &mut Wire, why: &str) {
    let said = client.read_to_end();
    assert_eq!(said.get(..4), Some(&[0, 1, 0, HELLO][..]), "{what}: {said:?}");
    assert_eq!(said.get(7..10), Some(&[ENDED, 3, 0][..]), "{what}: {said:?}");
    let text = String::from_utf8_lossy(&said[10..]).into_owned();
    assert!(text.contains(why), "{what}: {text}");
}

#[test]
fn silence_and_half_close_run_nothing() {
    in_process(|flavor| {
        let server = setup(flavor, "touch {dir}/ran; exec cat");
        let server = server.option("forkptyrouter-handshake-timeout", "1").start();
        let mut silent = Vec::new();
        for (what, said) in requests(&server) {
            let client = server.connect("u");
            client.send([&header(1, HELLO)[..], &said].concat());
            silent.push((what, client));
            let mut ends = server.connect("u");
            ends.send([&header(1, HELLO)[..], &said].concat());
            ends.end_of_input();
            assert_refused(what, &mut ends, "in the midst of the request");
        }
        for (what, client) in &mut silent {
            assert_refused(what, client, "silence for 1 seconds");
        }
        assert!(!Path::new(&server.path("ran")).exists() && server.programs().is_empty());
        let count = 2 * silent.len();
        wait_until("each is audited", || server.count_in_log("\"reason\":\"handshake\"") == count);
        // A client that reads on knows what to say of it.
        let plain = server.connect("u");
        plain.end_of_input();
        wait_until("the plain mode begins", || Path::new(&server.path("ran")).exists());
    });
}

#[test]
fn a_slow_request_is_done_as_a_whole() {
    in_process(|flavor| {
        let server = setup(flavor, "exec cat");
        let server = server.option("forkptyrouter-handshake-timeout", "1").start();
        let line = Line { piece: 20_000, pause: Duration::from_millis(100), ..Line::default() };
        let proxy = Proxy::of_tcp(&server.path("u"), line);
        side_by_side(["-T", "-t"], |terminal| {
            let mut client = fpty(Mode::Uwsgi, &proxy.address);
            client.arg(terminal).args(["--", "sh", "-c", "echo $#", "sh"]);
            client.args((0..50_000).map(|number| number.to_string()));
            let begin = Instant::now();
            let text = Pipes::open(client).finish().text();
            assert_eq!(text.trim_end(), "50000");
            assert!(begin.elapsed() > Duration::from_secs(1));
        });
    });
}

/// The gateway is stopped in the meantime, for longer than a clock of old had.
#[test]
fn a_stopped_gateway_completes_the_handshake_later() {
    in_process(|flavor| {
        let cases: [(&[&str], &str, &str); 4] = [
            (&["-T", "echo out; exit 7"], "", "out\n"),
            (&["-t", "echo out; exit 7"], "", "out\r\n"),
            (&[], "stty -echo; echo out; exit 7\n", "out\r\n"),
            (&["-T", "cat; exit 7"], "out\n", "out\n"),
        ];
        side_by_side(cases, |(arguments, typed, shown)| {
            let server = server(flavor, "PS1= exec sh");
            let gateway = server.gateway();
            process::signal(gateway, Signal::SIGSTOP);
            let mut client = fpty(Mode::Uwsgi, &server.path("u"));
            client.args(arguments);
            let mut client = Pipes::open(client);
            client.send(typed);
            client.stdin = None;
            std::thread::sleep(Duration::from_millis(1300));
            process::signal(gateway, Signal::SIGCONT);
            let finished = client.finish();
            let text = String::from_utf8_lossy(&finished.stdout);
            assert_eq!(finished.status.code(), Some(7), "{arguments:?} {finished:?}");
            assert!(text.ends_with(shown), "{arguments:?} {text:?}");
        });
    });
}

/// A shell's job in the background stops before it uses its terminal: nobody
/// waits for it meanwhile.
#[test]
fn a_stopped_client_requests_nothing() {
    in_process(|flavor| {
        let server = server(flavor, "echo configured; exec cat");
        let mut client = fpty(Mode::Uwsgi, &server.path("u"));
        client.arg("echo here; exit 9");
        let mut seat = Seat::idle(&client);
        seat.terminal.wire.send("\"$@\" & sleep 2; fg\n");
        wait_until("it is stopped", || {
            let jobs = process::children(seat.terminal.leader());
            jobs.iter().any(|job| job.name == "fpty" && job.state == 'T')
        });
        assert!(server.programs().is_empty());
        seat.terminal.wire.read_until("here\r\n");
        let (status, before) = seat.back_at_the_shell();
        assert_eq!(status, 9, "{before:?}");
        assert!(!before.contains("configured"), "{before:?}");
    });
}

fn through(proxy: &Proxy, arguments: &[&str]) -> Command {
    let mut client = fpty(Mode::Uwsgi, &proxy.address);
    client.args(arguments);
    client
}

/// The first word comes 60 and more milliseconds after the connection, to
/// programs that say nothing, that show something at once, and that have ended.
#[test]
fn a_late_hello_runs_no_other_program() {
    in_process(|flavor| {
        side_by_side(
            ["exec cat", "echo configured; exec cat", "echo configured; exit 5", "exit 5"],
            |script| {
                let script = format!("echo started >> {{dir}}/started; {script}");
                let server = setup(flavor, &script).start();
                let delay = Duration::from_millis(70);
                let proxy = Proxy::unix(&server.path("u"), Line { delay, ..Line::default() });
                for terminal in ["-T", "-t"] {
                    let client = through(&proxy, &[terminal, "echo out; exit 7"]);
                    let finished = Pipes::open(client).finish();
                    let text = String::from_utf8_lossy(&finished.stdout).into_owned();
                    assert_eq!(
                        (finished.status.code(), text.trim_end()),
                        (Some(7), "out"),
                        "{script}"
                    );
                }
                let finished = Pipes::open(through(&proxy, &["-l"])).finish();
                assert_eq!(finished.status.code(), Some(0), "{script} {finished:?}");
            },
        );
    });
}

/// A client that sends nothing would be refused: one that lists or ends sessions needs no
/// permit, and may be late.
#[test]
fn a_late_list_or_kill_is_served_at_the_session_limit() {
    for limit in ["forkptyrouter-max-sessions", "forkptyrouter-max-user-sessions"] {
        let setup = setup(servers::any(), "echo ready; exec cat");
        let server = setup.option(limit, "1").option("forkptyrouter-stats", "{dir}/stats").start();
        let mut session = server.connect("u");
        session.read_until("ready");
        let delay = Duration::from_millis(150);
        let proxy = Proxy::unix(&server.path("u"), Line { delay, ..Line::default() });
        let listed = Pipes::open(through(&proxy, &["--list", "--json"])).finish();
        assert_eq!(listed.status.code(), Some(0), "{limit}: {listed:?}");
        let rows: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        let id = rows[0]["id"].as_str().expect("the session");
        let killed = Pipes::open(through(&proxy, &["--kill", id])).finish();
        assert_eq!(killed.status.code(), Some(0), "{limit}: {killed:?}");
        assert!(session.text_to_end().contains("ended by an operator"));
        // Who goes on to say nothing is told why it gets nothing.
        let mut session = server.connect("u");
        session.read_until("ready");
        assert!(
            server.connect("u").text_to_end().contains(limit.trim_start_matches("forkptyrouter-"))
        );
    }
}

/// A session, where the first of its programs had a prompt to show.
#[test]
fn a_late_session_request_begins_anew_or_is_refused() {
    in_process(|flavor| {
        // A gateway waits longer for who was late: each has a server of its own.
        let late = |milliseconds: u64| {
            let server = server(flavor, "echo ready; read line; exit $line");
            let delay = Duration::from_millis(milliseconds);
            let proxy = Proxy::unix(&server.path("u"), Line { delay, ..Line::default() });
            (server, proxy)
        };
        let (_server, proxy) = late(150);
        let mut client = Pipes::open(through(&proxy, &[]));
        client.stdout.read_until("ready\r\n");
        client.stdout.read_until("the request came too late");
        // What is typed now is for the one that has begun anew.
        client.stdout.read_until("ready\r\n");
        client.send("7\n");
        assert_eq!(client.finish().status.code(), Some(7));
        // What was typed for the first one as well.
        let (_server, proxy) = late(150);
        let mut client = Pipes::open(through(&proxy, &[]));
        client.send("7\n");
        client.stdin = None;
        assert_eq!(client.finish().status.code(), Some(7));

        // So late that nobody waits for it.
        let requests = [vec!["-T", "touch ran"], vec!["-t", "touch ran"], vec![], vec!["-l"]];
        side_by_side(requests, |arguments| {
            let (server, proxy) = late(700);
            let ran = server.path("ran");
            let arguments: Vec<&str> =
                arguments.into_iter().map(|it| if it == "touch ran" { &ran } else { it }).collect();
            let finished = Pipes::open(through(&proxy, &arguments)).finish();
            assert_eq!(finished.status.code(), Some(255), "{arguments:?} {finished:?}");
            assert!(finished.stderr.contains("before our request arrived"), "{finished:?}");
            assert!(!Path::new(&ran).exists());
        });
    });
}
