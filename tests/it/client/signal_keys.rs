//! Keys that are signals (Ctrl-C, Ctrl-\, Ctrl-Z) reach the other end and nobody beside the
//! client; and there is a way out without a terminal.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::client::{
    MODES, Mode, Seat, both, client, client_of, clients_of, fpty, shell_status, wrapped,
};
use crate::harness::fake_gateway::Fake;
use crate::harness::process::Process;
use crate::harness::terminal::Terminal;
use crate::harness::{Setup, on_one_server, wait_until};

const STOPPED: i32 = 128 + Signal::SIGTSTP as i32;

/// A client below a script, in a pipeline: with a gateway that knows only the
/// plain mode, the script and the pipeline hear nothing of a key.
#[test]
fn the_shell_around_the_client_gets_no_signal() {
    on_one_server(|flavor| {
        for command in [
            |flavor: &_, address: &str| client(flavor, Mode::Uwsgi, address),
            |_: &_, address: &str| fpty(Mode::Uwsgi, address),
        ] {
            let fake = Fake::new();
            let script = "\"$@\" | cat; echo script-lives";
            let command = wrapped(script, &command(flavor, &fake.address));
            let mut seat = Seat::prepared(&command, ":");
            let mut peer = fake.accept();
            seat.wait_for_raw();
            seat.terminal.wire.send("a\x03b\x1cc\x1ad\r~\x03. file\r");
            let decoded = peer.read_while(|decoded| decoded.input.ends_with(b"file\r"));
            assert_eq!(decoded.input, b"abcd\r~. file\r");
            let keys = [2, 3, 20, 2].map(|key| [0, 0, 0, key]);
            assert_eq!(decoded.others, keys);
            assert!(!seat.is_stopped());
            // The key with an escape is the client's, and stops the whole job.
            seat.terminal.wire.send("~\x1a");
            assert_eq!(seat.back_at_the_shell().0, STOPPED);
            seat.terminal.wire.send("fg\n");
            seat.wait_for_raw();
            seat.terminal.wire.send("e");
            peer.read_while(|decoded| decoded.input.ends_with(b"e"));
            peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
            let (status, said) = seat.back_at_the_shell();
            assert!(status == 0 && said.contains("script-lives"), "{status} {said:?}");
        }
    });
}

/// A terminal whose signal keys were turned off before sends bytes.
#[test]
fn a_terminal_without_signal_keys_sends_bytes() {
    on_one_server(|flavor| {
        for command in [
            |flavor: &_, address: &str| client(flavor, Mode::Uwsgi, address),
            |_: &_, address: &str| fpty(Mode::Uwsgi, address),
        ] {
            let fake = Fake::new();
            let command = wrapped("stty -isig; \"$@\"", &command(flavor, &fake.address));
            let terminal = Terminal::run(command, 24, 80);
            let mut peer = fake.accept();
            wait_until("the terminal is raw", || terminal.is_raw());
            terminal.wire.send("a\x03b");
            let decoded = peer.read_while(|decoded| decoded.input.ends_with(b"b"));
            assert_eq!((decoded.input.as_slice(), decoded.others.len()), (&b"a\x03b"[..], 0));
        }
    });
}

/// Standard input is a pipe that stays open: the keys are for the client.
#[test]
fn keys_end_a_client_whose_standard_input_is_a_pipe() {
    on_one_server(|flavor| {
        let setup = both(Setup::new(flavor).script("trap '' INT QUIT; echo ready; exec cat"));
        let fifo = setup.path("fifo");
        nix::unistd::mkfifo(Path::new(&fifo), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let server = setup.start();
        for (mode, client) in clients_of(flavor, &server) {
            let command = wrapped(&format!("exec \"$@\" <> {fifo}"), &client);
            for (key, signal) in [("\x03", Signal::SIGINT), ("\x1c", Signal::SIGQUIT)] {
                let mut terminal = Terminal::run(wrapped("exec \"$@\"", &command), 24, 80);
                terminal.wire.read_until("ready");
                terminal.wire.send(key);
                let status = shell_status(terminal.wait());
                assert_eq!(status, 128 + signal as i32, "{mode:?} {signal}");
            }
            let mut seat = Seat::prepared(&command, ":");
            seat.terminal.wire.read_until("ready");
            seat.terminal.wire.send("\x1a");
            assert_eq!(seat.back_at_the_shell().0, STOPPED, "{mode:?}");
            seat.terminal.wire.send("fg\n");
            wait_until("the client goes on", || !seat.is_stopped());
            seat.terminal.wire.send("\x03");
            let (status, _) = seat.back_at_the_shell();
            assert_eq!(status, 128 + Signal::SIGINT as i32, "{mode:?}");
        }
    });
}

/// Below su(1) and setsid(1) the terminal's signals would reach those.
fn other_sessions(client: &Command) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut setsid = Command::new("setsid");
    setsid.arg("-w").arg(client.get_program()).args(client.get_args());
    commands.push(setsid);
    if nix::unistd::geteuid().is_root() {
        let mut su = Command::new("su");
        let words: Vec<String> = std::iter::once(client.get_program())
            .chain(client.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        su.args(["root", "-s", "/bin/sh", "-c", &format!("exec {}", words.join(" "))]);
        commands.push(su);
    }
    for command in &mut commands {
        command.env("TERM", "xterm");
    }
    commands
}

#[test]
fn signal_keys_work_at_a_terminal_of_another_session() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor)).start();
        for mode in MODES {
            for client in
                [client_of(flavor, &server, mode), fpty(mode, &server.path(mode.socket()))]
            {
                for command in other_sessions(&client) {
                    let what = format!("{mode:?} {command:?}");
                    eprintln!("{what}");
                    let mut terminal = Terminal::run(command, 24, 80);
                    terminal.wire.read_until("$ ");
                    let leader = terminal.leader();
                    assert_eq!(Process::of(leader).unwrap().foreground, leader, "{what}");
                    if mode == Mode::Raw {
                        terminal.wire.send("\x03");
                        assert_eq!(shell_status(terminal.wait()), 130, "{what}");
                        continue;
                    }
                    terminal.wire.send("sleep 1000\n");
                    wait_until("the job is in the foreground", || {
                        server.session_processes().iter().any(|process| {
                            process.name == "sleep" && process.foreground == process.group
                        })
                    });
                    terminal.wire.send("\x03");
                    terminal.wire.send("echo \"=$?=\"\n");
                    terminal.wire.read_until("=130=");
                    // No signal tells of this.
                    terminal.resize(31, 97);
                    wait_until("the other end has the new size", || {
                        terminal.wire.send("stty size\n");
                        terminal.wire.read_until("$ ").contains("31 97")
                    });
                    terminal.wire.send("exit 7\n");
                    assert_eq!(shell_status(terminal.wait()), 7, "{what}");
                }
            }
        }
    });
}

/// Signal keys at a terminal of another session, with a gateway that knows only the plain
/// mode: packets.
#[test]
fn signal_keys_work_at_a_terminal_of_another_session_with_an_old_gateway() {
    on_one_server(|flavor| {
        let fake = Fake::new();
        for client in [client(flavor, Mode::Uwsgi, &fake.address), fpty(Mode::Uwsgi, &fake.address)]
        {
            for command in other_sessions(&client) {
                let terminal = Terminal::run(command, 24, 80);
                let mut peer = fake.accept();
                wait_until("the terminal is raw", || terminal.is_raw());
                terminal.wire.send("a\x03b\x1cc\x1ad");
                let decoded = peer.read_while(|decoded| decoded.input.ends_with(b"d"));
                assert_eq!(decoded.input, b"abcd");
                assert_eq!(decoded.others, [2, 3, 20].map(|key| [0, 0, 0, key]));
                terminal.resize(30, 90);
                peer.read_while(|decoded| {
                    decoded.rows.last() == Some(&30) && decoded.cols.last() == Some(&90)
                });
            }
        }
    });
}
