//! The gateway's process: respawn, reload, stop, harakiri, several of them.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::process::{self, Process};
use crate::harness::{Setup, Wire, on_every_server, wait_until};

/// The harakiri is for a gateway that hangs, not for one that waits.
#[test]
fn harakiri_spares_an_idle_or_busy_gateway() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor).option("forkptyrouter-harakiri", "1").raw();
        let gateway = server.gateway();
        let mut idle = server.connect("s");
        idle.shell("true");
        idle.read_until("$ ");
        let busy = server.connect("s");
        busy.send("yes\n");
        assert!(idle.is_silent_for(Duration::from_secs(3)), "{}", idle.text_to_end());
        assert_eq!(idle.shell("echo alive"), "alive\r\n");
        assert_eq!(server.gateway(), gateway, "the same gateway");
    });
}

/// Several gateways share the sockets; each has the sessions it took.
#[test]
fn several_gateways_share_the_sockets() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor)
            .option("forkptyrouter-processes", "2")
            .option("forkptyrouter-stats", "{dir}/stats")
            .raw();
        server.wait_for_log("spawned uWSGI forkptyrouter 2 (pid: ");
        let mut clients: Vec<_> = (0..20).map(|_| server.connect("s")).collect();
        for client in &mut clients {
            assert_eq!(client.shell("echo served"), "served\r\n");
        }
        process::signal(server.gateway(), Signal::SIGKILL);
        server.wait_for_log("respawned uWSGI forkptyrouter 1 (pid: ");
        assert_eq!(server.connect("s").shell("echo served"), "served\r\n");
    });
}

#[test]
fn a_killed_gateway_is_respawned_without_its_shells() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor).raw();
        let mut client = server.connect("s");
        client.send("echo rea''dy; sleep 1000\n");
        client.read_until("ready\r\n");
        let gateway = server.gateway();
        process::signal(gateway, Signal::SIGKILL);
        client.read_to_end();
        server.wait_for_log("respawned uWSGI forkptyrouter 1 (pid: ");
        wait_until("the shell and its job are hung up", || server.session_processes().is_empty());
        assert_ne!(server.gateway(), gateway);
        assert_eq!(server.connect("s").shell("echo again"), "again\r\n");
    });
}

#[test]
fn a_reload_brings_a_new_gateway_on_the_same_sockets() {
    on_every_server(|flavor| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap().to_string();
        let server =
            Setup::new(flavor).inherit(listener).option("forkpty-router", "fd://900").raw();
        let mut client = server.connect("s");
        client.shell("true");
        for round in 2..=3 {
            process::signal(server.master(), Signal::SIGHUP);
            wait_until("the new gateway runs", || {
                let log = server.log();
                let spawned = |line: &&str| line.starts_with("spawned uWSGI forkptyrouter 1");
                log.lines().filter(spawned).count() >= round
            });
            wait_until("the new gateway is named", || {
                Process::of(server.gateway()).is_some_and(|gateway| !gateway.is_zombie())
            });
            assert_eq!(server.connect("s").shell("echo again"), "again\r\n");
            assert_eq!(Wire::connect(&tcp).shell("echo tcp"), "tcp\r\n");
        }
        client.read_to_end();
        wait_until("the old session is over", || server.session_processes().is_empty());
    });
}

#[test]
fn a_stop_leaves_nobody_behind() {
    on_every_server(|flavor| {
        let mut server = Setup::new(flavor).raw();
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = server.connect("s");
            client.send("echo rea''dy; sleep 1000\n");
            client.read_until("ready\r\n");
            clients.push(client);
        }
        let status = server.stop();
        assert!(status.success(), "{status}");
        for mut client in clients {
            client.read_to_end();
        }
        wait_until("no process of the server is left", || server.processes().is_empty());
    });
}

/// A gateway that is forked after an application was loaded has that one's
/// signals: ignored children, handlers, a mask.
#[test]
fn signal_handlers_of_an_application_are_not_the_gateways() {
    const APPLICATION: &str = "import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGWINCH, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
def application(env, start_response):
    start_response('200 OK', [])
    return []
";
    on_every_server(|flavor| {
        let has_python = std::process::Command::new(&flavor.binary)
            .args(["--python-version"])
            .output()
            .is_ok_and(|output| output.status.success());
        if !has_python {
            return eprintln!("skipped: {} has no Python", flavor.name);
        }
        let server = Setup::new(flavor)
            .file("application.py", APPLICATION)
            .option("wsgi-file", "{dir}/application.py")
            .option("socket", "{dir}/app")
            .raw();
        server.wait_for_log("WSGI app 0");
        for _ in 0..3 {
            let mut client = server.connect("s");
            client.read_until("$ ");
            client.send("echo said; exit\n");
            let said = client.text_to_end();
            assert!(said.contains("said"), "{said:?}");
        }
        wait_until("all are reaped", || server.programs().is_empty());
    });
}
