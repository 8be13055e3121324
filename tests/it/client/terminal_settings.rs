//! The terminal that a person sits at is afterwards exactly what it was,
//! however the session ended.

use nix::sys::signal::Signal;

use crate::harness::client::{
    MODES, Mode, Seat, both, c_router, client_of, own_lines, shell_status,
};
use crate::harness::process;
use crate::harness::terminal::Terminal;
use crate::harness::{Server, Setup, on_every_server, wait_until};

/// Says so when it is there, and repeats what it reads.
const ECHOES: &str = "stty raw -echo; echo ready; exec cat";

fn no_program_runs(server: &Server) -> bool {
    server.processes().iter().all(|process| process.name != "cat")
}

#[test]
fn settings_are_restored_after_the_program_ended() {
    on_every_server(|flavor| {
        let servers = [Some(both(Setup::new(flavor))), c_router()];
        for server in servers.into_iter().flatten().map(Setup::start) {
            for mode in MODES {
                let mut seat = Seat::attached(&client_of(flavor, &server, mode));
                assert_eq!(seat.terminal.wire.shell("echo $((6 * 7))"), "42\r\n");
                seat.terminal.wire.send("exit\n");
                let (status, said) = seat.back_at_the_shell();
                assert_eq!((status, own_lines(&said).len()), (0, 0), "{mode:?}: {said:?}");
            }
        }
    });
}

/// Not what a terminal usually has: nothing of it is made up.
#[test]
fn unusual_settings_are_restored() {
    on_every_server(|flavor| {
        let server = both(Setup::new(flavor)).start();
        for mode in MODES {
            let mut seat = Seat::prepared(
                &client_of(flavor, &server, mode),
                "stty erase ^H intr ^G min 7 time 9 -ixon iutf8 tostop -echoe -onlcr 19200",
            );
            seat.wait_for_raw();
            seat.terminal.wire.read_until("$ ");
            seat.terminal.wire.send("exit\n");
            let (status, said) = seat.back_at_the_shell();
            assert_eq!(status, 0, "{said:?}");
        }
    });
}

#[test]
fn settings_are_restored_after_a_signal() {
    on_every_server(|flavor| {
        let servers = [Some(both(Setup::new(flavor))), c_router()];
        for server in servers.into_iter().flatten().map(|setup| setup.script(ECHOES).start()) {
            for mode in MODES {
                for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
                    let mut seat = Seat::attached(&client_of(flavor, &server, mode));
                    seat.terminal.wire.read_until("ready");
                    seat.signal(signal);
                    let (status, said) = seat.back_at_the_shell();
                    assert_eq!(status, 128 + signal as i32, "{mode:?} {signal}: {said:?}");
                    assert_eq!(own_lines(&said), [format!("[pty] ended by {signal}")], "{said:?}");
                }
            }
        }
    });
}

fn kill_gateway_and_master(server: &Server) {
    // A gateway that outlives its master for a moment says that the instance has stopped.
    process::signal(server.master(), Signal::SIGSTOP);
    process::signal(server.gateway(), Signal::SIGKILL);
    process::signal(server.master(), Signal::SIGKILL);
}

#[test]
fn settings_are_restored_after_the_server_was_killed() {
    on_every_server(|flavor| {
        for with in 0..2 {
            for mode in MODES {
                let setup = if with == 0 { Some(both(Setup::new(flavor))) } else { c_router() };
                let Some(setup) = setup else { continue };
                let server = setup.script(ECHOES).start();
                let mut seat = Seat::attached(&client_of(flavor, &server, mode));
                seat.terminal.wire.read_until("ready");
                kill_gateway_and_master(&server);
                let (status, said) = seat.back_at_the_shell();
                assert_eq!(status, 254, "{mode:?}: {said:?}");
                let lines = own_lines(&said);
                assert_eq!(lines.len(), 1, "{said:?}");
                // Where the terminal was handed over already the supervisor says so.
                let address = server.path(mode.socket());
                let is_told = lines[0].contains(&address) || lines[0].contains("has stopped");
                assert!(is_told, "{said:?}");
            }
        }
    });
}

#[test]
fn settings_are_restored_after_control_c_in_raw_mode() {
    on_every_server(|flavor| {
        let servers = [Some(both(Setup::new(flavor))), c_router()];
        for server in servers.into_iter().flatten().map(|setup| setup.script(ECHOES).start()) {
            for (key, signal) in [("\x03", Signal::SIGINT), ("\x1c", Signal::SIGQUIT)] {
                let mut seat = Seat::attached(&client_of(flavor, &server, Mode::Raw));
                seat.terminal.wire.read_until("ready");
                seat.terminal.wire.send(key);
                let (status, said) = seat.back_at_the_shell();
                assert_eq!(status, 128 + signal as i32, "{said:?}");
            }
        }
    });
}

#[test]
fn settings_are_restored_after_the_escape() {
    on_every_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        for mode in MODES {
            let mut seat = Seat::attached(&client_of(flavor, &server, mode));
            seat.terminal.wire.read_until("ready");
            seat.terminal.wire.send("~.");
            let (status, said) = seat.back_at_the_shell();
            assert_eq!((status, own_lines(&said).len()), (0, 1), "{mode:?}: {said:?}");
        }
        wait_until("nothing is left of the sessions", || no_program_runs(&server));
    });
}

/// A session that never comes about does not touch it.
#[test]
fn settings_are_untouched_without_a_server() {
    on_every_server(|flavor| {
        let setup = Setup::new(flavor);
        let client = crate::harness::client::client(flavor, Mode::Raw, &setup.path("none"));
        let mut seat = Seat::prepared(&client, ":");
        let (status, said) = seat.back_at_the_shell();
        assert_eq!((status, own_lines(&said).len()), (255, 1), "{said:?}");
    });
}

/// The window is closed: the client is not left behind, nor the session.
#[test]
fn a_closed_window_ends_client_and_session() {
    on_every_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        for mode in MODES {
            let mut terminal = Terminal::run(client_of(flavor, &server, mode), 24, 80);
            terminal.wire.read_until("ready");
            let status = shell_status(terminal.hang_up());
            assert_eq!(status, 128 + Signal::SIGHUP as i32, "{mode:?}");
            wait_until("the session is over", || no_program_runs(&server));
        }
    });
}
