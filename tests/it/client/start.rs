//! Conditions at the client's start: closed descriptors, an input that cannot be read,
//! ignored signals.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::client::{Mode, Pipes, both, clients_of, fpty, wrapped};
use crate::harness::process;
use crate::harness::terminal::Terminal;
use crate::harness::{DEADLINE, Setup, comes_true, on_every_server, wait_until};

/// Says something, keeps what it is told, and repeats it.
const KEEPS: &str = "stty -echo; echo from the program; \
                     while read -r x; do echo \"$x\" >> got; echo \"<$x>\"; done";

/// The connection must not get a number that others take for the standard
/// input or output: output of the program would come back as its input.
#[test]
fn closed_standard_descriptors_do_no_harm() {
    on_every_server(|flavor| {
        let setup = both(Setup::new(flavor).script(&format!("cd {{dir}}; {KEEPS}")));
        let server = setup.start();
        let got = server.path("got");
        for closed in ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
            for (mode, client) in clients_of(flavor, &server) {
                let what = format!("{closed} {mode:?} {:?}", client.get_program());
                let _ = std::fs::remove_file(&got);
                let mut pipes = Pipes::open(wrapped(&format!("exec \"$@\" {closed}"), &client));
                let is_open = |redirection| closed.split(' ').all(|word| word != redirection);
                if is_open("<&-") {
                    pipes.send("typed\n");
                }
                pipes.stdin = None;
                let finished = pipes.finish();
                assert_eq!(finished.status.code(), Some(0), "{what}: {finished:?}");
                let wanted = if is_open("<&-") { "typed\n" } else { "" };
                let kept = std::fs::read_to_string(&got).unwrap_or_default();
                assert_eq!(kept, wanted, "{what}: what the program was told");
                let text = String::from_utf8_lossy(&finished.stdout);
                let says = text.contains("from the program");
                assert_eq!(says, is_open(">&-"), "{what}: {finished:?}");
            }
        }
    });
}

/// nohup(1) makes standard input one that can only be written to.
#[test]
fn works_under_nohup() {
    on_every_server(|flavor| {
        let server = both(Setup::new(flavor).script("echo one; sleep 0.5; echo two")).start();
        let out = server.path("out");
        for (mode, client) in clients_of(flavor, &server) {
            let script = format!("nohup \"$@\" > {out}");
            let mut terminal = Terminal::run(wrapped(&script, &client), 24, 80);
            let status = terminal.wait();
            let said = std::fs::read_to_string(&out).unwrap();
            assert!(status.success() && said.ends_with("one\r\ntwo\r\n"), "{mode:?} {said:?}");
        }
    });
}

/// A folder, and what is only open for writing, have ended; they are no
/// hang-up.
#[test]
fn unreadable_input_is_an_end_of_input() {
    on_every_server(|flavor| {
        let server = both(Setup::new(flavor).script("echo one; sleep 0.5; echo two")).start();
        for input in ["< /", "0> /dev/null"] {
            for (mode, client) in clients_of(flavor, &server) {
                let command = wrapped(&format!("exec \"$@\" {input}"), &client);
                let finished = Pipes::reading(command, Stdio::null()).finish();
                assert_eq!(finished.text(), "one\r\ntwo\r\n", "{input} {mode:?}");
            }
        }
    });
}

/// Ignored signals stay so; for the plugin's client only those that uWSGI itself leaves
/// alone.
#[test]
fn ignored_signals_stay_ignored() {
    on_every_server(|flavor| {
        let server = both(Setup::new(flavor).script("echo ready; exec cat")).start();
        for (mode, client) in clients_of(flavor, &server) {
            let is_fpty = client.get_program() == fpty(Mode::Raw, "").get_program();
            let mut signals = vec![Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP];
            if is_fpty {
                signals.extend([Signal::SIGHUP, Signal::SIGTERM]);
            }
            let script = "trap '' INT QUIT TSTP HUP TERM; exec \"$@\"";
            let mut pipes = Pipes::open(wrapped(script, &client));
            pipes.stdout.read_until("ready");
            for signal in signals {
                process::signal(pipes.pid(), signal);
            }
            pipes.send("typed\n");
            pipes.stdout.read_until("typed\r\ntyped\r\n");
            // Those that it takes still end it.
            let pid = pipes.pid();
            process::signal(pid, if is_fpty { Signal::SIGKILL } else { Signal::SIGTERM });
            let ended =
                comes_true(DEADLINE, || process::Process::of(pid).is_none_or(|p| p.is_zombie()));
            assert!(ended, "{mode:?}");
        }
    });
}

/// In the background, and with SIGTTOU ignored: the terminal's settings are
/// left alone until the client is in the foreground, and then they are set.
#[test]
fn with_sigttou_ignored_the_terminal_is_set_in_the_foreground_only() {
    on_every_server(|flavor| {
        let server =
            both(Setup::new(flavor).script("stty raw -echo; echo ready; exec cat")).start();
        for (mode, client) in clients_of(flavor, &server) {
            let mut shell = std::process::Command::new("/bin/bash");
            shell.args(["--norc", "--noprofile", "-i", "-c"]);
            let job = "set -m; (trap '' TTOU; exec \"$@\") & read x; fg; echo back";
            shell.args([job, "sh"]).arg(client.get_program()).args(client.get_args());
            let mut terminal = Terminal::run(shell, 24, 80);
            terminal.wire.read_until("ready");
            assert!(terminal.wire.is_silent_for(Duration::from_millis(700)));
            assert!(!terminal.is_raw(), "{mode:?}");
            terminal.wire.send("\n");
            wait_until("the client's terminal is raw", || terminal.is_raw());
            terminal.wire.send("typed;");
            terminal.wire.read_until("typed;");
            terminal.wire.send("\r~.");
            terminal.wire.read_until("back");
        }
    });
}
