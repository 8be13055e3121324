//! A process number is a process's only until it has been reaped: whoever gets it next is
//! not signalled.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{SigHandler, Signal, signal};

use crate::harness::attach_client::AttachClient;
use crate::harness::pid_reuse::Stranger;
use crate::harness::process::{self, Process};
use crate::harness::wire::header;
use crate::harness::{Server, Setup, in_process, side_by_side, wait_until};

/// Name of the variable with the part that [`as_a_program`] plays.
const PART: &str = "FPTY_TEST_PART";

/// Not a case: what the cases below have run in a terminal.
#[test]
fn as_a_program() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let sleeps = |seconds: &str, group: i32| {
        let mut sleep = Command::new("sleep");
        sleep.arg(seconds).process_group(group).stdin(Stdio::null());
        sleep.spawn().unwrap()
    };
    // SAFETY: neither is a handler.
    unsafe { signal(Signal::SIGTTOU, SigHandler::SigIgn).unwrap() };
    let mut head = sleeps("1000", 0);
    let group = head.id() as i32;
    let rest = (part == "headless").then(|| sleeps("1000", group));
    nix::unistd::tcsetpgrp(std::io::stdout(), nix::unistd::Pid::from_raw(group)).unwrap();
    head.kill().unwrap();
    head.wait().unwrap();
    if rest.is_some() {
        // SAFETY: SIG_IGN is no handler: nothing of this program runs in a signal.
        unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn).unwrap() };
    }
    println!("group {group} rest {}.", rest.map_or(0, |rest| rest.id()));
    loop {
        std::thread::park();
    }
}

/// A program that does this.
fn playing(setup: Setup, part: &str) -> Server {
    let own = std::env::current_exe().unwrap();
    let (own, name) = (own.display(), "process::pid_reuse::as_a_program");
    setup.script(&format!("{PART}={part} exec {own} --exact {name} --nocapture")).raw()
}

fn number_after(text: &str, word: &str) -> i32 {
    let rest = text.split_once(word).unwrap().1;
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// The kernel goes on telling the number of a foreground group that has ended.
#[test]
fn the_reused_number_of_an_ended_foreground_group_is_not_signalled() {
    if !Stranger::can_be() {
        return;
    }
    in_process(|flavor| {
        let server = playing(Setup::new(flavor), "ended");
        let mut client = server.connect("s");
        let text = client.read_until(".\r\n");
        let stranger = Stranger::with_number(number_after(&text, "group "));
        drop(client);
        wait_until("the session is over", || server.session_processes().is_empty());
        assert!(stranger.lives());
    });
}

/// Processes that are left in a group whose first process has ended get the
/// hang-up, even if their leader ignores it.
#[test]
fn a_foreground_group_without_its_head_is_hung_up() {
    in_process(|flavor| {
        let setup = Setup::new(flavor).option("forkptyrouter-hangup-grace", "300");
        let server = playing(setup, "headless");
        let mut client = server.connect("s");
        let text = client.read_until(".\r\n");
        let rest = number_after(&text, "rest ");
        assert!(Process::of(rest).is_some());
        drop(client);
        wait_until("it is hung up", || Process::of(rest).is_none_or(|it| it.is_zombie()));
        assert!(!server.programs().is_empty(), "its leader ignores that");
        for program in server.programs() {
            process::signal(program.pid, Signal::SIGKILL);
        }
    });
}

#[track_caller]
fn kill_gateway(server: &Server) -> i32 {
    let gateway = server.gateway();
    let served = server.count_in_log("sessions at once");
    process::signal(gateway, Signal::SIGKILL);
    wait_until("there is another gateway", || server.gateway() != gateway);
    wait_until("it serves", || server.count_in_log("sessions at once") > served);
    server.gateway()
}

/// The session's program is no child of the gateway that has it now.
#[test]
fn the_reused_number_of_a_restored_sessions_program_is_not_signalled() {
    if !Stranger::can_be() {
        return;
    }
    in_process(|flavor| {
        side_by_side(["300", "0"], |detach| {
            let server = Setup::new(flavor).option("forkptyrouter-detach", detach).uwsgi();
            let asks = [("fpty.detach", "1"), ("fpty.take", "1")];
            let mut client = AttachClient::connects(&server, "u", None, &asks).takes();
            client.terminal().send("echo p''id $$ e''nd\n");
            let text = client.terminal().read_until("end\r\n");
            let shell = number_after(&text, "pid ");
            wait_until("the session is kept", || server.supervised_terminals() > 0);
            let gateway = kill_gateway(&server);
            process::signal(gateway, Signal::SIGSTOP);
            client.say(&header(0, libc::SIGTERM as u8));
            process::signal(shell, Signal::SIGKILL);
            let stranger = Stranger::with_number(shell);
            process::signal(gateway, Signal::SIGCONT);
            let end = client.ended();
            assert_eq!((end.0, end.1), (1, 9));
            assert!(stranger.lives(), "detach {detach}");
        });
    });
}

/// The list of sessions in shared memory outlives them.
#[test]
fn reused_numbers_from_a_killed_gateways_list_are_not_signalled() {
    if !Stranger::can_be() {
        return;
    }
    in_process(|flavor| {
        side_by_side([("s", false), ("u", true)], |(socket, command)| {
            let server = Setup::new(flavor)
                .script("trap '' HUP; echo \"pid $$.\"; sleep 1000; sleep 1000")
                .option("forkptyrouter-hangup-grace", "1")
                .option("forkpty-router", "{dir}/s")
                .uwsgi();
            let mut stubborn = server.connect("s");
            let stubborn_pid = number_after(&stubborn.read_until(".\r\n"), "pid ");
            let mut clients = Vec::new();
            let pid = if command {
                let mut one =
                    AttachClient::connects(&server, socket, None, &[("fpty.terminal", "0")]);
                one.sees("pid ");
                one.sees(".\n");
                number_after(&String::from_utf8_lossy(&one.output), "pid ")
            } else {
                let mut one = server.connect(socket);
                let pid = number_after(&one.read_until(".\r\n"), "pid ");
                clients.push(one);
                pid
            };
            let (master, gateway) = (server.master(), server.gateway());
            // Nobody comes after it, and nobody reaps, until the number is taken.
            process::signal(master, Signal::SIGSTOP);
            process::signal(gateway, Signal::SIGSTOP);
            let group = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::killpg(group, Signal::SIGKILL).unwrap();
            process::signal(gateway, Signal::SIGKILL);
            let stranger = Stranger::with_number(pid);
            process::signal(master, Signal::SIGCONT);
            wait_until("who was left behind is killed", || {
                Process::of(stubborn_pid).is_none_or(|it| it.is_zombie())
            });
            assert!(stranger.lives(), "command {command}");
        });
    });
}
