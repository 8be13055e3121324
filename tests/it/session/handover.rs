//! Handover of the terminal: sessions that outlive a gateway and a reload, sessions that
//! a stop ends, and clients of gateways that lie.

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::harness::client::{Pipes, both};
use crate::harness::cost::load;
use crate::harness::process::{self, descriptors};
use crate::harness::terminal::Terminal;
use crate::harness::{
    DEADLINE, Flavor, Server, Setup, in_process, on_every_server, servers, wait_until,
};

fn fpty(server: &Server) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.arg(server.path("u")).env("TERM", "xterm");
    fpty
}

/// A pidfd comes with the terminal; the client has one of the server itself.
/// (Other tests' terminals may leak into a client that is just started.)
fn has_the_terminal(client: i32) -> bool {
    let open = descriptors(client);
    let count = |name: &str| open.iter().filter(|(_, path)| path.ends_with(name)).count();
    count("ptmx") > 0 && count("anon_inode:[pidfd]") > 1
}

/// Whether the supervisor has the session: it has a pidfd of the program, and one
/// of the master.
fn is_kept(server: &Server) -> bool {
    let pidfds = |pid| {
        descriptors(pid).iter().filter(|(_, path)| path.ends_with("anon_inode:[pidfd]")).count()
    };
    server.processes().iter().any(|one| one.name == "fpty-supervisor" && pidfds(one.pid) > 1)
}

/// A shell whose terminal the client has, while somebody else looks after it.
#[track_caller]
fn seated(server: &Server) -> Terminal {
    let mut terminal = Terminal::run(fpty(server), 30, 100);
    terminal.wire.read_until("$ ");
    wait_until("the client has the terminal", || has_the_terminal(terminal.leader()));
    terminal.wire.send("echo o''ne\n");
    terminal.wire.read_until("one\r\n$ ");
    wait_until("the session is kept", || is_kept(server));
    terminal
}

#[track_caller]
fn ends_with(mut terminal: Terminal, line: &str, status: i32) {
    terminal.wire.send(format!("{line}\n"));
    assert_eq!(terminal.wait().code(), Some(status), "{line}");
}

#[test]
fn a_handed_over_session_looks_the_same_to_a_person() {
    in_process(|flavor| {
        let server = both(Setup::new(flavor)).start();
        let mut terminal = seated(&server);
        terminal.resize(41, 120);
        terminal.wire.send("stty size\n");
        terminal.wire.read_until("41 120\r\n");
        terminal.wire.send("sleep 1000\n");
        wait_until("the job runs", || {
            server.session_processes().iter().any(|process| process.name == "sleep")
        });
        terminal.wire.send("\x03");
        terminal.wire.read_until("$ ");
        terminal.wire.send("echo \"=$?=\"\n");
        terminal.wire.read_until("=130=");
        process::signal(terminal.leader(), Signal::SIGUSR1);
        terminal.wire.send("seq 1 20000; echo e''nd\n");
        assert!(terminal.wire.read_until("end\r\n").contains("\r\n19999\r\n20000\r\n"));
        ends_with(terminal, "exit 6", 6);
    });
}

#[test]
fn a_handed_over_session_survives_a_killed_gateway_and_a_reload() {
    on_every_server(|flavor| {
        let server = both(Setup::new(flavor)).start();
        for (way, line, status) in
            [("kill", "exit 9", 9), ("kill", "kill -9 $$", 137), ("reload", "exit 0", 0)]
        {
            let mut terminal = seated(&server);
            server.replace_gateway(way);
            terminal.wire.send("echo t''wo\n");
            terminal.wire.read_until("two\r\n$ ");
            // An exit status of 0 is known only where the kernel remembers, or
            // to those that may look.
            ends_with(terminal, line, status);
        }
        wait_until("nothing is kept any more", || !is_kept(&server));
    });
}

/// A stop is a stop, also for what ignores SIGHUP and was handed over.
#[test]
fn a_stop_ends_a_handed_over_session() {
    on_every_server(|flavor| {
        let server = both(Setup::new(flavor).option("forkptyrouter-hangup-grace", "1")).start();
        let mut terminal = seated(&server);
        terminal.wire.send("trap '' HUP; echo tr''apped\n");
        terminal.wire.read_until("trapped");
        process::signal(server.master(), Signal::SIGINT);
        terminal.wire.read_until("the instance has stopped");
        assert_eq!(terminal.wait().code(), Some(254));
        wait_until("nothing is left", || server.processes().is_empty());
    });
}

#[test]
fn without_handover_a_killed_gateway_is_an_error() {
    in_process(|flavor| {
        let server = both(Setup::new(flavor).option("forkptyrouter-handover", "false")).start();
        let mut terminal = Terminal::run(fpty(&server), 30, 100);
        terminal.wire.read_until("$ ");
        std::thread::sleep(Duration::from_millis(100));
        assert!(!has_the_terminal(terminal.leader()));
        process::signal(server.gateway(), Signal::SIGKILL);
        terminal.wire.read_until("lost");
        assert_eq!(terminal.wait().code(), Some(254));
    });
}

/// The supervisor has a copy of the client's connection, too, for as long as the
/// program runs.
#[test]
fn a_program_that_outlives_its_client_costs_no_processor() {
    in_process(|flavor| {
        let setup = Setup::new(flavor)
            .script("trap '' HUP; echo ready; sleep 1000")
            .option("forkptyrouter-hangup-grace", "0");
        let server = both(setup).start();
        let mut terminal = Terminal::run(fpty(&server), 30, 100);
        terminal.wire.read_until("ready");
        wait_until("it has the terminal", || has_the_terminal(terminal.leader()));
        process::signal(terminal.leader(), Signal::SIGKILL);
        terminal.wait();
        wait_until("its end was heard", || {
            descriptors(server.gateway()).iter().all(|(_, to)| !to.ends_with("ptmx"))
        });
        let used = load(server.gateway(), Duration::from_millis(500));
        assert!(used < 0.1, "{used} of a processor");
        assert_eq!(server.programs().len(), 1, "it goes on");
    });
}

/// A client that is stopped before it takes what is offered loses nothing.
#[test]
fn a_stopped_client_holds_up_nobody() {
    in_process(|flavor| {
        let server = both(Setup::new(flavor).script("sleep 0.2; seq 1 30000; exit 5")).start();
        let mut command = fpty(&server);
        command.stdin(Stdio::piped());
        let pipes = Pipes::open(command);
        // Both ends have agreed by then.
        wait_until("the program runs", || !server.programs().is_empty());
        process::signal(pipes.pid(), Signal::SIGSTOP);
        let mut other = server.connect("s");
        other.read_until("30000\r\n");
        std::thread::sleep(Duration::from_millis(300));
        process::signal(pipes.pid(), Signal::SIGCONT);
        let finished = pipes.finish();
        assert_eq!(finished.status.code(), Some(5), "{finished:?}");
        assert!(finished.stdout.ends_with(b"29999\r\n30000\r\n"));
    });
}

/// A gateway that the test itself is, and that lies.
struct Liar {
    _folder: tempfile::TempDir,
    stream: UnixStream,
    client: Pipes,
}

impl Liar {
    /// Up to the client's word that it has said all.
    #[track_caller]
    fn met(_flavor: &Flavor) -> Self {
        let folder = tempfile::Builder::new().prefix("fp").tempdir_in("/tmp").unwrap();
        let address = folder.path().join("liar");
        let listener = UnixListener::bind(&address).unwrap();
        let mut fpty = Command::new(servers::fpty());
        fpty.arg(&address).stdin(Stdio::piped());
        let client = Pipes::open(fpty);
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(&[0, 255, 255, 102]).unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !seen.ends_with(&[0, 0, 0, 103]) {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "ended after {seen:?}");
            seen.extend_from_slice(&buffer[..count]);
        }
        Self { _folder: folder, stream, client }
    }

    fn pass(&self, bytes: &[u8], numbers: &[RawFd]) {
        let message = [ControlMessage::ScmRights(numbers)];
        let messages: &[ControlMessage] = if numbers.is_empty() { &[] } else { &message };
        let pieces = [IoSlice::new(bytes)];
        sendmsg::<()>(self.stream.as_raw_fd(), &pieces, messages, MsgFlags::empty(), None).unwrap();
    }

    #[track_caller]
    fn end(self, status: i32, words: &str) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        let finished = self.client.finish();
        assert_eq!(finished.status.code(), Some(status), "{finished:?}");
        assert!(finished.stderr.contains(words), "{words:?} in {finished:?}");
        assert!(!finished.stderr.contains('\x1b'), "{finished:?}");
    }
}

#[test]
fn a_client_takes_no_descriptor_that_is_no_terminal() {
    in_process(|flavor| {
        let open = |path: &str| std::fs::File::open(path).unwrap();
        let (null, folder, file) = (open("/dev/null"), open("/"), open("/etc/passwd"));
        let pty = nix::pty::openpty(None, None).unwrap();
        let numbers = [&null, &folder, &file]
            .map(AsRawFd::as_raw_fd)
            .into_iter()
            .chain([pty.slave.as_raw_fd()]);
        for number in numbers {
            let liar = Liar::met(flavor);
            liar.pass(&[0, 1, 0, 112, b'm'], &[number]);
            liar.end(254, "instead of a terminal");
        }
        // As through a proxy: nothing is taken, and the session goes on.
        let liar = Liar::met(flavor);
        liar.pass(&[0, 1, 0, 112, b'm'], &[]);
        liar.pass(&[0, 1, 0, 0, b'x'], &[]);
        liar.end(254, "it ended without a word");
        for count in [2, 20] {
            let liar = Liar::met(flavor);
            liar.pass(&[0, 1, 0, 112, b'm'], &vec![pty.master.as_raw_fd(); count]);
            liar.end(254, "descriptors");
        }
        let liar = Liar::met(flavor);
        liar.pass(&[0, 1, 0, 0, b'x'], &[null.as_raw_fd()]);
        liar.end(254, "without an offer");
        let liar = Liar::met(flavor);
        liar.pass(&[0, 0, 0, 113], &[]);
        liar.end(254, "had not offered");
        let liar = Liar::met(flavor);
        liar.end(254, "lost");
    });
}

#[test]
fn a_lying_gateways_texts_are_harmless_and_its_first_end_counts() {
    in_process(|flavor| {
        let liar = Liar::met(flavor);
        let text = [b"\x1b[2Jclear\n".as_slice(), &[b'x'; 60_000]].concat();
        let size = (text.len() as u16).to_le_bytes();
        liar.pass(&[&[0, size[0], size[1], 111][..], &text].concat(), &[]);
        liar.pass(&[0, 2, 0, 110, 0, 4, 0, 2, 0, 110, 0, 5], &[]);
        liar.end(4, "clear");
    });
}
