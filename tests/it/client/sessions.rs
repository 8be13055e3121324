//! The plugin's client leaves sessions and comes back, lists them and ends them,
//! as the command does.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::client::{Mode, Pipes, both, client};
use crate::harness::person::Person;
use crate::harness::{Flavor, Server, Setup, detachable, on_one_server};

const SHELL: &str = "PS1='$ ' exec bash --norc --noprofile -i";

fn server(flavor: &Flavor, command: &str) -> Server {
    let setup = both(Setup::new(flavor).script(command)).option("forkptyrouter-detach", "9");
    setup.option("forkptyrouter-allow-command", "true").start()
}

fn asks(flavor: &Flavor, server: &Server, options: &[&str]) -> Command {
    let mut asks = client(flavor, Mode::Uwsgi, &server.path("u"));
    asks.args(options);
    asks
}

/// The last line of standard error.
#[track_caller]
fn last_line(stderr: &str) -> &str {
    stderr.lines().last().expect("a line")
}

#[test]
fn a_person_detaches_and_attaches_again() {
    on_one_server(|flavor| {
        let server = server(flavor, SHELL);
        let size = (24, 100);
        let named = asks(flavor, &server, &["--pty-name", "build", "--pty-quiet"]);
        let mut person = Person::runs(named, size);
        person.sees("$ ");
        person.send("echo on''e\r");
        person.sees("one\n$ ");
        let stolen = ["--pty-attach", "build", "--pty-steal"];
        let mut thief = Person::runs(asks(flavor, &server, &stolen), size);
        thief.sees("one\n$ ");
        assert_eq!(person.status(), 254);
        thief.send("\r~d");
        assert_eq!(thief.status(), 0);
        thief.sees("(come back with: fpty -a ");
        let watches = ["--pty-attach-last", "--pty-read-only"];
        let mut watcher = Person::runs(asks(flavor, &server, &watches), size);
        watcher.sees("one\n$");
        let mut back = Person::runs(asks(flavor, &server, &["--pty-join", "build"]), size);
        back.sees("one\n$");
        back.send("echo tw''o; stty size\r");
        back.sees("two\n24 100\n$ ");
        watcher.sees("two\n24 100\n$ ");
        back.send("exit 7\r");
        assert_eq!((back.status(), watcher.status()), (7, 7));
    });
}

#[test]
fn the_command_attaches_to_what_the_plugins_client_left() {
    on_one_server(|flavor| {
        let server = server(flavor, SHELL);
        let mut person = Person::runs(asks(flavor, &server, &[]), (24, 80));
        person.sees("$ ");
        person.send("echo on''e\r");
        person.sees("one\n$ ");
        let address = server.path("u");
        let id = detachable::detach(person, &address);
        let mut back = Person::runs(detachable::fpty(&["-a", &id, &address]), (24, 80));
        back.sees("one\n$ ");
        back.send("exit\r");
        assert_eq!(back.status(), 0);
    });
}

#[test]
fn an_alternate_screen_is_redrawn_by_its_program() {
    on_one_server(|flavor| {
        let draws = "trap 'printf \"\\033[H\\033[J\"; stty size' WINCH; \
                     printf '\\033[?1049h\\033[?1000hfirst'; while :; do sleep 0.05; done";
        let server = server(flavor, draws);
        let mut person = Person::runs(asks(flavor, &server, &["--pty-name", "draws"]), (24, 80));
        person.sees("first");
        person.send("\r~d");
        assert_eq!(person.status(), 0);
        let back = asks(flavor, &server, &["--pty-attach", "draws"]);
        let mut back = Person::runs(back, (24, 80));
        back.sees("24 80");
        assert!(back.cells()[0].contains("alternate true"), "{}", back.cells()[0]);
        back.send("\r~.");
        assert_eq!(back.status(), 0);
        let shown = back.shown();
        assert!(shown.contains("?1049l") && shown.contains("?1000l"), "{shown:?}");
    });
}

#[test]
fn list_kill_and_status_json_work() {
    on_one_server(|flavor| {
        let server = server(flavor, SHELL);
        let named = asks(flavor, &server, &["--pty-name", "build", "--pty-escape", "%"]);
        let mut person = Person::runs(named, (24, 80));
        person.sees("$ ");
        let run = |options: &[&str]| {
            Pipes::reading(asks(flavor, &server, options), Stdio::null()).finish()
        };
        let listed = run(&["--pty-list-json"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let json: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
        assert_eq!((listed.status.code(), &json[0]["name"]), (Some(0), &Value::from("build")));
        let listed = run(&["--pty-list"]);
        assert!(String::from_utf8_lossy(&listed.stdout).contains("COMMAND"), "{listed:?}");
        assert_eq!(run(&["--pty-kill", "another"]).status.code(), Some(255));
        assert_eq!(run(&["--pty-kill", "build"]).status.code(), Some(0));
        assert_eq!(person.status(), 254);

        let command = ["--pty-no-tty", "--pty-command", "echo $LC_TEST; exit 5"];
        let more = ["--pty-env", "LC_TEST=sent", "--pty-status-json"];
        let ended = run(&[&command[..], &more].concat());
        assert_eq!(ended.status.code(), Some(5), "{ended:?}");
        assert_eq!(String::from_utf8_lossy(&ended.stdout), "sent\n");
        let json: Value = serde_json::from_str(last_line(&ended.stderr)).expect("JSON");
        assert_eq!((&json["kind"], &json["status"]), (&Value::from("exit"), &Value::from(5)));
        let tty = ["--pty-tty", "--pty-command", "tty"];
        let ended = run(&tty);
        assert!(String::from_utf8_lossy(&ended.stdout).contains("/dev/pts/"), "{ended:?}");
    });
}

#[test]
fn conflicting_options_are_refused() {
    on_one_server(|flavor| {
        for (options, why) in [
            (&["--pty-steal"][..], "pty-steal goes with"),
            (&["--pty-name", "a b"], "neither a session's id nor its name"),
            (&["--pty-name", "a", "--pty-join", "b"], "one of them"),
        ] {
            let mut asks = client(flavor, Mode::Uwsgi, "/tmp/never-bound.socket");
            asks.args(options);
            let ended = Pipes::reading(asks, Stdio::null()).finish();
            assert_eq!(ended.status.code(), Some(1), "{ended:?}");
            assert!(last_line(&ended.stderr).contains(why), "{ended:?}");
        }
    });
}
