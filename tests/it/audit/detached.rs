//! One start and one end line for a session, however often it was detached, attached,
//! stolen and viewed, and whatever became of its gateway.

use serde_json::{Value, json};

use crate::audit::lines::{audited, lines, wait_for};
use crate::harness::attach_client::AttachClient;
use crate::harness::{Flavor, Server, Setup, in_process, on_one_server, wait_until};

#[track_caller]
fn server(flavor: &Flavor, options: &[(&str, &str)]) -> Server {
    let setup = audited(flavor).option("forkptyrouter-detach", "10").argument("--chmod-socket=666");
    let with = |setup: Setup, (name, value): &(&str, &str)| match *value {
        "" => setup.argument(&format!("--{name}")),
        _ => setup.option(name, value),
    };
    options.iter().fold(setup, with).uwsgi()
}

#[track_caller]
fn seated(server: &Server, variables: &[(&str, &str)]) -> AttachClient {
    AttachClient::begins(server, variables).at_the_prompt()
}

/// Events of the only session in their order, each with its reason.
#[track_caller]
fn story(server: &Server) -> Vec<String> {
    let lines = lines(&server.log());
    let first = &lines[0];
    for line in &lines {
        for name in ["id", "mode", "socket"] {
            assert_eq!(line[name], first[name], "{name}: {lines:#?}");
        }
        assert_eq!(line["peer"]["uid"], json!(nix::unistd::getuid().as_raw()), "{line}");
    }
    lines.iter().map(told).collect()
}

fn told(line: &Value) -> String {
    let event = line["event"].as_str().expect("an event");
    match line["reason"].as_str() {
        Some(reason) => format!("{event} {reason}"),
        None => event.to_owned(),
    }
}

/// Waits until this is the last event.
#[track_caller]
fn wait_for_last(server: &Server, event: &str) {
    wait_until(event, || lines(&server.log()).last().is_some_and(|line| line["event"] == event));
}

#[test]
fn a_detached_attached_stolen_and_viewed_session_has_one_start_and_one_end() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let first = seated(&server, &[("fpty.name", "one")]);
        first.leaves();
        let back = AttachClient::comes(&server, "one", &[]).takes();
        let mut thief = AttachClient::comes(&server, "one", &[("fpty.steal", "1")]).takes();
        let watcher = AttachClient::comes(&server, "one", &[("fpty.readonly", "1")]).takes();
        drop(watcher);
        wait_for_last(&server, "session-unwatch");
        thief.terminal().send("exit 7\n");
        assert_eq!(thief.ended(), (0, 7, String::new()));
        drop(back);
        let lines = wait_for(&server, "session-end", 1);
        assert_eq!(
            story(&server),
            [
                "session-start",
                "session-detach asked",
                "session-attach",
                "session-detach stolen",
                "session-attach",
                "session-watch",
                "session-unwatch",
                "session-end exit",
            ]
        );
        let stolen = &lines[3];
        assert_eq!(stolen["by"]["uid"], lines[0]["peer"]["uid"], "{stolen}");
        let end = lines.last().expect("an end");
        assert_eq!(end["status"], 7);
        let attached: f64 = lines
            .iter()
            .filter(|line| line["event"] == "session-detach")
            .map(|line| line["duration"].as_f64().expect("a duration"))
            .sum();
        assert!(end["duration"].as_f64().expect("a duration") >= attached, "{lines:#?}");
    });
}

#[test]
fn a_session_that_ends_detached_has_its_end_line() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let mut client = seated(&server, &[]);
        let go = server.path("go");
        client.terminal().send(format!("while ! test -e {go}; do sleep 0.05; done; exit 5\n"));
        client.terminal().read_until("exit 5");
        drop(client);
        wait_for_last(&server, "session-detach");
        std::fs::write(&go, "").expect("a file");
        wait_for(&server, "session-end", 1);
        assert_eq!(story(&server), ["session-start", "session-detach lost", "session-end exit"]);
        let lines = lines(&server.log());
        assert_eq!(lines[2]["status"], 5, "{lines:#?}");
    });
}

#[test]
fn a_session_over_a_killed_gateway_and_a_reload_has_one_start_and_one_end() {
    on_one_server(|flavor| {
        for options in [&[][..], &[("log-master", "")][..]] {
            let server = server(flavor, options);
            // One that was left, and is found again.
            let client = seated(&server, &[("fpty.name", "one")]);
            client.leaves();
            server.replace_gateway("kill");
            let mut back = AttachClient::comes(&server, "one", &[]).takes();
            // And one that is attached all the while.
            back.terminal().send("echo t''wo\n");
            back.terminal().read_until("two\r\n");
            server.replace_gateway("reload");
            back.terminal().send("echo th''ree\n");
            back.terminal().read_until("three\r\n");
            server.replace_gateway("kill");
            back.terminal().send("exit 3\n");
            assert_eq!(back.ended(), (0, 3, String::new()));
            let lines = wait_for(&server, "session-end", 1);
            assert_eq!(
                story(&server),
                ["session-start", "session-detach asked", "session-attach", "session-end exit"]
            );
            assert_eq!(lines[3]["status"], 3);
            let of = |line: &Value| line["time"].as_str().expect("a time").to_owned();
            assert!(of(&lines[3]) > of(&lines[0]), "{lines:#?}");
            assert!(lines[3]["duration"].as_f64() > lines[1]["duration"].as_f64(), "{lines:#?}");
        }
    });
}
