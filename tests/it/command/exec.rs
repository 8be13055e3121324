//! Commands of a client's own, with a terminal and without.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::client::{Finished, Mode, Pipes, client_of, own_lines};
use crate::harness::ports::free_address;
use crate::harness::process::{self, signal};
use crate::harness::terminal::Terminal;
use crate::harness::{
    Server, Setup, assert_same, in_process, noise, on_one_server, servers, wait_until,
};

/// A server, and its addresses: passed, relayed, and relayed over TCP.
fn start(setup: Setup) -> (Server, Vec<String>) {
    let tcp = free_address();
    let server = setup
        .option("forkpty-urouter", "{dir}/u")
        .option("forkpty-urouter", &tcp)
        .option("forkptyrouter-allow-command", "true")
        .start();
    let ways = vec![server.path("u"), tcp];
    (server, ways)
}

fn fpty(address: &str, words: &[&str]) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.env_clear().arg(address).args(words);
    fpty
}

/// Runs one with nothing to read.
#[track_caller]
fn run(address: &str, words: &[&str]) -> Finished {
    Pipes::reading(fpty(address, words), Stdio::null()).finish()
}

/// A case on every server, by each way.
fn in_every_way(case: impl Fn(&Server, &str) + Sync) {
    on_one_server(|flavor| {
        for pass in ["true", "false"] {
            let setup = Setup::new(flavor).option("forkptyrouter-pass-stdio", pass);
            let (server, ways) = start(setup);
            for way in &ways[..if pass == "true" { 2 } else { 1 }] {
                eprintln!("by {way}, passed: {pass}");
                case(&server, way);
                wait_until("nothing is left", || server.session_processes().is_empty());
            }
        }
    });
}

#[track_caller]
fn assert_ended(ended: &Finished, status: i32, stdout: &str) {
    let got = (ended.status.code(), String::from_utf8_lossy(&ended.stdout));
    assert_eq!(got, (Some(status), stdout.into()), "{ended:?}");
}

#[test]
fn the_status_is_the_commands_own() {
    in_every_way(|_, to| {
        assert_ended(&run(to, &["exit 7"]), 7, "");
        assert_ended(&run(to, &["printf", "<%s>", "a b", "", "c\nd"]), 0, "<a b><><c\nd>");
        let killed = run(to, &["kill -9 $$"]);
        assert_ended(&killed, 137, "");
        assert_eq!(own_lines(&killed.stderr), ["fpty: killed by SIGKILL"]);
        for (words, status, part) in [
            (&["no-such-program", "x"][..], 127, "cannot execute no-such-program"),
            (&["/", "x"], 126, "cannot execute /: Permission denied"),
            (&["/etc/passwd", "x"], 126, "cannot execute /etc/passwd: Permission denied"),
            (&[""], 255, "the command is empty"),
            (&["", "x"], 255, "the command is empty"),
        ] {
            let ended = run(to, words);
            assert_ended(&ended, status, "");
            let lines = own_lines(&ended.stderr);
            assert!(lines.len() == 1 && lines[0].contains(part), "{words:?} {lines:?}");
        }
    });
}

#[test]
fn arguments_arrive_exactly_as_typed() {
    in_every_way(|_, to| {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let mut command = fpty(to, &["printf", "[%s]"]);
        command.arg(OsStr::from_bytes(b"\xff\xfe\n$HOME '\""));
        let ended = Pipes::reading(command, Stdio::null()).finish();
        assert_same(&ended.stdout, b"[\xff\xfe\n$HOME '\"]");
        let many: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
        let mut command = fpty(to, &["sh", "-c", "echo $#", "sh"]);
        command.args(&many);
        assert_ended(&Pipes::reading(command, Stdio::null()).finish(), 0, "10000\n");
        let long = "x".repeat(100_000);
        assert_ended(&run(to, &["sh", "-c", "echo ${#1}", "sh", &long]), 0, "100000\n");
        // The kernel refuses to start this one, and we the next.
        let line = format!(": {}", "x".repeat(127_000));
        assert_ended(&run(to, &[&line]), 0, "");
        let words = vec!["x".repeat(120_000); 9];
        let words: Vec<&str> =
            ["true"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let ended = run(to, &words);
        assert_ended(&ended, 255, "");
        assert!(ended.stderr.contains("longer than 1 MB"), "{ended:?}");
    });
}

#[test]
fn the_three_streams_stay_apart_and_unchanged() {
    in_every_way(|server, to| {
        let ended = run(to, &["echo out; echo err >&2"]);
        assert_ended(&ended, 0, "out\n");
        assert_eq!(ended.stderr, "err\n");
        assert_ended(&run(to, &["cat; echo after"]), 0, "after\n");
        // A pipe is passed where it can be, a file is not.
        let bytes = noise(7, 3_000_000);
        let mut pipes = Pipes::open(fpty(to, &["cat"]));
        let input = pipes.stdin.take().expect("a pipe");
        let ended = std::thread::scope(|scope| {
            scope.spawn(|| {
                input.send(&bytes);
                drop(input);
            });
            pipes.finish()
        });
        assert_same(&ended.stdout, &bytes);
        let file = server.path("file");
        std::fs::write(&file, &bytes).expect("a file");
        let ended = Pipes::reading(fpty(to, &["cat"]), File::open(&file).expect("it")).finish();
        assert_same(&ended.stdout, &bytes);
        let copy = server.path("copy");
        let mut command = fpty(to, &["cat"]);
        command.stdin(File::open(&file).expect("it")).stdout(File::create(&copy).expect("one"));
        assert!(command.status().expect("it runs").success());
        assert_same(&std::fs::read(&copy).expect("it"), &bytes);
    });
}

#[test]
fn the_end_of_each_stream_reaches_the_other_side() {
    in_every_way(|_, to| {
        // The program closes its output and goes on.
        let started = Instant::now();
        let mut pipes = Pipes::reading(fpty(to, &["exec >&-; sleep 0.1; exit 3"]), Stdio::null());
        pipes.stdout.read_to_end();
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(pipes.finish().status.code(), Some(3));
        // Nobody reads.
        let mut yes = fpty(to, &["yes"]);
        let mut yes = yes.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it runs");
        drop(yes.stdout.take());
        let status = yes.wait().expect("it ends");
        assert_eq!(status.code(), Some(128 + 13), "{status}");
        // The program reads no more.
        let line = format!("yes | '{}' {to} 'head -c 2'", servers::fpty().display());
        let ended = Command::new("sh").args(["-c", &line]).output().expect("it ends");
        assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(0), &b"y\n"[..]));
    });
}

#[test]
fn a_full_disk_is_reported() {
    in_every_way(|_, to| {
        let mut command = fpty(to, &["yes"]);
        command.stdin(Stdio::null()).stdout(File::create("/dev/full").expect("it"));
        let ended = command.output().expect("it ends");
        let error = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(254), "{error}");
        assert!(error.contains("cannot write to standard output: No space left"), "{error}");
    });
}

#[test]
fn a_signal_is_passed_on_once() {
    in_every_way(|server, to| {
        for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1] {
            let name = &number.as_str()[3..];
            let line = format!(
                "trap 'echo {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
            );
            let mut pipes = Pipes::reading(fpty(to, &[&line]), Stdio::null());
            pipes.stdout.read_until("ready\n");
            signal(pipes.pid(), number);
            assert_ended(&pipes.finish(), 9, &format!("ready\n{name}\n"));
        }
        let line = "trap '' INT; echo ready; exec sleep 1000";
        let mut pipes = Pipes::reading(fpty(to, &[line]), Stdio::null());
        pipes.stdout.read_until("ready\n");
        signal(pipes.pid(), Signal::SIGINT);
        let sleeps = || server.session_processes().iter().any(|process| process.name == "sleep");
        wait_until("it sleeps", sleeps);
        // The two do not become one.
        wait_until("the first one was read", || process::signals(pipes.pid(), "ShdPnd") == Some(0));
        signal(pipes.pid(), Signal::SIGINT);
        wait_until("the client leaves", || {
            process::Process::of(pipes.pid()).is_none_or(|p| p.is_zombie())
        });
        wait_until("the command is hung up", || !sleeps());
        let ended = pipes.finish();
        assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    });
}

#[test]
fn a_vanished_client_ends_its_command() {
    in_every_way(|server, to| {
        let sleeps = || server.session_processes().iter().any(|process| process.name == "sleep");
        let pipes = Pipes::open(fpty(to, &["sleep 1000 & sleep 1000"]));
        wait_until("it sleeps", sleeps);
        signal(pipes.pid(), Signal::SIGKILL);
        wait_until("the command is hung up", || !sleeps());
        drop(pipes);
        // One that nobody can hear.
        let mut deaf = fpty(to, &["sleep 1000"]);
        deaf.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut deaf = deaf.spawn().expect("it runs");
        wait_until("it sleeps", sleeps);
        drop((deaf.stdout.take(), deaf.stderr.take()));
        assert_eq!(deaf.wait().expect("it ends").code(), Some(128 + 13));
        wait_until("the command is hung up", || !sleeps());
    });
}

#[test]
fn background_jobs_of_a_command_live_on() {
    in_every_way(|server, to| {
        let line = "sleep 1000 < /dev/null > /dev/null 2>&1 & echo started";
        assert_ended(&run(to, &[line]), 0, "started\n");
        let left = server.session_processes();
        assert_eq!(left.len(), 1, "{left:?}");
        signal(left[0].pid, Signal::SIGKILL);
        wait_until("it is gone", || server.session_processes().is_empty());
    });
}

#[test]
fn an_output_held_by_a_background_job_is_waited_for_or_left() {
    in_process(|flavor| {
        let (server, ways) = start(Setup::new(flavor));
        let to = ways[1].clone();
        let mut pipes = Pipes::reading(fpty(&to, &["sleep 1000 & echo started"]), Stdio::null());
        pipes.stdout.read_until("started\n");
        let sleeping = || server.session_processes().into_iter().find(|p| p.name == "sleep");
        wait_until("the shell has ended", || server.session_processes().len() == 1);
        assert!(pipes.stdout.is_silent_for(Duration::from_millis(300)));
        signal(sleeping().expect("it sleeps").pid, Signal::SIGKILL);
        assert_eq!(pipes.finish().status.code(), Some(0));
        let mut pipes = Pipes::reading(fpty(&to, &["sleep 1000 & echo started"]), Stdio::null());
        pipes.stdout.read_until("started\n");
        wait_until("the shell has ended", || server.session_processes().len() == 1);
        signal(pipes.pid(), Signal::SIGTERM);
        assert_eq!(pipes.finish().status.code(), Some(0));
        if let Some(left) = sleeping() {
            signal(left.pid, Signal::SIGKILL);
        }
    });
}

#[test]
fn commands_are_off_by_default() {
    in_process(|flavor| {
        let server = Setup::new(flavor).option("forkpty-urouter", "{dir}/u").start();
        let to = server.path("u");
        for words in [&["true"][..], &["true", "x"]] {
            for more in [&[][..], &["-t"]] {
                let mut command = Command::new(servers::fpty());
                command.args(more).arg(&to).args(words);
                let ended = Pipes::reading(command, Stdio::null()).finish();
                assert_ended(&ended, 255, "");
                let lines = own_lines(&ended.stderr);
                assert!(lines.len() == 1 && lines[0].contains("not allowed here"), "{lines:?}");
            }
        }
        let mut command = Command::new(servers::fpty());
        command.args(["-T", &to]);
        let pipes = Pipes::open(command);
        pipes.send("tty; echo err >&2; exit 3\n");
        let ended = pipes.finish();
        assert_ended(&ended, 3, "not a tty\n");
        assert_eq!(ended.stderr, "err\n");
    });
}

#[test]
fn a_command_has_a_terminal_where_both_ends_are_terminals() {
    in_process(|flavor| {
        let (_server, ways) = start(Setup::new(flavor));
        let to = &ways[0];
        let mut terminal = Terminal::run(fpty(to, &["stty size; tty; exit 5"]), 33, 99);
        terminal.wire.read_until("33 99\r\n/dev/pts/");
        assert_eq!(terminal.wait().code(), Some(5));
        let mut command = Command::new(servers::fpty());
        command.args(["-t", to, "tty; exit 6"]);
        let ended = Pipes::reading(command, Stdio::null()).finish();
        assert_eq!(ended.status.code(), Some(6), "{ended:?}");
        assert!(ended.stdout.starts_with(b"/dev/pts/"), "{ended:?}");
        let mut command = Command::new(servers::fpty());
        command.args(["-T", to, "tty <&1; echo $?"]);
        let mut terminal = Terminal::run(command, 24, 80);
        terminal.wire.read_until("not a tty");
        terminal.wait();
    });
}

#[test]
fn the_plugins_client_runs_commands_too() {
    on_one_server(|flavor| {
        let (server, _) = start(Setup::new(flavor));
        let mut command = client_of(flavor, &server, Mode::Uwsgi);
        command.args(["--pty-command", "cat; echo err >&2; exit 7"]);
        let pipes = Pipes::open(command);
        pipes.send("in");
        let mut pipes = pipes;
        pipes.stdin = None;
        let ended = pipes.finish();
        assert_ended(&ended, 7, "in");
        assert!(ended.stderr.contains("err\n"), "{ended:?}");
        let mut command = client_of(flavor, &server, Mode::Uwsgi);
        command.arg("--pty-ssh").env("SSH_ORIGINAL_COMMAND", "echo \"<$0>\"; exit 8");
        let ended = Pipes::reading(command, Stdio::null()).finish();
        assert_eq!(ended.status.code(), Some(8), "{ended:?}");
    });
}

#[test]
fn a_gateway_without_commands_is_recognised() {
    in_process(|flavor| {
        let Some(setup) = crate::harness::client::c_router() else { return };
        let server = setup.option("forkpty-urouter", "{dir}/u").start();
        let _ = flavor;
        for more in ["-t", "-T"] {
            let mut command = Command::new(servers::fpty());
            command.args([more, &server.path("u"), "true"]);
            let ended = Pipes::reading(command, Stdio::null()).finish();
            assert_ended(&ended, 255, "");
            let lines = own_lines(&ended.stderr);
            assert!(
                lines.len() == 1 && lines[0].contains("does not speak the extended mode"),
                "{lines:?}"
            );
        }
    });
}

#[test]
fn many_commands_at_a_time_are_all_served() {
    in_every_way(|_, to| {
        std::thread::scope(|scope| {
            for number in 0..20 {
                scope.spawn(move || {
                    for turn in 0..10 {
                        let line = format!("echo {number}; exit {turn}");
                        assert_ended(&run(to, &[&line]), turn, &format!("{number}\n"));
                    }
                });
            }
        });
    });
}
