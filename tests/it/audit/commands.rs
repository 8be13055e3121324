//! Commands are audited and counted as sessions are.

use std::io::Write;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::audit::lines::{audited, lines, of, wait_for};
use crate::harness::{Flavor, Server, Setup, in_process, process, servers, wait_until};

fn start(flavor: &Flavor, pass: &str) -> Server {
    let setup: Setup = audited(flavor)
        .option("forkptyrouter-allow-command", "true")
        .option("forkptyrouter-pass-stdio", pass)
        .option("forkptyrouter-stats", "{dir}/stats");
    setup.uwsgi()
}

fn fpty(server: &Server, words: &[&str]) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.arg(server.path("u")).args(words);
    fpty.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    fpty
}

/// Runs one that reads this.
fn run(server: &Server, words: &[&str], input: &str) {
    let mut child = fpty(server, words).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap();
}

fn statistics(server: &Server) -> Value {
    serde_json::from_str(&server.connect("stats").text_to_end()).unwrap()
}

#[test]
fn a_command_has_a_start_and_an_end_line() {
    in_process(|flavor| {
        for (pass, bytes) in
            [("true", [Value::Null, Value::Null]), ("false", [json!(7), json!(11)])]
        {
            let server = start(flavor, pass);
            run(&server, &["cat; echo err >&2; exit 7"], "1234567");
            run(&server, &["printf", "%s", "it's\n", "\"x\""], "");
            run(&server, &["kill -9 $$"], "");
            let lines = wait_for(&server, "session-end", 3);
            assert_eq!(lines.len(), 6, "{lines:#?}");
            let (starts, ends) = (of(&lines, "session-start"), of(&lines, "session-end"));
            for (start, end) in starts.iter().zip(&ends) {
                for name in ["id", "peer", "socket", "mode", "command", "uid", "pid"] {
                    assert_eq!(start[name], end[name], "{name}");
                    assert!(!start[name].is_null(), "{name}");
                }
                for name in ["tty", "rows", "cols"] {
                    assert!(start[name].is_null(), "{start}");
                }
            }
            assert_eq!(ends[0]["command"], "cat; echo err >&2; exit 7");
            assert_eq!((&ends[0]["reason"], &ends[0]["status"]), (&json!("exit"), &json!(7)));
            assert_eq!([&ends[0]["bytes_in"], &ends[0]["bytes_out"]], [&bytes[0], &bytes[1]]);
            assert_eq!(ends[1]["command"], "printf %s 'it'\\''s\n' '\"x\"'");
            assert_eq!((&ends[2]["reason"], &ends[2]["signal"]), (&json!("signal"), &json!(9)));
            let counters = &statistics(&server)["counters"];
            assert_eq!((&counters["accepted"], &counters["ended"]["exit"]), (&json!(3), &json!(2)));
        }
    });
}

#[test]
fn a_running_command_is_listed() {
    in_process(|flavor| {
        for pass in ["true", "false"] {
            let server = start(flavor, pass);
            // Its key is that of a session: they are not taken for each other.
            let mut session = server.connect("u");
            session.resize(30, 100);
            session.read_until("$ ");
            let mut child = fpty(&server, &["exec sleep 1000"]).spawn().unwrap();
            wait_until("both are listed", || {
                statistics(&server)["sessions"].as_array().unwrap().len() == 2
            });
            let json = statistics(&server);
            assert_eq!(json["active_sessions"], 2);
            let list = json["sessions"].as_array().unwrap();
            let command = list.iter().find(|one| one["tty"].is_null()).expect("a command");
            assert_eq!(command["command"], "exec sleep 1000");
            assert_eq!(command["handed_over"], pass == "true");
            assert_eq!(command["bytes_in"], if pass == "true" { Value::Null } else { json!(0) });
            assert_eq!(command["peer"]["pid"], child.id());
            let other = list.iter().find(|one| !one["tty"].is_null()).expect("a session");
            assert_ne!(other["id"], command["id"]);
            // The client leaves.
            process::signal(child.id() as i32, Signal::SIGKILL);
            child.wait().unwrap();
            let lines = wait_for(&server, "session-end", 1);
            let end = of(&lines, "session-end")[0];
            assert_eq!((&end["reason"], &end["id"]), (&json!("hangup"), &command["id"]));
            wait_until("it is not listed", || {
                statistics(&server)["sessions"].as_array().unwrap().len() == 1
            });
        }
    });
}

#[test]
fn a_refused_command_is_named_in_its_line() {
    in_process(|flavor| {
        let server = audited(flavor).option("forkptyrouter-stats", "{dir}/stats").uwsgi();
        run(&server, &["rm -rf /\nx"], "");
        let refused = wait_for(&server, "refused", 1);
        assert_eq!(
            (&refused[0]["reason"], &refused[0]["command"]),
            (&json!("command"), &json!("rm -rf /\nx"))
        );
        assert!(refused[0]["why"].as_str().unwrap().contains("not allowed"), "{refused:?}");
        assert_eq!(statistics(&server)["counters"]["refused"]["command"], 1);

        let server = start(flavor, "true");
        run(&server, &["/no/such", "x"], "");
        let refused = wait_for(&server, "refused", 1);
        assert_eq!(
            (&refused[0]["reason"], &refused[0]["command"]),
            (&json!("exec"), &json!("/no/such x"))
        );
        assert_eq!(refused.len(), 1, "{refused:#?}");
        assert_eq!(statistics(&server)["active_sessions"], 0);
    });
}

/// Several at a time.
#[test]
fn commands_side_by_side_have_two_lines_each() {
    in_process(|flavor| {
        let server = start(flavor, "true");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        run(&server, &["true"], "");
                    }
                });
            }
        });
        // Of a client whose hello comes late, on a busy machine, there is more:
        // the session of the silent one that it was taken for.
        let of_commands = || -> Vec<Value> {
            let is_one = |line: &Value| line["mode"] == "extended" && line["event"] != "refused";
            lines(&server.log()).into_iter().filter(is_one).collect()
        };
        wait_until("each has begun and ended", || of_commands().len() >= 400);
        let lines = of_commands();
        let mut ids: Vec<String> = lines.iter().map(|line| line["id"].to_string()).collect();
        ids.sort();
        assert_eq!(ids.len(), 400);
        for pair in ids.chunks(2) {
            assert_eq!(pair[0], pair[1]);
        }
        ids.dedup();
        assert_eq!(ids.len(), 200);
    });
}
