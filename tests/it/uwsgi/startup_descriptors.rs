//! The descriptors that a server is started with, and those that its children get.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::harness::ports::free_address;
use crate::harness::process::{self, Process};
use crate::harness::{Flavor, Server, Setup, Wire, on_every_server, wait_until};

/// The server, started by a shell that changes its descriptors first.
fn by_shell(flavor: &Flavor, redirections: &str) -> Setup {
    Setup::bare(&flavor.name, Path::new("/bin/bash"))
        .argument("-c")
        .argument(&format!("exec {redirections}; LISTEN_PID=$$ exec \"$@\""))
        .argument("bash")
        .argument(&flavor.binary.display().to_string())
        .plugin(&flavor.plugins, "forkptyrouter")
}

fn gateways(server: &Server) -> usize {
    server.count_in_log("spawned uWSGI forkptyrouter 1 (pid: ")
}

#[track_caller]
fn reload(server: &Server) {
    let before = gateways(server);
    process::signal(server.master(), Signal::SIGHUP);
    wait_until("another gateway runs", || {
        gateways(server) > before
            && Process::of(server.gateway()).is_some_and(|gateway| !gateway.is_zombie())
    });
}

#[track_caller]
fn serves(address: &str) {
    let output =
        Wire::connect(address).shell("ls -l /proc/$$/fd | grep -c -- '->'; tty; echo $((6*7))");
    assert!(output.contains("/dev/pts/") && output.ends_with("42\r\n"), "{address}: {output}");
}

/// Closed ones become /dev/null, and nobody's socket.
#[test]
fn closed_standard_descriptors_become_dev_null() {
    on_every_server(|flavor| {
        for closed in ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"] {
            let tcp = free_address();
            for honoured in [false, true] {
                let setup = by_shell(flavor, closed);
                let setup = if honoured { setup.switch("honour-stdin") } else { setup };
                let server = setup
                    .ini(&format!(
                        "logto = {{dir}}/log\nmaster = true\nforkpty-router = {tcp}\n\
                         forkpty-urouter = {{dir}}/u\nforkptyrouter-stats = {{dir}}/stats"
                    ))
                    .raw();
                for _ in 0..2 {
                    for socket in [&server.path("s"), &tcp] {
                        serves(socket);
                    }
                    let told = server.connect("stats").text_to_end();
                    assert!(told.contains("active_sessions"), "{closed}: {told:?}");
                    for process in [server.master(), server.gateway()] {
                        for (number, to) in process::descriptors(process) {
                            let is_socket = to.to_string_lossy().starts_with("socket:");
                            assert!(number > 2 || !is_socket, "{closed}: {number} is {to:?}");
                        }
                    }
                    reload(&server);
                }
                assert_eq!(gateways(&server), 3, "{closed}: none ended by itself");
            }
        }
    });
}

#[track_caller]
fn all_are_served(address: &str) {
    for _ in 0..30 {
        serves(address);
    }
}

/// The service manager's sockets are the server's own, too, whose workers would
/// take clients from the gateway.
#[test]
fn sockets_of_the_service_manager_are_the_gateways_alone() {
    on_every_server(|flavor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap().to_string();
        let server = by_shell(flavor, "3<&900 900<&-")
            .inherit(listener)
            .env("LISTEN_FDS", "1")
            .switch("master")
            .option("forkpty-router", "fd://3")
            .start();
        all_are_served(&tcp);
        assert_eq!(server.count_in_log("spawned uWSGI worker"), 0, "there is nothing for one");
        for _ in 0..2 {
            reload(&server);
            all_are_served(&tcp);
        }
    });
}

/// Activated sockets that are not the gateway's stay the server's.
#[test]
fn an_activated_socket_that_is_not_the_gateways_stays_the_servers() {
    on_every_server(|flavor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap().to_string();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let others = other.local_addr().unwrap().to_string();
        for (redirections, number) in
            [("3<&900 900<&- 4<&0 </dev/null", 3), ("4<&900 900<&- 3<&0 </dev/null", 4)]
        {
            let server = by_shell(flavor, redirections)
                .inherit(listener.try_clone().unwrap())
                .stdin(OwnedFd::from(other.try_clone().unwrap()))
                .env("LISTEN_FDS", "2")
                .switch("master")
                .option("forkpty-router", &format!("fd://{number}"))
                .killed_at_end()
                .start();
            server.wait_for_log("spawned uWSGI worker 1 ");
            all_are_served(&tcp);
            let mut client = Wire::connect(&others);
            client.send("no request of the uwsgi protocol");
            client.read_to_end();
            assert_eq!(server.count_in_log("invalid request block size"), 1);
        }
    });
}

/// The gateway's sockets, as the master has them.
fn listeners(server: &Server) -> Vec<PathBuf> {
    let log = server.log();
    let bound = log.lines().filter(|line| line.contains(" bound on "));
    let numbers: Vec<&str> = bound.filter_map(|line| line.rsplit(' ').next()).collect();
    let all = process::descriptors(server.master()).into_iter();
    all.filter(|(number, _)| numbers.contains(&number.to_string().as_str()))
        .map(|(_, to)| to)
        .collect()
}

/// Processes that a server's hooks leave running do not keep its addresses.
#[test]
fn processes_of_hooks_do_not_keep_the_addresses() {
    on_every_server(|flavor| {
        for hook in [
            "exec-as-user = sleep 1000 &",
            "exec-post-app = sleep 1000 &",
            "hook-as-user = exec:sleep 1000 &",
            "hook-post-app = exec:sleep 1000 &",
            "attach-daemon = sh -c 'sleep 1000 & exec sleep 1000'",
        ] {
            let tcp = free_address();
            let mut server = Setup::new(flavor)
                .ini(&format!("{hook}\nmaster = true\nforkpty-router = {tcp}"))
                .raw();
            let daemons = || {
                let all = server.processes().into_iter();
                all.filter(|process| process.name == "sleep").map(|one| one.pid).collect::<Vec<_>>()
            };
            wait_until(&format!("{hook}: it runs"), || !daemons().is_empty());
            serves(&tcp);
            let listeners = listeners(&server);
            assert_eq!(listeners.len(), 2);
            for daemon in daemons() {
                for (number, to) in process::descriptors(daemon) {
                    assert!(!listeners.contains(&to), "{hook}: it has {to:?} as {number}");
                }
            }
            let left = daemons();
            assert!(server.stop().success());
            if !hook.starts_with("attach") {
                assert!(left.iter().any(|pid| Process::of(*pid).is_some()), "{hook}: it lives");
            }
            TcpListener::bind(&tcp).unwrap_or_else(|error| panic!("{hook}: {error}"));
        }
    });
}
