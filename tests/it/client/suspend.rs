//! The client stops as a job does, and never for good; in the background it leaves the
//! terminal alone.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::client::{Mode, Seat, both, clients_of, wrapped};
use crate::harness::process::Process;
use crate::harness::terminal::Terminal;
use crate::harness::{Setup, on_one_server, wait_until};

/// Says so when it is there, and repeats what it reads.
const ECHOES: &str = "stty raw -echo; echo ready; exec cat";

const STOPPED: i32 = 128 + Signal::SIGTSTP as i32;

/// As a terminal's first process, as `ssh -t` and `docker run -it` start it:
/// nobody could let it go on again.
#[test]
fn without_job_control_around_it_the_client_does_not_stop() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        for (mode, client) in clients_of(flavor, &server) {
            let mut terminal = Terminal::run(client, 24, 80);
            terminal.wire.read_until("ready");
            if mode == Mode::Raw {
                terminal.wire.send("\x1a");
                wait_until("the key was taken", || {
                    terminal.wire.send(".");
                    !terminal.wire.is_silent_for(Duration::from_millis(50))
                });
            }
            terminal.wire.send("\r~");
            terminal.wire.send("\x1a");
            terminal.wire.send("on;");
            terminal.wire.read_until("on;");
            assert!(terminal.is_raw(), "{mode:?}");
            terminal.wire.send("\r~.");
            assert!(terminal.wait().success());
        }
    });
}

/// The escape stops a script around it, too, and both go on.
#[test]
fn the_escape_stops_the_whole_job() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        for (mode, client) in clients_of(flavor, &server) {
            let script = wrapped("\"$@\"; echo script-ends", &client);
            let mut seat = Seat::attached(&script);
            seat.terminal.wire.read_until("ready");
            let mut keys = vec!["\r~\x1a"];
            if mode == Mode::Raw {
                keys.push("\x1a");
            }
            for key in keys {
                seat.terminal.wire.send(key);
                let (status, said) = seat.back_at_the_shell();
                assert_eq!(status, STOPPED, "{mode:?} {key:?}: {said:?}");
                assert!(seat.is_stopped(), "the script, too");
                seat.terminal.wire.send("fg\n");
                seat.wait_for_raw();
                seat.terminal.wire.send("on;");
                seat.terminal.wire.read_until("on;");
            }
            seat.terminal.wire.send("\r~.");
            let (status, said) = seat.back_at_the_shell();
            assert!(status == 0 && said.contains("script-ends"), "{mode:?}: {said:?}");
        }
    });
}

/// An escape that was begun before a stop is none after it.
#[test]
fn a_stop_ends_a_half_typed_escape() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        for (_, client) in clients_of(flavor, &server) {
            let mut seat = Seat::attached(&client);
            seat.terminal.wire.read_until("ready\n");
            seat.terminal.wire.send("\r");
            seat.terminal.wire.read_until("\r");
            seat.terminal.wire.send("~");
            assert!(seat.terminal.wire.is_silent_for(Duration::from_millis(100)));
            seat.signal(Signal::SIGTSTP);
            assert_eq!(seat.back_at_the_shell().0, STOPPED);
            seat.terminal.wire.send("fg\n");
            seat.wait_for_raw();
            seat.terminal.wire.send(".on;");
            seat.terminal.wire.read_until(".on;");
            seat.terminal.wire.send("\r~.");
            assert_eq!(seat.back_at_the_shell().0, 0);
        }
    });
}

/// `kill -STOP`, then `bg`: the terminal is the shell's, whose settings stay.
#[test]
fn a_client_continued_in_the_background_leaves_the_terminal_alone() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        for (mode, client) in clients_of(flavor, &server) {
            let mut seat = Seat::attached(&client);
            seat.terminal.wire.read_until("ready");
            seat.signal(Signal::SIGSTOP);
            seat.terminal.wire.read_until("status=147.");
            // What it could not do.
            seat.terminal.wire.send("stty sane; bg; echo ba''ck\n");
            seat.terminal.wire.read_until("back");
            seat.terminal.wire.read_until("status=0.");
            wait_until("it goes on", || !seat.is_stopped());
            assert!(seat.terminal.wire.read_for(Duration::from_millis(700)).len() < 10);
            assert!(!seat.terminal.is_raw(), "{mode:?}");
            seat.signal(Signal::SIGCONT);
            std::thread::sleep(Duration::from_millis(50));
            assert!(!seat.terminal.is_raw(), "{mode:?}");
            let client = seat.client();
            let before = Process::of(client).unwrap().ticks;
            assert!(seat.terminal.wire.is_silent_for(Duration::from_millis(300)));
            assert!(Process::of(client).unwrap().ticks <= before + 1, "it does not spin");
            // Its end leaves them alone, too.
            seat.terminal.wire.send("stty -echoe; kill %1; wait; stty -a | grep -c -- -echoe\n");
            let said = seat.terminal.wire.read_until("status=0.");
            assert!(said.contains("\n1\r\n"), "{mode:?} {said:?}");
        }
    });
}

/// bash continues no job that runs already: nothing tells it but the terminal.
#[test]
fn a_client_brought_to_the_foreground_by_bash_takes_the_terminal() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        for (_, client) in clients_of(flavor, &server) {
            let mut bash = std::process::Command::new("/bin/bash");
            bash.args(["--norc", "--noprofile", "-i"]).env("PS1", "prompt> ");
            let mut terminal = Terminal::run(bash, 24, 80);
            terminal.wire.read_until("prompt> ");
            let words: Vec<String> = std::iter::once(client.get_program())
                .chain(client.get_args())
                .map(|word| word.to_string_lossy().into_owned())
                .collect();
            terminal.wire.send(format!("{}\n", words.join(" ")));
            terminal.wire.read_until("ready");
            terminal.wire.send("\r~");
            terminal.wire.send("\x1a");
            terminal.wire.read_until("prompt> ");
            terminal.wire.send("bg\n");
            terminal.wire.read_until("prompt> ");
            // It sees that it is in the background.
            terminal.wire.read_for(Duration::from_millis(400));
            terminal.wire.send("fg\n");
            terminal.wire.read_until("fg");
            terminal.wire.read_until("\n");
            wait_until("the client has the terminal", || terminal.is_raw());
            terminal.wire.send("typed;");
            terminal.wire.read_until("typed;");
            terminal.wire.send("\r~.");
            terminal.wire.read_until("prompt> ");
        }
    });
}
