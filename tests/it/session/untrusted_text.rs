//! Text of clients on its way to a terminal, a log or a file: one line, no control
//! characters, nothing that passes for another line.

use std::io::{Read, Seek, Write};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::audit::lines::{audited, lines, of, wait_for};
use crate::harness::fake_gateway::Fake;
use crate::harness::wire::packet;
use crate::harness::{in_process, on_every_server, servers, wait_until};

const HELLO: [u8; 4] = [0, 1, 0, 102];

/// All kinds of it: C0, C1, DEL, what turns text around, what separates lines.
const EVIL: &str = "a\n\r\u{1b}]0;t\u{7}\u{9b}2J\u{7f}\u{202e}\u{2066}\u{61c}\u{200f}\u{2028}\u{ad}\u{feff}\u{e0041}";

/// Whether a text is one that only a line's end ends.
#[track_caller]
fn assert_harmless(text: &str) {
    let obeyed = |c: &char| {
        c.is_control() && *c != '\n'
            || matches!(*c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0041}')
    };
    let found: Vec<char> = text.chars().filter(obeyed).collect();
    assert!(found.is_empty(), "{found:?} in {text:?}");
}

fn fpty(arguments: &[&str]) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.env("TERM", "xterm").args(arguments).stdin(Stdio::null());
    fpty
}

#[track_caller]
fn said(fpty: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = fpty.output().expect("fpty runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_client_cannot_forge_lines_of_log_or_audit() {
    on_every_server(|flavor| {
        let server = audited(flavor).option("forkptyrouter-allow-command", "true").uwsgi();
        let address = server.path("u");
        let forged = r#"forkptyrouter-audit: {"event":"session-end","user":"root"}"#;
        for name in [format!("x\n{forged}"), forged.to_owned(), format!("{EVIL}\n{forged}")] {
            for kind in ["-T", "-t"] {
                let (status, _, error) = said(&mut fpty(&[kind, &address, "--", &name, "a"]));
                assert_eq!((status, error.lines().count()), (Some(127), 1), "{error:?}");
                assert_harmless(&error);
            }
        }
        let refused = wait_for(&server, "refused", 6);
        let commands: Vec<&str> =
            refused.iter().filter_map(|line| line["command"].as_str()).collect();
        // Whoever reads the JSON has it as it was.
        assert!(commands.iter().all(|command| command.contains("\"event\":")), "{commands:?}");
        let log = server.log();
        assert_harmless(&log);
        assert_eq!(of(&lines(&log), "session-end").len(), 0);
        // Rules look for that word anywhere in a line.
        let of_audit = log.lines().filter(|line| line.contains("forkptyrouter-audit:"));
        assert!(of_audit.clone().count() == 6, "{log}");
        assert!(of_audit.clone().all(|line| line.starts_with("forkptyrouter-audit: ")), "{log}");
    });
}

#[test]
fn a_long_name_is_cut_between_its_characters() {
    in_process(|flavor| {
        let server = audited(flavor).option("forkptyrouter-allow-command", "true").uwsgi();
        let address = server.path("u");
        for (unit, count) in
            [("\u{e9}", 1500), ("\u{20ac}", 1400), ("\u{1f600}", 900), ("\u{9b}", 1500)]
        {
            for before in ["", "x", "xy", "xyz"] {
                let name = format!("{before}{}", unit.repeat(count));
                for kind in ["-T", "-t"] {
                    let (status, _, error) = said(&mut fpty(&[kind, &address, "--", &name, "x"]));
                    assert_eq!(error.lines().count(), 1, "{error:?}");
                    assert!(error.starts_with("fpty: cannot execute x") || before.is_empty());
                    assert!(matches!(status, Some(126 | 127)), "{status:?} {error}");
                    assert_harmless(&error);
                }
            }
        }
        assert_eq!(server.count_in_log("internal error"), 0);
        assert_harmless(&server.log());
    });
}

#[test]
fn a_list_is_harmless_to_the_terminal() {
    in_process(|flavor| {
        let server = audited(flavor).option("forkptyrouter-allow-command", "true").uwsgi();
        let address = server.path("u");
        let line = format!("sleep 1000 # {EVIL}");
        let mut sleeper = fpty(&["-T", &address, &line]).spawn().expect("fpty runs");
        wait_until("it is listed", || {
            said(&mut fpty(&["-l", "--json", &address])).1.contains("sleep")
        });
        let (status, json, _) = said(&mut fpty(&["-l", "--json", &address]));
        assert_eq!((status, json.lines().count()), (Some(0), 1));
        assert_harmless(&json);
        let sessions: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(sessions[0]["command"], line);
        let (_, table, _) = said(&mut fpty(&["-l", &address]));
        assert_eq!(table.lines().count(), 2, "{table:?}");
        assert_harmless(&table);
        sleeper.kill().expect("a child");
        sleeper.wait().expect("a child");
    });
}

/// A recording's first line.
#[test]
fn a_recordings_first_line_is_harmless() {
    in_process(|flavor| {
        for format in ["v2", "v3"] {
            let server = audited(flavor)
                .option("forkptyrouter-allow-command", "true")
                .option("forkptyrouter-record", "{dir}/r")
                .option("forkptyrouter-record-format", format)
                .uwsgi();
            let line = format!("printf '\\302\\233\\342\\200\\256'; : '{EVIL}'");
            let mut client = fpty(&["-t", &server.path("u"), &line]);
            client.env("TERM", EVIL.replace('\n', ""));
            assert_eq!(said(&mut client).0, Some(0));
            let ends = wait_for(&server, "session-end", 1);
            let path = of(&ends, "session-end")[0]["record"]["path"].as_str().expect("a path");
            let text = std::fs::read_to_string(path).expect("a recording");
            assert_harmless(&text);
            let head: Value = serde_json::from_str(text.lines().next().unwrap()).expect("JSON");
            assert_eq!(head["command"], line);
            assert!(text.contains("\\u009b\\u202e"), "{text}");
        }
    });
}

/// A server that says what it likes, and what comes of it.
#[track_caller]
fn told_by(says: &[u8], arguments: &[&str], ends: bool) -> (Option<i32>, String, String) {
    let fake = Fake::new();
    let arguments: Vec<&str> =
        arguments.iter().map(|word| if *word == "ADDR" { &fake.address } else { *word }).collect();
    // Files: pipes are passed to the server, and would be open there.
    let mut files = [tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file")];
    let mut fpty = fpty(&arguments);
    fpty.stdout(files[0].try_clone().expect("a copy"));
    fpty.stderr(files[1].try_clone().expect("a copy"));
    let mut child = fpty.spawn().expect("fpty runs");
    fake.listener().set_nonblocking(true).expect("a socket");
    let (mut connections, mut status) = (Vec::new(), None);
    // It may ask again, in vain.
    wait_until("the client ends", || {
        if let Ok((mut stream, _)) = fake.listener().accept() {
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_write_timeout(Some(std::time::Duration::from_secs(5)));
            let _ = stream.write_all(says);
            connections.extend((!ends).then_some(stream));
        }
        status = child.try_wait().expect("a child of ours");
        status.is_some()
    });
    let texts = files.each_mut().map(|file| {
        let mut text = String::new();
        file.rewind().expect("a file");
        file.read_to_string(&mut text).expect("UTF-8");
        text
    });
    let [out, error] = texts;
    (status.and_then(|status| status.code()), out, error)
}

fn ended(kind: u8, value: u8, text: &str) -> Vec<u8> {
    [&HELLO[..], &packet(110, &[&[kind, value], text.as_bytes()].concat())].concat()
}

#[test]
fn a_hostile_servers_words_are_one_harmless_line() {
    for (kind, value) in [(1, 9), (2, 127), (3, 0), (4, 0), (6, 0), (7, 0), (8, 0), (9, 0), (9, 1)]
    {
        for command in [&["-T", "ADDR", "true"][..], &["-t", "ADDR", "true"], &["-t", "ADDR"]] {
            let (_, out, error) = told_by(&ended(kind, value, EVIL), command, false);
            assert_eq!((out.as_str(), error.lines().count()), ("", 1), "{kind} {error:?}");
            assert_harmless(&error);
            let asks = [&["--status-json"][..], command].concat();
            let (_, _, error) = told_by(&ended(kind, value, EVIL), &asks, false);
            assert_harmless(&error);
            let json: Value = serde_json::from_str(error.lines().last().unwrap()).expect("JSON");
            assert!(json["status"].is_number(), "{json}");
        }
    }
    let mut notice = HELLO.to_vec();
    notice.extend(packet(111, EVIL.as_bytes()));
    notice.extend(&ended(0, 0, "")[4..]);
    for command in
        [&["-T", "ADDR", "true"][..], &["-t", "ADDR"], &["-l", "ADDR"], &["-k", "x", "ADDR"]]
    {
        let (_, _, error) = told_by(&notice, command, false);
        assert_harmless(&error);
        assert!(error.contains("\\u202e"), "{error}");
    }
}

#[test]
fn a_command_to_paste_has_only_safe_characters() {
    for (id, is_one) in [
        ("k3x9q2aa", true),
        ("x; rm -rf ~", false),
        ("$(reboot)", false),
        ("--steal", false),
        ("a b", false),
        ("\u{e9}", false),
        ("", false),
    ] {
        let (status, _, error) = told_by(&ended(9, 0, id), &["-t", "ADDR"], false);
        assert_eq!((status, error.contains("come back with")), (Some(0), is_one), "{id}: {error}");
        assert!(is_one || error.trim_end() == "fpty: detached", "{error}");
    }
}

#[test]
fn a_plain_refusal_is_a_line_and_has_an_end() {
    let refusal = |why: &str| format!("forkptyrouter: session refused: {why}\r\n").into_bytes();
    for command in [
        &["-T", "ADDR", "true"][..],
        &["-t", "ADDR", "true"],
        &["-l", "ADDR"],
        &["-k", "x", "ADDR"],
        &["-a", "x", "ADDR"],
        &["-t", "ADDR"],
        &["-r", "ADDR"],
    ] {
        let (status, out, error) = told_by(&refusal("no \u{1b}[2J\u{9b}\u{202e}"), command, true);
        assert_eq!((status, out.as_str()), (Some(255), ""), "{command:?} {error}");
        assert_eq!(error, "fpty: session refused: no \\u001b[2J\\u009b\\u202e\n", "{command:?}");
        if matches!(command, ["-t", "ADDR"] | ["-r", "ADDR"]) {
            // There it may be a program's.
            continue;
        }
        // 8 MB of it, and no end.
        let endless = refusal(&"x".repeat(8 << 20));
        let (status, out, error) = told_by(&endless[..endless.len() - 2], command, false);
        assert_eq!((status, out.as_str()), (Some(255), ""), "{command:?}");
        assert!(error.len() < 1000 && error.contains("does not speak"), "{}", error.len());
    }
}

#[test]
fn typed_words_are_shown_as_one_line() {
    for arguments in [
        &["/no/such\n\u{1b}[2J\u{202e}/socket"][..],
        &["-e", "\u{1b}\n\u{9b}", "x"],
        &["-E", "\u{1b}=x\n", "x"],
        &["-n", "\u{202e}\n", "x"],
        &["--\u{1b}[2J", "x"],
    ] {
        let (status, _, error) = said(&mut fpty(arguments));
        assert!(matches!(status, Some(2 | 255)), "{status:?} {error}");
        assert_eq!(error.lines().count(), 1, "{error:?}");
        assert_harmless(&error);
    }
}
