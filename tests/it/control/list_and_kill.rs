//! The list of sessions and the end of one of them: over all sockets and gateways, for
//! whoever may know.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::connection::extended_mode::to_the_end;
use crate::harness::client::{Finished, Pipes};
use crate::harness::ports::free_port;
use crate::harness::terminal::Terminal;
use crate::harness::wire::header;
use crate::harness::wire::packet;
use crate::harness::{Server, Setup, Wire, in_process, process, servers, wait_until};

/// A user who has only a number.
const SOMEBODY: u32 = 4001;
const ANOTHER: u32 = 4002;

const NOTHING: [Value; 0] = [];

fn is_root() -> bool {
    nix::unistd::getuid().is_root()
}

/// A server whose folder and sockets everybody may enter.
fn open(setup: Setup) -> Server {
    let server = setup.argument("--chmod-socket=666").start();
    fs::set_permissions(server.path(""), fs::Permissions::from_mode(0o755)).expect("its folder");
    server
}

fn fpty(uid: Option<u32>, arguments: &[&str]) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.env_clear().env("TERM", "xterm").args(arguments);
    if let Some(uid) = uid {
        fpty.uid(uid).gid(uid);
    }
    fpty
}

fn run(uid: Option<u32>, arguments: &[&str]) -> Finished {
    Pipes::reading(fpty(uid, arguments), Stdio::null()).finish()
}

#[track_caller]
fn list(uid: Option<u32>, address: &str) -> Vec<Value> {
    let ended = run(uid, &["--list", "--json", address]);
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[track_caller]
fn kill(uid: Option<u32>, id: &str, address: &str) {
    let ended = run(uid, &["--kill", id, address]);
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
}

/// The one answer for what is not there, and for what is not one's own.
#[track_caller]
fn there_is_none(uid: Option<u32>, id: &str, address: &str) {
    let ended = run(uid, &["--kill", id, address]);
    assert_eq!(ended.status.code(), Some(255), "{ended:?}");
    assert_eq!(ended.stderr, "fpty: there is no such session\n");
}

fn id(session: &Value) -> &str {
    session["id"].as_str().expect("an id")
}

/// A raw session of this process, that has begun.
#[track_caller]
fn raw(server: &Server, socket: &str) -> Wire {
    let mut wire = server.connect(socket);
    wire.shell("true");
    wire
}

#[test]
fn a_session_is_described_when_somebody_asks() {
    in_process(|flavor| {
        let server = open(
            Setup::new(flavor)
                .option("forkpty-urouter", "{dir}/u")
                .option("forkpty-router", "{dir}/s")
                .option("forkptyrouter-allow-command", "true"),
        );
        let to = server.path("u");
        assert_eq!(list(None, &to), NOTHING);
        let mut wire = raw(&server, "s");
        let sessions = list(None, &to);
        let [session] = &sessions[..] else { panic!("{sessions:?}") };
        assert_eq!(id(session).len(), 8);
        assert_eq!(session["uid"], nix::unistd::getuid().as_raw());
        let me = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
        assert_eq!(session["user"], me);
        assert_eq!(session["peer_pid"], std::process::id());
        assert_eq!(session["socket"], server.path("s"));
        assert_eq!((&session["rows"], &session["cols"]), (&json!(24), &json!(80)));
        let pid = session["pid"].as_i64().unwrap() as i32;
        assert!(server.programs().iter().any(|program| program.pid == pid), "{session}");
        let tty = std::fs::read_link(format!("/proc/{pid}/fd/0")).unwrap();
        assert_eq!(session["tty"].as_str(), tty.to_str());
        assert!(session["started"].as_str().unwrap().starts_with("20"), "{session}");
        assert!(session["idle"].as_f64().unwrap() < 20.0, "{session}");
        assert_eq!(session["attached"], true);
        // The table of the same.
        let table = run(None, &["-l", &to]);
        let text = table.text();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("ID ") && lines.len() == 2, "{text}");
        assert!(lines[1].starts_with(id(session)) && lines[1].contains("80x24"), "{text}");
        // A command, with a terminal and without.
        let mut command = Pipes::open(fpty(None, &[&to, "echo begun; exec cat"]));
        command.stdout.read_until("begun");
        let mut terminal = Terminal::run(fpty(None, &["-t", &to, "echo be'gun'; read x"]), 30, 99);
        terminal.wire.read_until("begun\r\n");
        let sessions = list(None, &to);
        assert_eq!(sessions.len(), 3, "{sessions:?}");
        let of = |command: &str| {
            let found = sessions.iter().find(|one| one["command"] == command);
            found.unwrap_or_else(|| panic!("{command}: {sessions:?}"))
        };
        let one = of("echo begun; exec cat");
        assert_eq!((&one["tty"], &one["rows"]), (&Value::Null, &Value::Null));
        let one = of("echo be'gun'; read x");
        assert_eq!((&one["rows"], &one["cols"]), (&json!(30), &json!(99)));
        // Each is ended, and told so.
        kill(None, id(of("echo be'gun'; read x")), &to);
        terminal.wire.read_until("session ended by an operator (fpty --kill)");
        assert_eq!(terminal.wait().code(), Some(254));
        kill(None, id(of("echo begun; exec cat")), &to);
        let ended = command.finish();
        assert_eq!(ended.status.code(), Some(254), "{ended:?}");
        assert_eq!(ended.stderr, "fpty: session ended by an operator (fpty --kill)\n");
        kill(None, id(session), &to);
        let text = wire.text_to_end();
        let line = "\r\nforkptyrouter: session ended by an operator (fpty --kill)\r\n";
        assert!(text.ends_with(line), "{text:?}");
        there_is_none(None, id(session), &to);
        // What keeps a terminal that was handed over stays, for the next one.
        wait_until("nothing is left", || {
            server.session_processes().iter().all(|one| one.name == "fpty-supervisor")
        });
    });
}

#[test]
fn sessions_of_other_users_do_not_exist() {
    if !is_root() {
        return;
    }
    in_process(|flavor| {
        let tcp = free_port();
        let server = open(
            Setup::new(flavor)
                .option("forkptyrouter-processes", "3")
                .option("forkptyrouter-allow-command", "true")
                .option("forkpty-urouter", "{dir}/u")
                .option("forkpty-urouter", "{dir}/v")
                .option("forkpty-urouter", &format!("127.0.0.1:{tcp}")),
        );
        let (u, v, tcp) = (server.path("u"), server.path("v"), format!("127.0.0.1:{tcp}"));
        let begin = |uid: u32, to: &str| {
            let mut client = Pipes::open(fpty(Some(uid), &[to, "echo begun; exec cat"]));
            client.stdout.read_until("begun");
            client
        };
        let mut somebody: Vec<_> = (0..12).map(|n| begin(SOMEBODY, [&u, &v][n % 2])).collect();
        let another = begin(ANOTHER, &u);
        let of_tcp = begin(SOMEBODY, &tcp);
        let own = list(Some(SOMEBODY), &v);
        assert_eq!(own.len(), 12);
        assert!(own.iter().all(|one| one["uid"] == SOMEBODY), "{own:?}");
        let others = list(Some(ANOTHER), &u);
        assert_eq!(others.len(), 1);
        let all = list(None, &u);
        assert_eq!(all.len(), 14);
        let unknown = all.iter().find(|one| one["uid"].is_null()).expect("over TCP");
        assert_eq!((&unknown["user"], &unknown["socket"]), (&Value::Null, &json!(tcp)));
        // Nobody is known there, root neither.
        assert_eq!(list(None, &tcp), NOTHING);
        for uid in [Some(SOMEBODY), None] {
            there_is_none(uid, id(&own[0]), &tcp);
        }
        // Another's, one over TCP, and guesses.
        for guess in [id(&own[0]), &id(&own[0])[..7], id(unknown), "zzzzzzzz", "0123456789"] {
            there_is_none(Some(ANOTHER), guess, &u);
        }
        for letter in "0123456789abcdefghjkmnpqrstvwxyz".chars() {
            if !id(&others[0]).starts_with(letter) {
                there_is_none(Some(ANOTHER), &letter.to_string(), &u);
            }
        }
        assert_eq!(list(None, &u).len(), 14, "all go on");
        // A beginning that several have, of 13 with 32 letters: one may be lucky.
        let beginnings: Vec<_> = own.iter().map(|one| &id(one)[..1]).collect();
        let several = beginnings
            .iter()
            .find(|one| beginnings.iter().filter(|other| other == one).count() > 1);
        if let Some(several) = several {
            let ended = run(Some(SOMEBODY), &["-k", several, &u]);
            assert_eq!(ended.status.code(), Some(255));
            assert_eq!(ended.stderr, format!("fpty: several sessions are meant by {several}\n"));
        }
        // One beginning that only one has, in large letters; whoever it is ends.
        kill(Some(SOMEBODY), &id(&own[0])[..7].to_uppercase(), &u);
        wait_until("one is gone", || list(Some(SOMEBODY), &u).len() == 11);
        kill(None, id(&own[1]), &v);
        kill(None, id(&others[0]), &v);
        kill(None, id(unknown), &v);
        assert_eq!(another.finish().status.code(), Some(254));
        assert_eq!(of_tcp.finish().status.code(), Some(254));
        wait_until("their ends are told", || list(None, &u).len() == 10);
        somebody.clear();
        wait_until("all are gone", || list(None, &u).is_empty());
    });
}

#[test]
fn a_handed_over_session_is_listed_and_killed() {
    in_process(|flavor| {
        let server = open(
            Setup::new(flavor)
                .option("forkpty-urouter", "{dir}/u")
                .option("forkptyrouter-audit", "json"),
        );
        let to = server.path("u");
        let mut terminal = Terminal::run(fpty(None, &[&to]), 30, 100);
        terminal.wire.read_until("$ ");
        wait_until("the client has the terminal", || {
            let open = process::descriptors(terminal.leader());
            open.iter().any(|(_, path)| path.ends_with("ptmx"))
        });
        let sessions = list(None, &to);
        let [session] = &sessions[..] else { panic!("{sessions:?}") };
        assert_eq!((&session["rows"], &session["cols"]), (&json!(30), &json!(100)));
        assert_eq!(session["peer_pid"], terminal.leader());
        kill(None, &id(session)[..6], &to);
        terminal.wire.read_until("session ended by an operator (fpty --kill)");
        assert_eq!(terminal.wait().code(), Some(254));
        server.wait_for_log("\"reason\":\"operator\"");
        wait_until("its program is gone", || server.programs().is_empty());
    });
}

/// Requests that wait for a gateway that hangs go on, and a gateway at its session limit
/// still answers.
#[test]
fn a_hung_gateway_is_done_without_and_a_full_one_still_answers() {
    in_process(|flavor| {
        let server = open(
            Setup::new(flavor)
                .option("forkptyrouter-processes", "2")
                .option("forkptyrouter-max-sessions", "40")
                .option("forkpty-urouter", "{dir}/u")
                .option("forkpty-router", "{dir}/s"),
        );
        let to = server.path("u");
        let clients: Vec<_> = (0..40).map(|_| raw(&server, "s")).collect();
        assert!(server.connect("s").text_to_end().contains("max-sessions"));
        let all = list(None, &to);
        assert_eq!(all.len(), 40);
        kill(None, id(&all[0]), &to);
        wait_until("one is gone", || list(None, &to).len() == 39);
        let gateways = process::children(server.master());
        let other = gateways.iter().map(|one| one.pid).find(|pid| *pid != server.gateway());
        let other = other.expect("there are two");
        process::signal(other, Signal::SIGSTOP);
        let ended = run(None, &["-l", "--json", &to]);
        process::signal(other, Signal::SIGCONT);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert_eq!(ended.stderr, "fpty: sessions lack: gateways that do not answer: 1\n");
        let heard: Vec<Value> = serde_json::from_slice(&ended.stdout).expect("a list");
        assert!(heard.len() < 39, "{}", heard.len());
        drop(clients);
        wait_until("all are gone", || list(None, &to).is_empty());
    });
}

/// Detached sessions have more fields, and are ended without a client.
#[test]
fn detached_sessions_are_listed_and_killed() {
    in_process(|flavor| {
        let server = open(
            Setup::new(flavor)
                .option("forkpty-urouter", "{dir}/u")
                .option("forkpty-urouter", "{dir}/v")
                .option("forkptyrouter-allow-command", "true")
                .option("forkptyrouter-detach", "5"),
        );
        let (to, v) = (server.path("u"), server.path("v"));
        let begin = |name: &str, command: &[&str]| {
            let words = [&["-n", name, "-t", &to][..], command].concat();
            let mut terminal = Terminal::run(fpty(None, &words), 30, 100);
            terminal.wire.read_until(if command.is_empty() { "$ " } else { "begun" });
            wait_until("it is raw", || terminal.is_raw());
            terminal
        };
        let mut build = begin("build", &[]);
        let mut other = begin("other", &["echo begun; read x; exit 3"]);
        let of = |name: &str| {
            let sessions = list(None, &v);
            let found = sessions.iter().find(|one| one["name"] == name);
            found.cloned().unwrap_or_else(|| panic!("{name}: {sessions:?}"))
        };
        let before = of("build");
        assert_eq!((&before["attached"], &before["ended"]), (&json!(true), &json!(false)));
        for terminal in [&mut build, &mut other] {
            terminal.wire.send("\r~d");
            assert_eq!(terminal.wait().code(), Some(0));
        }
        let left = of("build");
        for same in ["id", "pid", "uid", "tty", "rows", "cols", "command", "socket"] {
            assert_eq!(left[same], before[same], "{same}");
        }
        assert_eq!((&left["attached"], &left["peer_pid"]), (&json!(false), &Value::Null));
        assert!(left["detached_since"].as_str().unwrap().starts_with("20"), "{left}");
        // One that has read its line has ended.
        wait_until("the other one has ended", || of("other")["ended"] == true);
        let ended = of("other");
        assert_eq!((&ended["status"], &ended["pid"]), (&json!(3), &Value::Null));
        assert_eq!(ended["command"], "echo begun; read x; exit 3");
        if is_root() {
            assert_eq!(list(Some(SOMEBODY), &to), NOTHING);
            there_is_none(Some(SOMEBODY), "build", &to);
            there_is_none(Some(SOMEBODY), id(&left), &to);
        }
        kill(None, "build", &to);
        kill(None, &id(&ended)[..7], &v);
        assert_eq!(list(None, &to), NOTHING);
        wait_until("its program is gone", || server.programs().is_empty());
    });
}

/// By the protocol's reference, with bytes of our own; and nonsense.
#[test]
fn list_and_kill_packets_are_those_of_the_reference() {
    in_process(|flavor| {
        let server = open(
            Setup::new(flavor)
                .option("forkpty-urouter", "{dir}/u")
                .option("forkpty-router", "{dir}/s"),
        );
        let ask = |request: &[u8]| {
            let mut client = server.connect("u");
            client.send(header(1, 102));
            client.send(packet(105, request));
            client.send(packet(103, &[]));
            to_the_end(&mut client)
        };
        let said = ask(b"l");
        assert_eq!(
            (said.output.as_slice(), said.ended.as_slice()),
            (&b"[]"[..], &[(0, 0, String::new())][..])
        );
        let session = raw(&server, "s");
        let said = ask(b"l");
        let list: Vec<Value> = serde_json::from_slice(&said.output).expect("a list");
        assert_eq!(list.len(), 1);
        let none = (3, 0, String::from("there is no such session"));
        for request in
            [&b"k"[..], b"k\0", b"k*", b"k../..", b"k01234567890", b"kno-name", b"k\xff\xff"]
        {
            let said = ask(request);
            assert_eq!(said.ended, std::slice::from_ref(&none), "{request:?}");
        }
        let said = ask(format!("k{}", id(&list[0])).as_bytes());
        assert_eq!(said.ended, [(0, 0, String::new())]);
        let mut session = session;
        session.read_until("session ended by an operator");
        // Those that ask and do not read cost nobody else anything.
        let idle: Vec<_> = (0..300)
            .map(|_| {
                let client = server.connect("u");
                client.send(header(1, 102));
                client.send(packet(105, b"l"));
                client
            })
            .collect();
        assert_eq!(ask(b"l").output, b"[]");
        drop(idle);
    });
}
