//! The command `fpty`: its arguments, and the truth about a session's end.

use std::process::{Command, Stdio};

use crate::harness::client::{Pipes, Seat, both};
use crate::harness::servers;
use crate::harness::terminal::Terminal;
use crate::harness::{Setup, in_process};

/// `fpty` without what the test's own environment would tell it.
fn fpty(arguments: &[&str]) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.env_clear().env("TERM", "xterm-test").args(arguments);
    fpty
}

/// Exit status and output of `fpty`, without a server.
#[track_caller]
fn said(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = fpty(arguments).stdin(Stdio::null()).output().expect("fpty runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_usage_error_is_one_line_and_status_2() {
    for arguments in
        [&[][..], &["--bogus"], &["-e", "xy", "s"], &["-E", "1=2", "s"], &["-r", "a", "b"]]
    {
        let (status, out, error) = said(arguments);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?} {error}");
        assert_eq!(error.lines().count(), 1, "{arguments:?} {error}");
        assert!(error.starts_with("fpty: "), "{arguments:?} {error}");
    }
    assert!(said(&["--quite"]).2.contains("'--quiet'"), "a hint");
    let (status, _, error) = said(&["/no/such/socket"]);
    assert_eq!((status, error.lines().count()), (Some(255), 1), "{error}");
}

#[test]
fn help_and_version_say_what_there_is() {
    let (status, help, _) = said(&["--help"]);
    assert_eq!(status, Some(0));
    assert!(help.lines().count() < 40 && help.contains("--status-json"), "{help}");
    let (status, version, _) = said(&["--version"]);
    assert_eq!((status, version), (Some(0), format!("fpty {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn the_address_may_come_from_the_environment() {
    in_process(|flavor| {
        let server = both(Setup::new(flavor)).start();
        let attach = |variable: &str, arguments: &[&str]| {
            let mut fpty = fpty(arguments);
            fpty.env("FPTY_ADDRESS", variable);
            let pipes = Pipes::open(fpty);
            pipes.send("exit 3\n");
            pipes.finish().status.code()
        };
        assert_eq!(attach(&server.path("u"), &[]), Some(3));
        assert_eq!(attach("/no/such/socket", &[&server.path("u")]), Some(3));
    });
    // Nothing is sent to one that ends at once.
    let mut nobody = fpty(&[]);
    let nobody = nobody.env("FPTY_ADDRESS", "/no/such/socket").stdin(Stdio::null()).output();
    assert_eq!(nobody.expect("fpty runs").status.code(), Some(255));
    let mut empty = fpty(&[]);
    let output = empty.env("FPTY_ADDRESS", "").output().expect("fpty runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// Says so when it is there, and repeats what it reads.
const ECHOES: &str = "stty raw -echo; echo ready; exec cat";

#[test]
fn options_set_the_escape_and_the_keys() {
    in_process(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        let (raw, uwsgi) = (server.path("s"), server.path("u"));
        for (arguments, typed, leaves, words) in [
            (&["-e", "%", &uwsgi][..], "\r~.;", "\r%.", true),
            (&["-q", &uwsgi], "~x;", "\r~.", false),
            (&["-r", "-q", "-e", "%", &raw], "\r~.;", "\r%.", false),
            // Ctrl-C would end the client.
            (&["-r", "--no-isig", &raw], "\x03;", "\r~.", true),
        ] {
            let mut seat = Seat::attached(&fpty(arguments));
            seat.terminal.wire.read_until("ready\n");
            seat.terminal.wire.send(typed);
            assert_eq!(seat.terminal.wire.read_until(";"), typed, "{arguments:?}");
            seat.terminal.wire.send(leaves);
            let (status, said) = seat.back_at_the_shell();
            assert_eq!(status, 0, "{arguments:?}: {said:?}");
            let address = arguments.last().unwrap();
            let told = said.contains(&format!("fpty: disconnected from {address}"));
            assert_eq!(told, words, "{arguments:?}: {said:?}");
        }
        let mut seat = Seat::attached(&fpty(&["-e", "none", &uwsgi]));
        seat.terminal.wire.read_until("ready\n");
        seat.terminal.wire.send("~.\r~?;");
        assert_eq!(seat.terminal.wire.read_until(";"), "~.\r~?;");
        // Nor does --quiet keep back what went wrong.
        let (_, _, error) = said(&["-q", "/no/such/socket"]);
        assert_eq!(error, "fpty: cannot connect to /no/such/socket: No such file or directory\n");
    });
}

#[test]
fn the_status_is_the_programs() {
    in_process(|flavor| {
        let server = both(Setup::new(flavor)).start();
        for (line, status, told) in [
            ("exit 7", 7, ""),
            ("exit 0", 0, ""),
            ("kill -9 $$", 137, "fpty: killed by SIGKILL"),
            ("ulimit -c 0; kill -SEGV $$", 139, "fpty: killed by SIGSEGV"),
            ("kill -35 $$", 163, "fpty: killed by signal 35"),
        ] {
            let pipes = Pipes::open(fpty(&[&server.path("u")]));
            pipes.send(format!("{line}\n"));
            let finished = pipes.finish();
            assert_eq!(finished.status.code(), Some(status), "{line}: {finished:?}");
            assert_eq!(finished.stderr.trim_end(), told, "{line}");
        }
        let mut json = fpty(&["--status-json", &server.path("u")]);
        json.stdin(Stdio::piped());
        let pipes = Pipes::open(json);
        pipes.send("kill -TERM $$; kill -9 $$\n");
        let said = pipes.finish().stderr;
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains(r#""kind":"signal""#) && last.contains(r#""status":137"#), "{said}");
    });
}

#[test]
fn a_program_that_cannot_be_executed_has_status_126_or_127() {
    in_process(|flavor| {
        for (command, status) in [("{dir}/missing", 127), ("{dir}", 126)] {
            let server = both(Setup::new(flavor).option("forkptyrouter-command", command)).start();
            let finished = Pipes::reading(fpty(&[&server.path("u")]), Stdio::null()).finish();
            assert_eq!(finished.status.code(), Some(status), "{finished:?}");
            assert!(finished.stderr.starts_with("fpty: cannot execute"), "{finished:?}");
            assert_eq!(finished.stdout, b"", "the line is beside the terminal");
        }
    });
}

/// Size and environment are there before the program starts, each time.
#[test]
fn size_and_environment_are_there_before_the_program() {
    in_process(|flavor| {
        let script = "stty size; echo \"$TERM,$LANG,$EXTRA,$LD_X\"; trap 'echo resized' WINCH; \
                      sleep 0.1; echo end";
        let setup = Setup::new(flavor).script(script);
        let server = both(setup.option("forkptyrouter-accept-env", "TERM EXTRA LD_*")).start();
        for _ in 0..10 {
            let mut fpty = fpty(&["-E", "EXTRA=more", "-E", "LD_X=never", &server.path("u")]);
            fpty.env("LANG", "xx_YY");
            let mut terminal = Terminal::run(fpty, 37, 113);
            let output = terminal.wire.read_until("end\r\n");
            assert!(output.starts_with("37 113\r\nxterm-test,"), "{output:?}");
            assert!(output.contains(",more,\r\n"), "{output:?}");
            assert!(!output.contains("xx_YY") && !output.contains("resized"), "{output:?}");
            assert!(terminal.wait().success());
        }
    });
}
