//! Where /proc tells of other processes than ours, of some, or of none: what outlives its
//! client, its gateway or its server is killed all the same, and nobody else is.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::harness::cost::{RUN, echo_session, echoes};
use crate::harness::process::{self, Process};
use crate::harness::{
    Flavor, Server, Setup, on_every_server, on_one_server, side_by_side, wait_until,
};

/// A user that nobody else is.
const SOMEBODY: &str = "54321";

/// Program of a session that ignores its hang-up, with jobs that do, too.
const STUBBORN: &str = "trap '' HUP; sleep 1000 & sleep 1000 & echo rea''dy; wait; sleep 1000";

/// The server in namespaces of its own, of which `prepare` makes what is to be
/// tested; the shell that does so stays, as the first process.
fn within(flavor: &Flavor, unshare: &[&str], prepare: &str) -> Setup {
    let mut setup = Setup::bare(&flavor.name, Path::new("/usr/bin/unshare"))
        .file("wrapper", &format!("{prepare}\n\"$@\"\nexec sleep 1000"))
        .killed_at_end();
    for argument in unshare.iter().chain(&["--fork", "--kill-child", "sh"]) {
        setup = setup.argument(argument);
    }
    let wrapper = setup.path("wrapper");
    setup
        .argument(&wrapper)
        .argument(&flavor.binary.display().to_string())
        .plugin(&flavor.plugins, "forkptyrouter")
        .script(RUN)
        .option("forkptyrouter-hangup-grace", "1")
}

fn can(unshare: &[&str], prepare: &str) -> bool {
    let can = Command::new("unshare")
        .args(unshare)
        .args(["--fork", "sh", "-c", prepare])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        eprintln!("skipped: cannot prepare the namespaces");
    }
    can
}

/// The session leaders, by the numbers that we know them by.
fn leaders(server: &Server) -> Vec<Process> {
    let all = server.session_processes().into_iter();
    all.filter(|one| one.pid == one.session && !one.name.starts_with("fpty-")).collect()
}

/// Begins a stubborn session, and lets its client leave; returns its processes.
#[track_caller]
fn begin_stubborn(server: &Server) -> (crate::harness::Wire, Vec<Process>) {
    let before: Vec<i32> = leaders(server).iter().map(|leader| leader.pid).collect();
    let mut client = server.connect("s");
    client.read_until("ready\n");
    client.send(format!("{STUBBORN}\n"));
    client.read_until("ready\n");
    let leader = leaders(server).into_iter().find(|leader| !before.contains(&leader.pid)).unwrap();
    let members = || {
        let all = server.session_processes().into_iter();
        all.filter(|process| process.session == leader.pid).collect::<Vec<_>>()
    };
    wait_until("it has its jobs", || members().len() == 3);
    (client, members())
}

fn are_gone(processes: &[Process]) -> bool {
    processes
        .iter()
        .all(|one| Process::of(one.pid).is_none_or(|now| now.is_zombie() || now.name != one.name))
}

/// Programs that outlive their client are killed while other sessions live, and programs
/// that outlive their gateway, and programs that outlive their server.
fn assert_found(setup: impl Fn() -> Setup + Sync) {
    let parts = [outlives_its_client, outlives_its_gateway, outlives_its_server];
    side_by_side(parts, |part| part(&setup().raw()));
}

fn outlives_its_client(server: &Server) {
    let mut calm: Vec<_> = (0..4).map(|_| echo_session(server, "s")).collect();
    for client in &mut calm {
        client.send("exec cat\n");
        echoes(client, 1);
    }
    let (client, stubborn) = begin_stubborn(server);
    drop(client);
    wait_until("what outlived its client is killed", || are_gone(&stubborn));
    for client in &mut calm {
        echoes(client, 1);
    }
    assert_eq!(server.count_in_log("outlived its client"), 1);
}

fn outlives_its_gateway(server: &Server) {
    let (client, stubborn) = begin_stubborn(server);
    let gateway = Process::of(stubborn[0].session).unwrap().parent;
    process::signal(gateway, Signal::SIGKILL);
    wait_until("what outlived its gateway is killed", || are_gone(&stubborn));
    drop(client);
    assert_eq!(server.count_in_log("outlived its gateway"), 1);
}

fn outlives_its_server(server: &Server) {
    let (client, stubborn) = begin_stubborn(server);
    let gateway = Process::of(Process::of(stubborn[0].session).unwrap().parent).unwrap();
    process::signal(gateway.parent, Signal::SIGINT);
    wait_until("what outlived its server is killed", || are_gone(&stubborn));
    drop(client);
}

/// Processes outside that have, as far as possible, the numbers of those
/// inside: each leads a session and has a child in it.
struct Outside(Vec<Child>);

impl Outside {
    fn start() -> Self {
        let one = || {
            let mut command = Command::new("setsid");
            command.args(["sh", "-c", "sleep 1000 & wait"]);
            command.stdin(Stdio::null()).spawn().unwrap()
        };
        Self((0..40).map(|_| one()).collect())
    }

    fn are_all_there(&mut self) -> bool {
        self.0.iter_mut().all(|child| child.try_wait().unwrap().is_none())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // The job first: it is the leader's.
            for job in process::children(child.id() as i32) {
                process::signal(job.pid, Signal::SIGKILL);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn leftovers_are_killed_with_the_proc_of_an_outer_namespace() {
    const UNSHARE: [&str; 2] = ["--pid", "--mount"];
    const LAST: &str = "/proc/sys/kernel/ns_last_pid";
    if !can(&UNSHARE, &format!("echo 300 > {LAST}")) {
        return;
    }
    on_one_server(|flavor| {
        let mut outside = Outside::start();
        let first = outside.0[0].id();
        let prepare = format!("echo {} > {LAST}", first.saturating_sub(12));
        assert_found(|| within(flavor, &UNSHARE, &prepare));
        assert!(outside.are_all_there(), "somebody else was killed");
    });
}

#[test]
fn leftovers_are_killed_without_proc() {
    const UNSHARE: [&str; 2] = ["--pid", "--mount"];
    const PREPARE: &str = "mount -t tmpfs none /proc";
    if !can(&UNSHARE, PREPARE) {
        return;
    }
    on_one_server(|flavor| {
        assert_found(|| within(flavor, &UNSHARE, PREPARE));
        let server = within(flavor, &UNSHARE, PREPARE).raw();
        server.wait_for_log("no /proc/net/tcp here");
    });
}

/// Only what belongs to the user is listed, and not a program that runs with
/// another's rights or cannot be read.
#[test]
fn leftovers_are_killed_with_hidepid() {
    const UNSHARE: [&str; 2] = ["--pid", "--mount"];
    const PREPARE: &str = "mount -t proc -o hidepid=2 proc /proc";
    if !geteuid().is_root() || !can(&UNSHARE, PREPARE) {
        return;
    }
    on_one_server(|flavor| {
        let prepare =
            format!("{PREPARE}; cp $(command -v sleep) {{dir}}/sleep; chmod 711 {{dir}}/sleep");
        assert_found(|| {
            let setup = within(flavor, &UNSHARE, &prepare);
            let path = format!("{}:/usr/bin:/bin", setup.path(""));
            setup
                .env("PATH", &path)
                .option("uid", SOMEBODY)
                .option("gid", SOMEBODY)
                .option("chown-socket", SOMEBODY)
        });
    });
}

/// The master is outside, the gateway the first process within.
#[test]
fn leftovers_are_killed_with_the_servers_unshare_option() {
    if !geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    on_every_server(|flavor| {
        let mut server = Setup::new(flavor)
            .script(RUN)
            .option("unshare", "pid")
            .option("uid", SOMEBODY)
            .option("gid", SOMEBODY)
            .option("chown-socket", SOMEBODY)
            .option("forkptyrouter-hangup-grace", "1")
            .raw();
        let mut calm = echo_session(&server, "s");
        calm.send("exec cat\n");
        echoes(&mut calm, 1);
        let (client, stubborn) = begin_stubborn(&server);
        drop(client);
        wait_until("what outlived its client is killed", || are_gone(&stubborn));
        echoes(&mut calm, 1);
        let (client, stubborn) = begin_stubborn(&server);
        assert!(server.stop().success());
        wait_until("what outlived its server is killed", || are_gone(&stubborn));
        drop(client);
    });
}
