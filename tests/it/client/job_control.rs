//! The keys that are signals (Ctrl-C, Ctrl-\, Ctrl-Z), here and there: in raw
//! mode they are the client's, with pty-no-isig the program's; in uwsgi mode
//! the other end's foreground job gets them.

use nix::sys::signal::Signal;

use crate::harness::client::{MODES, Mode, Seat, both, client_of};
use crate::harness::process::Process;
use crate::harness::terminal::Terminal;
use crate::harness::{Setup, on_one_server, wait_until};

/// Says so when it is there, and repeats what it reads.
const ECHOES: &str = "stty raw -echo; echo ready; exec cat";

const STOPPED: i32 = 128 + Signal::SIGTSTP as i32;

#[test]
fn with_pty_no_isig_keys_are_bytes() {
    on_one_server(|flavor| {
        let script = "stty raw -echo; echo ready; head -c 4 | od -An -tx1";
        let server = both(Setup::new(flavor).script(script)).start();
        for mode in MODES {
            let mut client = client_of(flavor, &server, mode);
            client.arg("--pty-no-isig");
            let mut seat = Seat::attached(&client);
            seat.terminal.wire.read_until("ready");
            seat.terminal.wire.send("\x03\x1a\x1cx");
            let (status, said) = seat.back_at_the_shell();
            assert!(status == 0 && said.contains("03 1a 1c 78"), "{mode:?} {status} {said:?}");
        }
    });
}

/// Ctrl-Z and `fg`, twice, and the session goes on as if nothing had been.
#[test]
fn control_z_in_raw_mode_stops_the_client() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        let mut seat = Seat::attached(&client_of(flavor, &server, Mode::Raw));
        seat.terminal.wire.read_until("ready");
        for round in ["one;", "two;"] {
            seat.terminal.wire.send("\x1a");
            let (status, said) = seat.back_at_the_shell();
            assert_eq!(status, STOPPED, "{said:?}");
            assert!(seat.is_stopped());
            seat.terminal.wire.send("fg\n");
            seat.wait_for_raw();
            seat.terminal.wire.send(round);
            seat.terminal.wire.read_until(round);
        }
        seat.terminal.wire.send("\r~.");
        assert_eq!(seat.back_at_the_shell().0, 0);
    });
}

/// `~^Z` stops it in either mode; what the program says meanwhile waits.
#[test]
fn tilde_control_z_stops_the_client() {
    on_one_server(|flavor| {
        let script = "stty -echo -isig; echo ready; read x; echo meanwhile; exec cat";
        let server = both(Setup::new(flavor).script(script)).start();
        for mode in MODES {
            let mut client = client_of(flavor, &server, mode);
            client.arg("--pty-no-isig");
            let mut seat = Seat::attached(&client);
            seat.terminal.wire.read_until("ready");
            seat.terminal.wire.send("\n~\x1a");
            let (status, said) = seat.back_at_the_shell();
            assert_eq!(status, STOPPED, "{mode:?} {said:?}");
            assert!(seat.is_stopped());
            seat.terminal.wire.send("fg\n");
            seat.wait_for_raw();
            if !said.contains("meanwhile") {
                seat.terminal.wire.read_until("meanwhile");
            }
            seat.terminal.wire.send("on\n");
            seat.terminal.wire.read_until("on\r\n");
            seat.terminal.wire.send("~.");
            assert_eq!(seat.back_at_the_shell().0, 0);
        }
    });
}

/// In the background the terminal is the shell's: its settings stay cooked,
/// and nothing that is typed is the client's.
#[test]
fn a_background_client_leaves_the_terminal_to_the_shell() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        let mut seat = Seat::attached(&client_of(flavor, &server, Mode::Raw));
        seat.terminal.wire.read_until("ready");
        seat.terminal.wire.send("\x1a");
        assert_eq!(seat.back_at_the_shell().0, STOPPED);
        seat.terminal.wire.send("bg; echo ba''ck\n");
        seat.terminal.wire.read_until("back");
        assert_eq!(seat.back_at_the_shell().0, 0);
        seat.terminal.wire.send("echo he''re\n");
        seat.terminal.wire.read_until("here");
        assert_eq!(seat.back_at_the_shell().0, 0);
        let client = seat.client();
        let before = Process::of(client).unwrap().ticks;
        assert!(seat.terminal.wire.is_silent_for(std::time::Duration::from_millis(300)));
        assert!(Process::of(client).unwrap().ticks <= before + 1, "it does not spin");
        seat.terminal.wire.send("fg\n");
        seat.wait_for_raw();
        seat.terminal.wire.send("again;");
        seat.terminal.wire.read_until("again;");
        seat.signal(Signal::SIGTERM);
        assert_eq!(seat.back_at_the_shell().0, 128 + Signal::SIGTERM as i32);
    });
}

/// A job-control shell at the other end, and a job in its foreground.
#[test]
fn in_uwsgi_mode_the_remote_foreground_job_gets_the_keys() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor)).start();
        let mut terminal = Terminal::run(client_of(flavor, &server, Mode::Uwsgi), 24, 80);
        terminal.wire.read_until("$ ");
        for (key, status) in [("\x03", "130"), ("\x1c", "131"), ("\x1a", "148")] {
            terminal.wire.send("sleep 1000\n");
            wait_until("the job is in the foreground", || {
                server.session_processes().iter().any(|process| {
                    process.name == "sleep"
                        && process.state == 'S'
                        && process.foreground == process.group
                })
            });
            terminal.wire.send(key);
            terminal.wire.read_until("$ ");
            // The shell has its turn, and the client lives.
            terminal.wire.send("echo \"=$?=\"\n");
            terminal.wire.read_until(&format!("={status}="));
        }
        assert!(terminal.is_raw());
        terminal.wire.send("exit\n");
        terminal.wire.send("exit\n");
        assert!(terminal.wait().success());
    });
}
