//! The client in a script: commands from a pipe or a file, output to a pipe,
//! all of it and nothing else, and an end.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::client::{MODES, Pipes, both, c_router, client_of};
use crate::harness::process::Process;
use crate::harness::{Flavor, Server, Setup, assert_same, on_one_server, sequence, wait_until};

/// Prints about five megabytes, as they are.
const FIVE_MEGABYTES: &str = "stty -opost; exec seq 1 740000";

/// Runs commands in both modes, to the end of the session.
#[track_caller]
fn commands_print(flavor: &Flavor, server: &Server, commands: &str, wanted: &str) {
    for mode in MODES {
        let mut client = Pipes::open(client_of(flavor, server, mode));
        client.send(commands);
        client.stdin = None;
        let text = client.finish().text();
        assert!(text.contains(wanted), "{mode:?}: {text:?}");
        for foreign in ["[pty]", "***", "uWSGI", "!!!"] {
            assert!(!text.contains(foreign), "{mode:?}: only the session: {text:?}");
        }
    }
}

#[test]
fn commands_from_a_pipe_all_run() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor)).start();
        commands_print(flavor, &server, "echo hel''lo; exit\n", "hello\r\n");
        commands_print(flavor, &server, "echo fi''rst\nsleep 0.3\necho la''st\n", "last\r\n");
    });
}

#[test]
fn commands_from_a_pipe_all_run_at_the_c_router() {
    on_one_server(|flavor| {
        let Some(setup) = c_router() else { return };
        let server = setup.start();
        commands_print(flavor, &server, "echo hel''lo; exit\n", "hello\r\n");
        // Without an exit the end of input is one, at the C router, too.
        commands_print(flavor, &server, "echo hel''lo\n", "hello\r\n");
    });
}

/// The whole line as a person types it.
#[test]
fn commands_in_a_shells_pipeline_all_run() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor)).start();
        for mode in MODES {
            let client = client_of(flavor, &server, mode);
            let line = "{ printf \"echo hel''lo; exit\\n\" | \"$@\"; echo \"status $?\"; } | cat";
            let mut shell = std::process::Command::new("/bin/sh");
            shell.args(["-c", line, "sh"]).arg(client.get_program()).args(client.get_args());
            let text = Pipes::reading(shell, Stdio::null()).finish().text();
            assert!(text.contains("hello\r\n") && text.ends_with("status 0\n"), "{text:?}");
        }
    });
}

#[test]
fn five_megabytes_of_output_are_whole() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(FIVE_MEGABYTES)).start();
        let wanted = sequence(740_000);
        for mode in MODES {
            // With nothing to read at all, and with a pipe that stays open.
            let client = Pipes::reading(client_of(flavor, &server, mode), Stdio::null());
            let finished = client.finish();
            assert_same(&finished.stdout, &wanted);
            assert_eq!(finished.status.code(), Some(0), "{finished:?}");
            let finished = Pipes::open(client_of(flavor, &server, mode)).finish();
            assert_same(&finished.stdout, &wanted);
            assert_eq!(finished.status.code(), Some(0));
        }
    });
}

/// The client waits for whoever reads it, at rest, and holds little.
#[test]
fn a_slow_reader_is_waited_for_at_rest() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(FIVE_MEGABYTES)).start();
        for mode in MODES {
            let client = Pipes::open(client_of(flavor, &server, mode));
            let ticks = || Process::of(client.pid()).map_or(0, |process| process.ticks);
            wait_until("the first output is there", || {
                !client.stdout.is_silent_for(Duration::from_millis(1))
            });
            wait_until("the client is at rest", || {
                let before = ticks();
                std::thread::sleep(Duration::from_millis(60));
                before == ticks()
            });
            let memory = crate::harness::process::private_memory(client.pid()).unwrap();
            assert!(memory < 16 * 1024, "{memory} KiB");
            let finished = client.finish();
            assert_same(&finished.stdout, &sequence(740_000));
            assert_eq!(finished.status.code(), Some(0));
        }
    });
}

#[test]
fn two_megabytes_of_input_are_whole() {
    on_one_server(|flavor| {
        let content = crate::harness::noise(5, 2_000_000);
        let script = "stty raw -echo; echo ready; head -c 2000000 | sha256sum; wc -c < /dev/null";
        let setup = both(Setup::new(flavor).script(script));
        let path = setup.path("content");
        std::fs::write(&path, &content).unwrap();
        let sum = std::process::Command::new("sha256sum").arg(&path).output().unwrap();
        let sum = String::from_utf8_lossy(&sum.stdout)[..64].to_owned();
        let server = setup.start();
        for mode in MODES {
            let mut client = Pipes::open(client_of(flavor, &server, mode));
            client.stdout.read_until("ready\n");
            client.send(&content);
            let text = client.finish().text();
            assert!(text.contains(&sum), "{mode:?}: wanted {sum}, got {text:?}");
        }
    });
}

#[test]
fn input_from_a_file_and_from_dev_null_ends() {
    on_one_server(|flavor| {
        let setup = both(Setup::new(flavor)).file("commands", "echo fi''le\nexit\n");
        let server = setup.start();
        for mode in MODES {
            let commands = File::open(server.path("commands")).unwrap();
            let client = Pipes::reading(client_of(flavor, &server, mode), commands);
            let text = client.finish().text();
            assert!(text.contains("file\r\n"), "{mode:?}: {text:?}");
            // The shell finds the end of its input.
            Pipes::reading(client_of(flavor, &server, mode), Stdio::null()).finish().text();
        }
        drop(server);

        // A program that reads nothing is heard to its end.
        let server = both(Setup::new(flavor).script("echo one; sleep 1.3; echo two")).start();
        for mode in MODES {
            let client = Pipes::reading(client_of(flavor, &server, mode), Stdio::null());
            assert_eq!(client.finish().text(), "one\r\ntwo\r\n", "{mode:?}");
        }
    });
}

/// `client | head -1`: an end without complaint, as other programs' is.
#[test]
fn a_closed_reader_ends_the_client_silently() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script("trap '' HUP; echo ready; sleep 1000")).start();
        for mode in MODES {
            let mut client = Pipes::open(client_of(flavor, &server, mode));
            client.stdout.read_until("ready\r\n");
            client.stdout = crate::harness::Wire::over(
                File::open("/dev/null").unwrap().into(),
                "no output any more",
            );
            let finished = client.finish();
            assert_eq!(finished.status.code(), Some(141), "{mode:?}: {finished:?}");
        }
    });
}

/// Waiting for either end costs nothing, however half the session is.
#[test]
fn an_idle_client_costs_no_processor() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script("trap '' HUP; echo ready; sleep 1000")).start();
        let mut clients: Vec<Pipes> = MODES
            .into_iter()
            .flat_map(|mode| {
                let command = || client_of(flavor, &server, mode);
                let mut ended = Pipes::open(command());
                ended.stdin = None;
                [Pipes::open(command()), Pipes::reading(command(), Stdio::null()), ended]
            })
            .collect();
        for client in &mut clients {
            client.stdout.read_until("ready\r\n");
        }
        // The server is told of the end of input after a second at most.
        assert!(clients[0].stdout.is_silent_for(Duration::from_millis(1200)));
        let ticks = || clients.iter().map(|client| Process::of(client.pid()).unwrap().ticks);
        let before: Vec<u64> = ticks().collect();
        assert!(clients[0].stdout.is_silent_for(Duration::from_secs(1)));
        assert_eq!(ticks().collect::<Vec<_>>(), before, "ticks of 10 ms");
    });
}
