//! The audit: who came, when, and what became of it, line by line.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::connection::extended_mode::{open, to_the_end};
use crate::harness::client::both;
use crate::harness::{
    Flavor, Server, Setup, Wire, in_process, on_every_server, on_one_server, process, servers,
    wait_until,
};

const PREFIX: &str = "forkptyrouter-audit: ";

/// The lines of a log, each parsed, in their order.
#[track_caller]
pub fn lines(log: &str) -> Vec<Value> {
    // The last one may be on its way.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let lines = whole.lines().filter_map(|line| line.strip_prefix(PREFIX));
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The lines of an event.
pub fn of<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

/// Waits for so many lines of an event, and returns all.
#[track_caller]
pub fn wait_for(server: &Server, event: &str, count: usize) -> Vec<Value> {
    let mark = format!("\"event\":\"{event}\"");
    let count_in = |log: &str| of(&lines(log), event).len();
    wait_until(&format!("{count} lines of {event}"), || {
        server.count_in_log(&mark) >= count && count_in(&server.log()) >= count
    });
    let lines = lines(&server.log());
    assert_eq!(of(&lines, event).len(), count, "{lines:#?}");
    lines
}

pub fn audited(flavor: &Flavor) -> Setup {
    Setup::new(flavor).option("forkptyrouter-audit", "json")
}

#[test]
fn a_thousand_short_sessions_have_one_start_and_one_end_line_each() {
    in_process(|flavor| {
        for gateways in ["1", "3"] {
            let server =
                audited(flavor).script("exit 3").option("forkptyrouter-processes", gateways).raw();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..250 {
                            server.connect("s").read_to_end();
                        }
                    });
                }
            });
            let lines = wait_for(&server, "session-end", 1000);
            let mut open = HashMap::new();
            for line in &lines {
                let id = line["id"].as_str().expect("an id");
                assert!(id.len() == 8 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{line}");
                match line["event"].as_str() {
                    Some("session-start") => assert!(open.insert(id, line).is_none(), "{line}"),
                    Some("session-end") => {
                        let start = open.remove(id).unwrap_or_else(|| panic!("no start: {line}"));
                        for name in ["peer", "socket", "mode", "command", "uid", "pid"] {
                            assert_eq!(start[name], line[name], "{name}: {line}");
                        }
                        assert_eq!((&line["reason"], &line["status"]), (&json!("exit"), &json!(3)));
                    }
                    _ => panic!("{line}"),
                }
                assert_eq!(line["lost"], Value::Null);
            }
            assert!(open.is_empty() && lines.len() == 2000);
        }
    });
}

/// Every field, with a client that says all it can.
#[test]
fn start_and_end_lines_have_every_field() {
    on_every_server(|flavor| {
        let server = audited(flavor)
            .script("stty raw -echo; printf ready; head -c 10 >/dev/null; printf 123; exit 7")
            .option("forkptyrouter-handover", "false")
            .option("procname", "an \"instance\"")
            .uwsgi();
        let mut client = server.connect("u");
        open(
            &client,
            &[
                ("TERM", "foot"),
                ("fpty.ssh_connection", "192.0.2.1 5555 192.0.2.2 22"),
                ("fpty.logname", "someone"),
            ],
        );
        client.read_until("ready");
        client.input("0123456789");
        assert_eq!(to_the_end(&mut client).ended, [(0, 7, String::new())]);
        let lines = wait_for(&server, "session-end", 1);
        let [start, end] = &lines[..] else { panic!("{lines:#?}") };
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap();
        let own = std::fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
        let login: Option<u32> = own.trim().parse().ok().filter(|uid| *uid != u32::MAX);
        let peer = json!({
            "pid": std::process::id(), "uid": uid, "gid": gid, "user": user.map(|user| user.name),
            "loginuid": login, "address": null, "port": null,
        });
        for line in [start, end] {
            assert_eq!(line["peer"], peer);
            assert_eq!(line["socket"], server.path("u"));
            assert_eq!(line["mode"], "extended");
            assert_eq!(line["instance"], "an \"instance\"");
            assert_eq!(line["command"], server.path("script"));
            assert_eq!((&line["uid"], &line["gid"]), (&json!(uid), &json!(gid)));
            let time = line["time"].as_str().unwrap();
            assert!(time.len() == 24 && time.ends_with('Z') && &time[10..11] == "T", "{time}");
        }
        let host = nix::sys::utsname::uname().unwrap().nodename().to_owned();
        assert_eq!(start["host"].as_str(), host.to_str());
        assert_eq!(
            start["claimed"],
            json!({ "ssh_connection": "192.0.2.1 5555 192.0.2.2 22", "logname": "someone" })
        );
        assert!(start["tty"].as_str().unwrap().starts_with("/dev/pts/"), "{start}");
        assert_eq!(start["term"], "foot");
        assert_eq!((&start["rows"], &start["cols"]), (&json!(33), &json!(99)));
        assert_eq!((&end["reason"], &end["status"]), (&json!("exit"), &json!(7)));
        assert_eq!((&end["bytes_in"], &end["bytes_out"]), (&json!(10), &json!(8)));
        assert_eq!((&end["signal"], &end["record"]), (&Value::Null, &Value::Null));
        let took = end["duration"].as_f64().unwrap();
        assert!((0.0..15.0).contains(&took), "{took}");
    });
}

#[test]
fn each_end_line_has_its_reason() {
    in_process(|flavor| {
        let server = both(audited(flavor).script("eval \"$END\"; sleep 1000"))
            .option("forkptyrouter-accept-env", "END")
            .option("forkptyrouter-timeout", "1")
            .start();
        let end_of = |count: usize| {
            let lines = wait_for(&server, "session-end", count);
            of(&lines, "session-end")[count - 1].clone()
        };
        let mut client = server.connect("u");
        open(&client, &[("END", "kill -9 $$")]);
        to_the_end(&mut client);
        let killed = end_of(1);
        assert_eq!((&killed["reason"], &killed["signal"]), (&json!("signal"), &json!(9)));
        assert_eq!(killed["status"], Value::Null);

        let mut client = server.connect("u");
        open(&client, &[("END", "echo here")]);
        client.read_until("here");
        drop(client);
        assert_eq!(end_of(2)["reason"], "hangup");

        let mut client = server.connect("s");
        client.text_to_end();
        let idle = end_of(3);
        assert_eq!((&idle["reason"], &idle["mode"]), (&json!("idle"), &json!("raw")));
        assert_eq!((&idle["status"], &idle["signal"]), (&Value::Null, &Value::Null));
        assert!(idle["duration"].as_f64().unwrap() >= 1.0, "{idle}");
    });
}

/// The peer's user is its own, the program's the server's.
#[test]
fn the_peer_has_its_own_user_and_the_program_the_servers() {
    if !nix::unistd::getuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    in_process(|flavor| {
        let server = audited(flavor).script("exit 0").argument("--chmod-socket=666").uwsgi();
        // The first is in every passwd(5), the others are in none, or none that
        // is known here.
        for (count, (uid, name)) in
            [(1, json!("daemon")), (4711, Value::Null), (65534, Value::Null)]
                .into_iter()
                .enumerate()
        {
            let mut client = Command::new(servers::fpty());
            client.arg(server.path("u")).stdin(Stdio::null()).stdout(Stdio::null());
            let status = client.uid(uid).gid(uid + 1).status().unwrap();
            assert!(status.success(), "{uid}: {status}");
            let lines = wait_for(&server, "session-end", count + 1);
            for line in &lines[2 * count..] {
                let peer = &line["peer"];
                assert_eq!((&peer["uid"], &peer["gid"]), (&json!(uid), &json!(uid + 1)), "{line}");
                assert_eq!((&peer["user"], &line["uid"]), (&name, &json!(0)), "{line}");
            }
        }
    });
}

/// The real client takes the terminal: nobody knows how much went through it.
#[test]
fn bytes_of_a_handed_over_terminal_are_not_counted() {
    in_process(|flavor| {
        let server = audited(flavor).uwsgi();
        let mut client = Command::new(servers::fpty())
            .arg(server.path("u"))
            .env("SSH_CONNECTION", "192.0.2.9 1 192.0.2.8 22")
            .env("LOGNAME", "a\nb")
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = &wait_for(&server, "session-start", 1)[0];
        assert_eq!(start["peer"]["pid"], client.id());
        assert_eq!(start["claimed"]["ssh_connection"], "192.0.2.9 1 192.0.2.8 22");
        assert_eq!(start["claimed"]["logname"], "a\nb");
        let has_it = |pid: u32| {
            let open = process::descriptors(pid as i32);
            open.iter().any(|(_, path)| path.ends_with("ptmx"))
        };
        wait_until("the client has the terminal", || has_it(client.id()));
        process::signal(client.id() as i32, Signal::SIGKILL);
        client.wait().unwrap();
        let lines = wait_for(&server, "session-end", 1);
        let end = of(&lines, "session-end")[0];
        assert_eq!(end["reason"], "hangup");
        assert!(end["bytes_in"].is_null() && end["bytes_out"].is_null(), "{end}");
    });
}

/// The log only counts them; the audit has each.
#[test]
fn every_refusal_has_a_line() {
    in_process(|flavor| {
        let server = both(audited(flavor).option("forkptyrouter-command", "/no/such")).start();
        for _ in 0..40 {
            assert!(server.connect("s").text_to_end().contains("refused"));
        }
        let mut client = server.connect("u");
        open(&client, &[("fpty.logname", "\n\"x")]);
        client.read_to_end();
        let lines = wait_for(&server, "refused", 41);
        assert_eq!(lines.len(), 41, "{lines:#?}");
        for line in &lines {
            assert_eq!((&line["reason"], &line["id"]), (&json!("exec"), &Value::Null));
            assert!(line["why"].as_str().unwrap().contains("/no/such"), "{line}");
            assert_eq!(line["peer"]["pid"], std::process::id());
        }
        assert_eq!((&lines[40]["mode"], &lines[0]["mode"]), (&json!("extended"), &json!("raw")));
        assert_eq!(lines[40]["claimed"]["logname"], "\n\"x");
        assert!(server.count_in_log("session refused") <= 20);
    });
}

#[test]
fn the_peer_over_tcp_is_an_address() {
    on_one_server(|flavor| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = audited(flavor)
            .script("exit 0")
            .inherit(listener)
            .option("forkpty-router", "fd://900")
            .start();
        Wire::connect(&address).read_to_end();
        let lines = wait_for(&server, "session-end", 1);
        // What a client of raw mode does not say nobody knows.
        for name in ["term", "rows", "cols"] {
            assert!(lines[0][name].is_null(), "{}", lines[0]);
        }
        for line in &lines {
            let peer = &line["peer"];
            assert_eq!((&peer["address"], &peer["uid"]), (&json!("127.0.0.1"), &Value::Null));
            assert!(peer["port"].as_u64().unwrap() > 0 && peer["pid"].is_null(), "{line}");
            assert_eq!(line["socket"], address.as_str());
        }
    });
}

/// Whatever a peer says of itself: the lines are as many as they should be, and
/// nothing in them does anything to a terminal.
#[test]
fn a_peer_cannot_forge_a_line() {
    in_process(|flavor| {
        let server = audited(flavor).script("exit 0").uwsgi();
        let forged = format!("x\n{PREFIX}{{\"event\":\"session-end\"}}\r\n");
        let evil = [
            forged.clone(),
            format!("\"}}\n{PREFIX}{{\"event\":\"forged\"}}"),
            String::from("\u{1b}]0;title\u{7}\u{9b}2J\u{202e}\u{2028}\u{85}\u{0}\\\\\""),
            "\u{1}\"\\\n".repeat(10_000),
            "%s%n%.*s".repeat(100),
        ];
        for text in &evil {
            let mut client = server.connect("u");
            open(&client, &[("fpty.ssh_connection", text), ("TERM", text), ("fpty.logname", text)]);
            to_the_end(&mut client);
        }
        let lines = wait_for(&server, "session-end", evil.len());
        assert_eq!(lines.len(), 2 * evil.len(), "{lines:#?}");
        let starts = of(&lines, "session-start");
        assert_eq!(starts.len(), evil.len());
        for (start, text) in starts.iter().zip(&evil) {
            let claimed = &start["claimed"]["ssh_connection"];
            assert!(text.starts_with(claimed.as_str().unwrap().trim_end_matches('\u{2026}')));
        }
        for line in server.log().lines() {
            assert!(line.len() < 4000, "{line:?}");
            assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
    });
}

/// Names and values with blanks between, as far as the quotes say so.
#[track_caller]
fn keyval(line: &str) -> HashMap<String, Value> {
    let mut fields = HashMap::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=').unwrap_or_else(|| panic!("no value: {rest}"));
        assert!(!name.contains([' ', '"']), "{name}");
        let mut values = serde_json::Deserializer::from_str(value).into_iter();
        let read = values.next().unwrap().unwrap_or_else(|error| panic!("{error}: {value}"));
        assert!(fields.insert(name.to_owned(), read).is_none(), "{name} twice");
        rest = &value[values.byte_offset()..];
        rest = rest.strip_prefix(' ').unwrap_or(rest);
    }
    fields
}

#[test]
fn keyval_lines_have_the_same_fields_as_json() {
    in_process(|flavor| {
        let server =
            Setup::new(flavor).option("forkptyrouter-audit", "keyval").script("exit 5").uwsgi();
        let mut client = server.connect("u");
        open(&client, &[("TERM", "a b=\"c\"\n"), ("fpty.logname", "x y=z")]);
        to_the_end(&mut client);
        server.wait_for_log("event=\"session-end\"");
        let log = server.log();
        let lines: Vec<_> =
            log.lines().filter_map(|line| line.strip_prefix(PREFIX)).map(keyval).collect();
        let [start, end] = &lines[..] else { panic!("{lines:#?}") };
        assert_eq!(
            (&start["term"], &start["claimed.logname"]),
            (&json!("a b=\"c\"\n"), &json!("x y=z"))
        );
        assert_eq!(
            (&start["peer.pid"], &end["peer.pid"]),
            (&json!(std::process::id()), &start["peer.pid"])
        );
        assert_eq!((&end["status"], &end["signal"]), (&json!(5), &Value::Null));
    });
}

#[test]
fn off_by_default_and_an_unknown_format_ends_the_start() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor).script("exit 0").raw();
        server.connect("s").read_to_end();
        assert!(!server.log().contains(PREFIX));
        let ended = Setup::new(flavor)
            .option("forkptyrouter-audit", "xml")
            .option("forkpty-router", "{dir}/s")
            .run();
        assert!(!ended.status.success());
        assert!(ended.log.contains("option forkptyrouter-audit = xml: "), "{}", ended.log);
    });
}
