//! System calls that older kernels lack and seccomp profiles forbid: what the
//! product promises is kept without them, or a line in the log says that it is
//! not.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::client::both;
use crate::harness::ports::free_address;
use crate::harness::process::{self, Process, descriptors};
use crate::harness::seccomp::{Call, Filter, call, call_with};
use crate::harness::terminal::Terminal;
use crate::harness::{
    Flavor, Server, Setup, Wire, on_one_server, servers, side_by_side, wait_until,
};

const ERRNOS: [i32; 2] = [libc::EPERM, libc::ENOSYS];

/// `_IO('T', 0x41)`, on these machines.
const TIOCGPTPEER: u32 = 0x5441;
const CLOSE_RANGE_UNSHARE: u32 = 2;

/// Each of these alone, and all at once.
const REFUSED: [(&str, &[Call]); 8] = [
    ("close_range", &[call(libc::SYS_close_range)]),
    ("close_range and unshare", &[call(libc::SYS_close_range), call(libc::SYS_unshare)]),
    (
        "unsharing",
        &[call_with(libc::SYS_close_range, 2, CLOSE_RANGE_UNSHARE), call(libc::SYS_unshare)],
    ),
    ("pidfd_open", &[call(libc::SYS_pidfd_open)]),
    ("pidfd_send_signal", &[call(libc::SYS_pidfd_send_signal)]),
    ("splice", &[call(libc::SYS_splice)]),
    ("TIOCGPTPEER", &[call_with(libc::SYS_ioctl, 1, TIOCGPTPEER)]),
    (
        "much of what is new",
        &[
            call(libc::SYS_close_range),
            call(libc::SYS_unshare),
            call(libc::SYS_pidfd_open),
            call(libc::SYS_pidfd_send_signal),
            call(libc::SYS_splice),
            call(libc::SYS_statx),
            call(libc::SYS_faccessat2),
            call(libc::SYS_getrandom),
            call(libc::SYS_prlimit64),
            call(libc::SYS_sched_getaffinity),
            call(libc::SYS_clone3),
            call(libc::SYS_openat2),
            call(libc::SYS_epoll_pwait2),
            call(libc::SYS_memfd_create),
            call_with(libc::SYS_ioctl, 1, TIOCGPTPEER),
        ],
    ),
];

/// Runs a case for everything that is refused, on a server of which it may make
/// what it likes. Most of the time they wait, so they do it together.
fn with_each_refused(case: impl Fn(Setup, &str) + Sync) {
    on_one_server(|flavor: &Flavor| {
        let all = ERRNOS.into_iter().flat_map(|errno| REFUSED.map(|refused| (errno, refused)));
        side_by_side(all, |(errno, (name, calls))| {
            let setup = Setup::new(flavor).filter(Filter::refusing(calls, errno));
            case(setup, &format!("{name} is refused with {errno}"));
        });
    });
}

#[test]
fn sessions_work_with_refused_system_calls() {
    with_each_refused(|setup, refused| {
        let server = both(setup).start();
        let mut other = server.connect("s");
        other.shell("true");
        let mut client = server.connect("s");
        // Nothing but its terminal.
        client.assert_only_a_terminal(refused);
        // All output, a stream's too.
        client.send("seq 1 200000; exit\n");
        let output = client.text_to_end();
        assert!(output.contains("\r\n199999\r\n200000\r\n"), "{refused}: {}", output.len());
        for _ in 0..20 {
            let mut client = server.connect("s");
            client.send("exec echo a''ll\n");
            assert!(client.text_to_end().contains("all\r\n"), "{refused}");
        }
        let gateway = server.gateway();
        assert!(Process::of(gateway).is_some(), "{refused}: the same gateway");
        assert_eq!(other.shell("echo alive"), "alive\r\n");
    });
}

/// Last output of a program, written in a stream before its terminal was hung up.
#[test]
fn late_output_is_whole_with_refused_system_calls() {
    with_each_refused(|setup, refused| {
        let server = setup.script("stty raw; seq 1 100000; echo end").raw();
        for _ in 0..3 {
            let output = server.connect("s").text_to_end();
            assert!(output.ends_with("100000\nend\n"), "{refused}: {} bytes", output.len());
        }
    });
}

#[track_caller]
fn stubborn(server: &Server) -> (Wire, Vec<Process>) {
    let mut client = server.connect("s");
    client.read_until("ready");
    wait_until("it has its job", || server.session_processes().len() >= 2);
    (client, server.session_processes())
}

fn are_gone(processes: &[Process]) -> bool {
    processes
        .iter()
        .all(|one| Process::of(one.pid).is_none_or(|now| now.is_zombie() || now.name != one.name))
}

/// Programs that ignore their hang-up are killed after their client, their gateway or
/// their server; and the process that waits meanwhile keeps nothing of the server's.
#[test]
fn leftovers_are_killed_with_refused_system_calls() {
    with_each_refused(|setup, refused| {
        let tcp = free_address();
        let mut server = setup
            .script("trap '' HUP; echo ready; sleep 1000; sleep 1000")
            .option("forkptyrouter-hangup-grace", "1")
            .option("forkpty-router", &tcp)
            .raw();
        let (client, left) = stubborn(&server);
        drop(client);
        wait_until(&format!("{refused}: what outlived its client is gone"), || are_gone(&left));

        let (client, left) = stubborn(&server);
        let gateway = server.gateway();
        process::signal(gateway, Signal::SIGKILL);
        wait_until("there is another gateway", || server.gateway() != gateway);
        wait_until(&format!("{refused}: what outlived its gateway is gone"), || are_gone(&left));
        drop(client);

        let (client, left) = stubborn(&server);
        assert!(server.stop().success());
        TcpListener::bind(&tcp).unwrap_or_else(|error| panic!("{refused}: {error}"));
        assert!(!are_gone(&left), "{refused}: it has its grace");
        wait_until(&format!("{refused}: what outlived its server is gone"), || are_gone(&left));
        wait_until("nothing of the server is left", || server.processes().is_empty());
        drop(client);
    });
}

/// A client takes the terminal; what becomes of it without its gateway depends
/// on whether somebody else can look after it.
#[test]
fn terminals_are_handed_over_with_refused_system_calls() {
    with_each_refused(|setup, refused| {
        let server = both(setup).start();
        let mut fpty = Command::new(servers::fpty());
        fpty.arg(server.path("u")).env("TERM", "xterm");
        let mut terminal = Terminal::run(fpty, 30, 100);
        terminal.wire.read_until("$ ");
        wait_until("the client has the terminal", || {
            let open = descriptors(terminal.leader());
            open.iter().any(|(number, path)| *number > 2 && path.ends_with("ptmx"))
        });
        terminal.wire.send("seq 1 20000; echo e''nd\n");
        assert!(terminal.wire.read_until("end\r\n").contains("\r\n19999\r\n20000\r\n"));
        let gateway = server.gateway();
        process::signal(gateway, Signal::SIGKILL);
        wait_until("there is another gateway", || server.gateway() != gateway);
        if server.count_in_log("end with their gateway") > 0 {
            assert_eq!(terminal.wait().code(), Some(254), "{refused}");
            wait_until("the program is gone", || server.session_processes().is_empty());
        } else {
            terminal.wire.send("exit 6\n");
            assert_eq!(terminal.wait().code(), Some(6), "{refused}");
        }
    });
}

/// Neither a pidfd nor /proc: nothing is known of a process but its number, and
/// nothing is signalled by that.
#[test]
fn without_pidfd_and_proc_nothing_is_killed_by_a_number() {
    const PREPARE: &str = "mount -t tmpfs none /proc";
    let works = Command::new("unshare").args(["-m", "sh", "-c", PREPARE]).status();
    if !works.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: needs a mount namespace");
    }
    on_one_server(|flavor| {
        let filter = || Filter::refusing(&[call(libc::SYS_pidfd_open)], libc::EPERM);
        let server = Setup::new(flavor).filter(filter()).raw();
        server.wait_for_log("no pidfd here");
        server.connect("s").shell("true");
        assert_eq!(server.count_in_log("may outlive"), 0, "there is /proc");
        drop(server);

        let server = Setup::bare(&flavor.name, Path::new("/usr/bin/unshare"))
            .argument("-m")
            .argument("sh")
            .argument("-c")
            .argument(&format!("{PREPARE}; exec \"$@\""))
            .argument("sh")
            .argument(&flavor.binary.display().to_string())
            .plugin(&flavor.plugins, "forkptyrouter")
            .script("trap '' HUP; echo ready; sleep 1000; sleep 1000")
            .option("forkptyrouter-hangup-grace", "1")
            .filter(filter())
            .raw();
        server.wait_for_log("what ignores SIGHUP may outlive its gateway");
        // Of its own children the gateway knows more.
        let (client, left) = stubborn(&server);
        drop(client);
        wait_until("what outlived its client is gone", || are_gone(&left));
        let (client, left) = stubborn(&server);
        let gateway = server.gateway();
        process::signal(gateway, Signal::SIGKILL);
        wait_until("there is another gateway", || server.gateway() != gateway);
        drop(client);
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!are_gone(&left), "it was killed by a number alone");
    });
}
