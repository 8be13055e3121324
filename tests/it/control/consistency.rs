//! Every session is in the list and in the statistics, where both say the same of it: with
//! a client or without, relayed or handed over, viewed or not, of this gateway or of one
//! before it.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use crate::connection::extended_mode::to_the_end;
use crate::harness::attach_client::AttachClient;
use crate::harness::client::Pipes;
use crate::harness::wire::{header, packet};
use crate::harness::{Flavor, Server, Setup, in_process, on_one_server, servers, wait_until};

/// Facts that both have to report.
const ALIKE: [&str; 13] = [
    "id",
    "socket",
    "command",
    "pid",
    "tty",
    "rows",
    "cols",
    "name",
    "attached",
    "detached_since",
    "ended",
    "status",
    "watchers",
];

/// Facts that stay known of a session, whatever becomes of its gateway.
const KNOWN: [&str; 7] = ["id", "socket", "command", "name", "uid", "user", "tty"];

fn server(flavor: &Flavor, options: &[(&str, &str)]) -> Server {
    let setup = Setup::new(flavor)
        .option("forkptyrouter-detach", "9")
        .option("forkptyrouter-allow-command", "true")
        .option("forkptyrouter-stats", "{dir}/stats")
        .option("forkpty-router", "{dir}/s")
        .option("forkpty-urouter", "{dir}/u");
    options.iter().fold(setup, |setup, (name, value)| setup.option(name, value)).start()
}

fn by_id(sessions: Vec<Value>) -> BTreeMap<String, Value> {
    sessions.into_iter().map(|one| (one["id"].as_str().expect("an id").to_owned(), one)).collect()
}

fn list(server: &Server) -> Vec<Value> {
    let mut client = server.connect("u");
    client.send(header(1, 102));
    client.send(packet(105, b"l"));
    client.send(packet(103, &[]));
    let said = to_the_end(&mut client);
    serde_json::from_slice(&said.output).expect("a list")
}

fn statistics(server: &Server) -> Vec<Value> {
    let text = server.connect("stats").text_to_end();
    let statistics: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    assert_eq!(statistics["unheard"], Value::Null);
    statistics["sessions"].as_array().expect("a list").clone()
}

/// Facts that both report of each session, checked to be equal; by the list's names.
#[track_caller]
fn all(server: &Server) -> BTreeMap<String, Value> {
    let mut listed = by_id(list(server));
    let counted = by_id(statistics(server));
    assert_eq!(listed.keys().collect::<Vec<_>>(), counted.keys().collect::<Vec<_>>());
    for (id, one) in &mut listed {
        let other = &counted[id];
        for name in ALIKE {
            assert!(other.get(name).is_some(), "{name} in {other}");
            assert_eq!(one[name], other[name], "{name} of {one} and {other}");
        }
        assert_eq!((&one["user"], &one["uid"]), (&other["peer"]["user"], &other["peer"]["uid"]));
        assert_eq!(one["peer_pid"], other["peer"]["pid"]);
        one["statistics"] = other.clone();
    }
    listed
}

#[track_caller]
fn named(server: &Server, name: &str) -> Value {
    let all = all(server);
    let found = all.values().find(|one| one["name"] == name);
    found.cloned().unwrap_or_else(|| panic!("{name}: {all:?}"))
}

/// Time of a session's start, in seconds of the day: as precise as a clock that was
/// read twice.
fn began(session: &Value) -> f64 {
    let text = session["started"].as_str().expect("a time");
    let (_, time) = text.split_once('T').expect("RFC 3339");
    let parts = time.trim_end_matches('Z').split(':').map(|part| part.parse::<f64>().unwrap());
    parts.fold(0.0, |all, part| all * 60.0 + part)
}

#[track_caller]
fn assert_still_known(before: &Value, now: &Value) {
    for name in KNOWN {
        // What has ended has no terminal.
        if name != "tty" || now["ended"] == false {
            assert_eq!(now[name], before[name], "{name} of {now}, before: {before}");
        }
    }
    let (statistics, then) = (&now["statistics"], &before["statistics"]);
    for name in ["mode", "uid", "gid"] {
        assert_eq!(statistics[name], then[name], "{name} of {statistics}, before: {then}");
    }
    for (one, other) in [(now, before), (statistics, then), (now, statistics)] {
        assert!((began(one) - began(other)).abs() < 0.05, "{one}\n{other}");
    }
}

/// A session that is detached, and whose program ends then.
#[track_caller]
fn ends_alone(server: &Server, name: &str, status: i32) {
    let mut client = AttachClient::begins(server, &[("fpty.name", name)]).at_the_prompt();
    client.terminal().send(format!("sleep 0.4; exit {status}\n"));
    client.leaves();
    let has_ended = |one: &Value| one["name"] == name && one["ended"] == true;
    wait_until("it has ended", || list(server).iter().any(has_ended));
}

#[test]
fn every_kind_of_session_is_in_list_and_statistics_over_a_killed_gateway() {
    on_one_server(|flavor| {
        for options in [&[][..], &[("forkptyrouter-audit", "json")]] {
            let server = server(flavor, options);
            let me = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap();
            let mut bound =
                AttachClient::connects(&server, "u", None, &[("fpty.take", "1")]).at_the_prompt();
            let mut here = AttachClient::begins(&server, &[("fpty.name", "here")]).at_the_prompt();
            let left = AttachClient::begins(&server, &[("fpty.name", "left")]).at_the_prompt();
            let left = left.leaves();
            ends_alone(&server, "over", 3);
            let mut raw = server.connect("s");
            raw.shell("true");
            let mut fpty = Command::new(servers::fpty());
            fpty.args([&server.path("u"), "echo begun; exec cat"]);
            let mut command = Pipes::open(fpty);
            command.stdout.read_until("begun");
            // What it writes goes past the gateway, which may not know yet that it runs.
            wait_until("all are listed", || list(&server).len() == 6);
            let before = all(&server);
            for one in before.values() {
                assert_eq!((&one["user"], &one["watchers"]), (&json!(me.name), &json!(0)), "{one}");
                assert!(!one["command"].is_null() && !one["statistics"]["uid"].is_null(), "{one}");
            }
            let over = named(&server, "over");
            assert_eq!((&over["status"], &over["pid"]), (&json!(3), &Value::Null));
            let one = &before[&left];
            assert_eq!((&one["attached"], &one["peer_pid"]), (&json!(false), &Value::Null));
            assert!(one["detached_since"].is_string() && one["pid"].is_number(), "{one}");
            drop((raw, command));
            wait_until("the others are gone", || list(&server).len() == 4);
            for way in ["kill", "reload", "kill"] {
                let before = all(&server);
                server.replace_gateway(way);
                wait_until("all are back", || list(&server).len() == 4);
                let now = all(&server);
                for (id, one) in &before {
                    assert_still_known(one, &now[id]);
                    for name in ["attached", "detached_since", "ended", "status", "pid"] {
                        assert_eq!(now[id][name], one[name], "{way}: {name} of {}", now[id]);
                    }
                }
            }
            // They are as before.
            here.terminal().send("echo he''re\n");
            here.terminal().read_until("here\r\n");
            let mut back = AttachClient::comes(&server, &left, &[]).takes();
            back.terminal().send("echo ba''ck\n");
            back.terminal().read_until("back\r\n");
            let again = named(&server, "left");
            assert_still_known(&before[&left], &again);
            assert_eq!(
                (&again["attached"], &again["detached_since"]),
                (&json!(true), &Value::Null)
            );
            bound.terminal().send("exit 5\n");
            assert_eq!(bound.ended(), (0, 5, String::new()));
            wait_until("it is gone", || all(&server).len() == 3);
        }
    });
}

#[test]
fn viewers_are_counted() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let client = AttachClient::begins(&server, &[("fpty.name", "job")]).at_the_prompt();
        let other = AttachClient::begins(&server, &[("fpty.name", "other")]).takes();
        let watch = || AttachClient::comes(&server, "job", &[("fpty.readonly", "1")]).takes();
        let mut watchers = vec![watch(), watch()];
        let count = |name: &str| named(&server, name)["watchers"].as_u64().expect("a number");
        assert_eq!((count("job"), count("other")), (2, 0));
        drop(watchers.pop());
        wait_until("one is gone", || count("job") == 1);
        client.leaves();
        assert_eq!(count("job"), 1, "whoever is attached");
        let mut fpty = Command::new(servers::fpty());
        let listed = fpty.args(["--list", &server.path("u")]).output().expect("it runs");
        let listed = String::from_utf8(listed.stdout).expect("a table");
        let line = |name: &str| listed.lines().find(|line| line.contains(name)).expect("a line");
        assert!(listed.lines().next().is_some_and(|head| head.contains("VIEWERS")), "{listed}");
        let fields =
            |name: &str| line(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(fields("job").contains(&String::from("1")), "{listed}");
        assert!(!fields("other").contains(&String::from("1")), "{listed}");
        drop((watchers, other));
        wait_until("nobody watches", || count("job") == 0);
    });
}
