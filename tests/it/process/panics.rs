//! A bug ends what it was about, and nothing else: the gateway and all others
//! go on, and nothing is left behind. The gateway of the tests has panics on
//! demand (`crates/fpty-gateway/src/event_loop/fault_injection.rs`): whoever sends
//! `forkpty-fault-in-PLACE` panics there, and a session that types
//! `forkpty-fault-at-PLACE;` has the next one panic who comes there.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::harness::attach_client::AttachClient;
use crate::harness::client::{Finished, Pipes};
use crate::harness::cost::{Holdings, echoes, wait_until_as_before};
use crate::harness::process::{self, Process};
use crate::harness::wire::{header, input, packet, variable};
use crate::harness::{Server, Setup, Wire, servers, wait_until};

/// A gateway with faults, and a session that is to notice nothing of them.
struct Case {
    server: Server,
    gateway: i32,
    other: Wire,
    before: Holdings,
    faults: usize,
}

impl Case {
    #[track_caller]
    fn new(options: &[(&str, &str)]) -> Self {
        let setup = Setup::new(servers::no_server())
            .option("forkptyrouter-command", "/bin/sh")
            .option("forkpty-urouter", "{dir}/u")
            .option("forkptyrouter-allow-command", "true");
        let setup = options.iter().fold(setup, |setup, (name, value)| match *value {
            "" => setup.switch(name),
            _ => setup.option(name, value),
        });
        let server = setup.env("RUST_BACKTRACE", "0").env("FORKPTY_FAULTS", "1").raw();
        server.idle_descriptors();
        let mut other = server.connect("s");
        other.send("stty raw -echo; echo rea''dy; exec cat\n");
        other.read_until("ready");
        let mut gateway = 0;
        wait_until("cat runs", || {
            // It may be one of several gateways'.
            let all = server.processes();
            let cat = all.iter().find(|process| process.name == "cat");
            cat.inspect(|cat| gateway = cat.parent).is_some()
        });
        echoes(&mut other, 1);
        let before = Holdings::of(gateway);
        Self { server, gateway, other, before, faults: 0 }
    }

    /// The next one who comes there panics.
    #[track_caller]
    fn arms(&mut self, place: &str) {
        let asked = format!("forkpty-fault-at-{place};");
        self.other.send(&asked);
        self.other.read_until(&asked);
    }

    /// One more has panicked, and nothing is left of that.
    #[track_caller]
    fn nothing_is_left(&mut self, place: &str) {
        eprintln!("after a panic: {place}");
        self.faults += 1;
        let faults = self.faults;
        wait_until(&format!("the log tells of {faults} panics"), || self.told() >= faults);
        echoes(&mut self.other, 3);
        wait_until_as_before(self.gateway, self.before);
        assert!(Process::of(self.gateway).is_some(), "the same gateway");
        assert_eq!(self.told(), faults, "again and again");
        assert_eq!(self.server.count_in_log("dropped as it is"), 0);
    }

    /// How often the log tells of a panic.
    fn told(&self) -> usize {
        self.server.count_in_log("internal error: injected fault")
    }

    fn fpty(&self, words: &[&str]) -> Command {
        let mut fpty = Command::new(servers::fpty());
        fpty.env_clear().env("TERM", "xterm").args(words);
        fpty
    }

    fn run(&self, words: &[&str]) -> Finished {
        Pipes::reading(self.fpty(words), Stdio::null()).finish()
    }

    fn address(&self) -> String {
        self.server.path("u")
    }

    /// A client of uwsgi mode that says this, and then hears nothing more.
    #[track_caller]
    fn says(&self, socket: &str, bytes: &[u8]) -> String {
        let mut client = self.server.connect(socket);
        client.send(bytes);
        client.text_to_end()
    }
}

/// Packets of a client in extended mode before its program starts.
fn hello(said: &[Vec<u8>]) -> Vec<u8> {
    [&header(1, 102)[..], &said.concat(), &packet(103, &[])].concat()
}

const INTERNAL: &str = "internal error in the gateway";

#[test]
fn a_panic_before_a_program_starts_ends_that_connection_alone() {
    // A client whose handshake panics releases its permit, or the third has none.
    let mut case = Case::new(&[("forkptyrouter-max-sessions", "3")]);
    for _ in 0..4 {
        let told = case.says("u", &input("forkpty-fault-in-greeting"));
        assert!(told.contains(INTERNAL), "{told:?}");
        case.nothing_is_left("the first word");

        // It is waited for, so that it would be told of without end.
        let mut client = case.server.connect("u");
        client.send(header(1, 102));
        client.read_until("f");
        client.send(variable("X", "forkpty-fault-in-greeting"));
        let told = client.text_to_end();
        assert!(told.contains(INTERNAL), "{told:?}");
        drop(client);
        case.nothing_is_left("after a hello");

        case.arms("silence");
        let told = case.server.connect("u").text_to_end();
        assert!(told.contains(INTERNAL), "{told:?}");
        case.nothing_is_left("silence");
    }
    case.arms("accepted");
    case.server.connect("u").wait_for_end();
    case.nothing_is_left("the door");
    assert_eq!(case.run(&[&case.address(), "echo again"]).text(), "again\n");
}

#[test]
fn a_panic_while_a_session_opens_ends_that_session_alone() {
    let options = [("forkptyrouter-max-sessions", "3"), ("forkptyrouter-audit", "json")];
    let mut case = Case::new(&[&options[..], &[("forkptyrouter-detach", "5")]].concat());
    for place in ["spawned", "inserted", "noted", "registered"] {
        case.arms(place);
        case.server.connect("s").wait_for_end();
        case.nothing_is_left(place);
    }
    for place in ["spawned", "inserted", "noted", "registered", "opened"] {
        case.arms(place);
        case.says("u", &input("sleep 1000\n"));
        case.nothing_is_left(place);
        case.arms(place);
        let told = case.says("u", &hello(&[packet(105, b"csleep 1000")]));
        let is_known = place != "spawned";
        assert_eq!(told.contains(INTERNAL), is_known, "{place}: {told:?}");
        case.nothing_is_left(place);
    }
    case.arms("kept");
    let mut client = AttachClient::begins(&case.server, &[]);
    // Refused or lost, by how soon its program was executed.
    assert!(matches!(client.ended(), (3 | 8, _, why) if why.contains(INTERNAL)));
    drop(client);
    case.nothing_is_left("kept");
    let told = |text: &str| case.server.count_in_log(text);
    assert_eq!(told("session-start") - told("session-end"), 1, "{}", case.server.log());
}

#[test]
fn a_panic_in_a_session_ends_that_session_alone() {
    let mut case = Case::new(&[("forkptyrouter-max-sessions", "3")]);
    let fault = "forkpty-fault-in-input";
    for _ in 0..3 {
        let told = case.says("s", fault.as_bytes());
        assert!(told.contains(INTERNAL), "{told:?}");
        case.nothing_is_left("raw input");
        case.says("u", &[input("sleep 1000\n"), input(fault)].concat());
        case.nothing_is_left("input");
        let mut client = AttachClient::connects(&case.server, "u", None, &[]);
        client.sees("$ ");
        client.types(fault);
        let (kind, _, why) = client.ended();
        assert!(kind == 8 && why.contains(INTERNAL), "{kind} {why}");
        drop(client);
        case.nothing_is_left("extended input");
        let told = case.says("s", b"printf forkpty-fault-in-'output'; sleep 1000\n");
        assert!(told.contains(INTERNAL), "{told:?}");
        case.nothing_is_left("output");
    }
    for place in ["reaped", "told-end"] {
        case.arms(place);
        case.says("s", b"exit\n");
        case.nothing_is_left(place);
    }
    let client = case.server.connect("s");
    client.send("sleep 1000\n");
    case.arms("told-end");
    drop(client);
    case.nothing_is_left("the end of one who leaves");
    let mut client = case.server.connect("s");
    client.read_until("$ ");
    case.arms("end-of-input");
    client.end_of_input();
    client.wait_for_end();
    drop(client);
    case.nothing_is_left("a timer");
}

#[test]
fn a_panic_in_a_command_ends_that_command_alone() {
    let options = [("forkptyrouter-max-sessions", "3"), ("forkptyrouter-audit", "json")];
    let mut case = Case::new(&[&options[..], &[("forkptyrouter-pass-stdio", "false")]].concat());
    let address = case.address();
    for place in ["command-spawned", "command-inserted", "command-noted", "reaped"] {
        case.arms(place);
        let command = if place == "reaped" { "exit 5" } else { "sleep 1000" };
        let ended = case.run(&[&address, command]);
        assert!(!matches!(ended.status.code(), Some(0 | 5)), "{place}: {ended:?}");
        case.nothing_is_left(place);
    }
    let mut client = Pipes::open(case.fpty(&[&address, "cat; sleep 1000"]));
    client.send("begun\n");
    client.stdout.read_until("begun");
    client.send("forkpty-fault-in-command");
    let ended = client.finish();
    assert!(ended.status.code() == Some(254) && ended.stderr.contains(INTERNAL), "{ended:?}");
    case.nothing_is_left("its input");
    let ended = case.run(&[&address, "printf forkpty-fault-in-'stream'; sleep 1000"]);
    assert!(ended.status.code() == Some(254) && ended.stderr.contains(INTERNAL), "{ended:?}");
    case.nothing_is_left("its output");
}

#[test]
fn a_panic_in_a_list_or_kill_request_ends_that_request_alone() {
    let mut case = Case::new(&[("forkptyrouter-processes", "2")]);
    let address = case.address();
    for place in ["inquiry", "list"] {
        // Whom it meets is in the hands of the kernel.
        case.arms(place);
        let mut tries = (0..200).map(|_| case.run(&["--list", "--json", &address]));
        let ended = tries.find(|ended| ended.status.code() != Some(0)).expect("a panic");
        assert!(ended.status.code() == Some(255) && ended.stderr.contains(INTERNAL), "{ended:?}");
        case.nothing_is_left(place);
    }
    for place in ["question", "answer"] {
        case.arms(place);
        let has_panicked = || {
            let ended = case.run(&["--list", "--json", &address]);
            assert!(matches!(ended.status.code(), Some(0 | 255)), "{ended:?}");
            case.told() > case.faults
        };
        assert!((0..200).any(|_| has_panicked()), "{place}");
        case.nothing_is_left(place);
    }
}

#[test]
fn a_panic_in_the_statistics_ends_that_request_alone() {
    let stats = [("forkptyrouter-stats", "{dir}/stats"), ("stats-http", "")];
    let mut case = Case::new(&stats);
    case.arms("statistics");
    case.server.connect("stats").wait_for_end();
    case.nothing_is_left("statistics");
    let client = case.server.connect("stats");
    client.send("GET /forkpty-fault-in-statistics HTTP/1.0\r\n");
    case.nothing_is_left("the request of the statistics");
    let mut client = case.server.connect("stats");
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert!(client.text_to_end().contains("active_sessions"));
}

/// One is left, of this name, and counts for what there was before.
#[track_caller]
fn detach_named(case: &mut Case, name: &str) {
    AttachClient::begins(&case.server, &[("fpty.name", name)]).takes().leaves();
    // Its terminal, and its program; what it shows is kept without one.
    case.before.descriptors += 2;
    case.before.children += 1;
    wait_until_as_before(case.gateway, case.before);
}

/// A client attaches to a session.
#[track_caller]
fn lives(case: &Case, name: &str) -> AttachClient {
    let mut back = AttachClient::comes(&case.server, name, &[]).takes();
    back.terminal().send("echo al''ive\n");
    back.terminal().read_until("alive");
    back
}

#[test]
fn a_panic_while_detached_or_attaching_ends_that_session_alone() {
    let mut case = Case::new(&[("forkptyrouter-detach", "9"), ("forkptyrouter-max-sessions", "5")]);
    detach_named(&mut case, "other");
    let others = case.before;
    let mut one = AttachClient::begins(&case.server, &[("fpty.name", "one")]).takes();
    one.terminal().send("sleep 0.3; printf forkpty-fault-in-'left'; sleep 1000\n");
    one.terminal().read_until("sleep 1000\r\n");
    one.leaves();
    case.nothing_is_left("the output of one without a client");
    for place in ["coming", "back", "back-again"] {
        detach_named(&mut case, "one");
        case.before = others;
        case.arms(place);
        let mut client = AttachClient::comes(&case.server, "one", &[]);
        let told = (place != "coming").then(|| client.ended().2);
        assert!(told.is_none_or(|why| why.contains(INTERNAL)));
        drop(client);
        case.nothing_is_left(place);
    }
    let client = AttachClient::begins(&case.server, &[("fpty.name", "one")]).takes();
    case.arms("leaving");
    drop(client);
    case.nothing_is_left("leaving");
    detach_named(&mut case, "one");
    case.before = others;
    // What is due is that somebody has come and says nothing.
    case.arms("left");
    let silent = AttachClient::comes(&case.server, "one", &[]);
    wait_until("it panics", || case.told() > case.faults);
    drop(silent);
    case.nothing_is_left("what is looked after");
    let is_there = |name: &str| {
        let mut client = AttachClient::comes(&case.server, name, &[]);
        client.gets_an_answer();
        client.end.is_none()
    };
    assert!(!is_there("one") && is_there("other"));
}

#[test]
fn a_panic_in_a_viewer_ends_that_viewer_alone() {
    let mut case = Case::new(&[("forkptyrouter-detach", "9")]);
    let mut seen = AttachClient::begins(&case.server, &[("fpty.name", "seen")]).takes();
    // Its client, its terminal, and what it shows.
    case.before.descriptors += 3;
    case.before.children += 1;
    for place in ["watching", "what it says"] {
        let mut watcher = AttachClient::comes(&case.server, "seen", &[("fpty.readonly", "1")]);
        watcher.waits("an offer", |watcher| !watcher.offer.is_empty());
        match place {
            "watching" => case.arms(place),
            _ => watcher.types("forkpty-fault-in-watcher"),
        }
        // One that stays is waited for, so that it hears all.
        wait_until("it panics", || case.told() > case.faults);
        drop(watcher);
        case.nothing_is_left(place);
        seen.terminal().send("echo al''ive\n");
        seen.terminal().read_until("alive");
    }
}

/// Descriptors that outlive a gateway, and the gateway that takes them up.
#[test]
fn a_panic_in_the_restore_ends_that_session_alone() {
    let mut case = Case::new(&[("forkptyrouter-detach", "9")]);
    for name in ["first", "forkpty-fault-in-holder", "second", "forkpty-fault-in-adoption", "third"]
    {
        detach_named(&mut case, name);
    }
    process::signal(case.gateway, Signal::SIGKILL);
    wait_until("there is another gateway", || case.server.gateway() != case.gateway);
    for name in ["first", "second", "third"] {
        lives(&case, name).ends_it();
    }
    for name in ["forkpty-fault-in-holder", "forkpty-fault-in-adoption"] {
        assert_eq!(AttachClient::comes(&case.server, name, &[]).ended().0, 3, "{name}");
    }
    assert_eq!(case.told(), 1);
    let gateway = case.server.gateway();
    wait_until("no program is left", || process::children(gateway).is_empty());
}

/// A session whose terminal was handed over is told how it ended, also where
/// the gateway was killed: by another process.
#[test]
fn a_panic_of_the_supervisor_loses_no_end() {
    let mut case = Case::new(&[("forkptyrouter-audit", "json")]);
    let begin = |command: &str| {
        let said = [("fpty.take", "1"), ("fpty.logname", command)];
        AttachClient::connects(&case.server, "u", None, &said).takes()
    };
    let mut first = begin("first");
    let _fault = begin("forkpty-fault-in-keeper");
    let mut last = begin("last");
    // After its next turn the gateway has told of all of them.
    echoes(&mut case.other, 1);
    process::signal(case.gateway, Signal::SIGKILL);
    wait_until("there is another gateway", || case.server.gateway() != case.gateway);
    for (client, status) in [(&mut first, 5), (&mut last, 6)] {
        client.terminal().send(format!("exit {status}\n"));
        assert_eq!(client.ended(), (0, status, String::new()));
    }
}

#[test]
fn a_panic_in_a_recording_ends_that_recording_alone() {
    let mut case =
        Case::new(&[("forkptyrouter-record", "{dir}/r"), ("forkptyrouter-audit", "json")]);
    let recorder = || case.server.process_named("fpty-recorder");
    let before = recorder().expect("a recorder").pid;
    let mut first = case.server.connect("s");
    first.send("echo fi''rst\n");
    first.read_until("first\r\n");
    let mut fault = case.server.connect("s");
    fault.send("printf forkpty-fault-in-'recorder'; echo; echo do''ne\n");
    let line = "is not recorded any more: internal error: injected fault in recorder";
    case.server.wait_for_log(line);
    fault.read_until("done");
    first.send("echo se''cond; exit\n");
    first.text_to_end();
    drop(fault);
    let ends = || {
        let log = case.server.log();
        let lines = log.lines().filter(|line| line.contains("session-end"));
        lines.map(String::from).collect::<Vec<_>>()
    };
    wait_until("the audit tells both ends", || ends().len() == 2);
    let whole = |line: &&String| line.contains("\"dropped\":0") && line.contains("sha256\":\"");
    assert_eq!(ends().iter().filter(whole).count(), 1, "{:?}", ends());
    let files = fs::read_dir(case.server.path("r")).unwrap().flatten();
    let texts: Vec<String> = files.map(|it| fs::read_to_string(it.path()).unwrap()).collect();
    assert!(texts.iter().any(|text| text.contains("first") && text.contains("second")));
    assert_eq!(recorder().expect("a recorder").pid, before, "the same recorder");
    let mut client = case.server.connect("s");
    client.send("printf forkpty-fault-in-'recorder'\n");
    case.arms("recorder-says");
    client.wait_for_end();
    echoes(&mut case.other, 3);
}

#[test]
fn repeated_panics_of_the_loop_end_the_gateway() {
    let mut case = Case::new(&[("forkptyrouter-detach", "5")]);
    AttachClient::begins(&case.server, &[("fpty.name", "left")]).takes().leaves();
    case.arms("timer");
    // It is looked after whoever was told the last word.
    let address = case.address();
    wait_until("one is not too many", || {
        let _ = case.run(&["--list", "--json", &address]);
        case.told() == 1
    });
    case.faults = 1;
    echoes(&mut case.other, 3);
    case.other.send("forkpty-fault-at-turn!;");
    case.other.wait_for_end();
    case.server.wait_for_log("the gateway ends: internal errors that it cannot recover from");
    wait_until("there is another gateway", || case.server.gateway() != case.gateway);
    let told = case.told();
    assert!((16..32).contains(&told), "{told}");
    wait_until("it serves", || {
        Wire::try_connect(&case.server.path("s")).is_ok_and(|mut client| {
            client.send("echo al''ive; exit\n");
            client.text_to_end().contains("alive")
        })
    });
    let mut back = AttachClient::comes(&case.server, "left", &[]).takes();
    back.terminal().send("echo st''ays\n");
    back.terminal().read_until("stays");
}

#[test]
fn no_release_has_fault_injection() {
    for flavor in servers::all() {
        let plugin = fs::read(flavor.plugins.join("forkptyrouter_plugin.so")).expect("a library");
        let text = String::from_utf8_lossy(&plugin);
        assert!(!text.contains("forkpty-fault-in-"), "{}", flavor.name);
    }
}
