//! A person detaches and attaches again, with the command.

use std::process::Command;

use crate::harness::terminal::Terminal;
use crate::harness::{Server, Setup, in_process, servers, wait_until};

#[track_caller]
fn run(server: &Server, arguments: &[&str]) -> Terminal {
    let mut command = Command::new(servers::fpty());
    command.args(arguments).arg(server.path("u")).env("TERM", "xterm-256color");
    Terminal::run(command, 30, 100)
}

#[test]
fn a_person_detaches_and_attaches_over_a_killed_gateway() {
    in_process(|flavor| {
        for handover in ["true", "false"] {
            let setup = Setup::new(flavor).option("forkptyrouter-detach", "5");
            let server = setup.option("forkptyrouter-handover", handover).uwsgi();
            let mut terminal = run(&server, &["-n", "work"]);
            terminal.wire.read_until("$ ");
            // Until the terminal is handed over, or not.
            terminal.wire.send("sleep 0.1; A=5; echo o''ne\n");
            terminal.wire.read_until("one\r\n");
            terminal.wire.send("echo half-ty");
            terminal.wire.read_until("half-ty");
            terminal.wire.send("\x15\n");
            terminal.wire.read_until("$ ");
            terminal.wire.send("~d");
            terminal.wire.read_until("(come back with: fpty -a ");
            assert_eq!(terminal.wait().code(), Some(0));
            // Another gateway, another terminal: what was on the screen is there.
            server.replace_gateway("kill");
            let mut terminal = run(&server, &["-a", "work"]);
            terminal.wire.read_until("one");
            terminal.wire.send("echo =$A=; sleep 0.2; stty size\n");
            terminal.wire.read_until("=5=\r\n30 100\r\n");
            // Its terminal is closed: it is lost.
            drop(terminal);
            let mut terminal = Some(run(&server, &["-A", "work"]));
            wait_until("it comes back", || {
                let mut now = terminal.take().unwrap_or_else(|| run(&server, &["-A", "work"]));
                let text = now.wire.read_while("an answer", |seen| {
                    let seen = String::from_utf8_lossy(seen);
                    seen.contains("=5=") || seen.contains("attached since")
                });
                let is_back = String::from_utf8_lossy(text).contains("=5=");
                if is_back {
                    now.wire.send("exit 7\n");
                    assert_eq!(now.wait().code(), Some(7));
                }
                is_back
            });
        }
    });
}
