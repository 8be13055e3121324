//! From within a session nothing of the gateway or of another session can be
//! reached, even by a program of the same user.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::unistd::geteuid;

use crate::harness::{Flavor, Server, Setup, Wire, on_every_server};

/// A user that nobody else is.
const SOMEBODY: u32 = 54321;

/// A server that runs as [`SOMEBODY`], with the address of its gateway.
fn as_somebody(flavor: &Flavor) -> (Server, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let somebody = SOMEBODY.to_string();
    let server = Setup::new(flavor)
        .env("NOTIFY_SOCKET", "/nowhere")
        .env("UWSGI_RELOADS", "3")
        .env("LISTEN_PID", "1")
        .inherit(listener)
        .option("uid", &somebody)
        .option("gid", &somebody)
        .option("forkpty-router", "fd://900")
        .option("forkptyrouter-command", "/bin/sh")
        .start();
    (server, address)
}

#[test]
fn the_gateway_cannot_be_inspected_by_its_own_user() {
    if !geteuid().is_root() {
        return eprintln!("skipped: needs root, to become somebody else");
    }
    on_every_server(|flavor| {
        let (server, address) = as_somebody(flavor);
        let gateway = server.gateway();
        let mut client = Wire::connect(&address);
        assert_eq!(client.shell("id -u").trim(), SOMEBODY.to_string());
        for closed in ["environ", "maps", "mem", "auxv", "stack"] {
            let said =
                client.shell(&format!("head -c 1 /proc/{gateway}/{closed} && echo reach''able"));
            assert!(!said.contains("reachable"), "{closed}: {said:?}");
        }
        let said = client.shell(&format!("ls /proc/{gateway}/fd"));
        assert!(said.contains("Permission denied"), "{said:?}");
        let said = client.shell(&format!("cat /proc/{gateway}/environ"));
        assert!(said.contains("Permission denied"), "{said:?}");
        if which("strace") {
            let said = client.shell(&format!("timeout 2 strace -p {gateway} -o /dev/null"));
            assert!(said.contains("not permitted"), "{said:?}");
        }
        // The terminal is the session's, and closed to others.
        let tty = client.shell("tty").trim().to_owned();
        let data = std::fs::metadata(&tty).unwrap();
        assert_eq!(data.uid(), SOMEBODY);
        let mode = data.permissions().mode() & 0o777;
        assert_eq!(mode & !0o620, 0, "{tty} has mode {mode:o}");
    });
}

fn which(name: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(name).exists())
}

#[test]
fn the_environment_has_nothing_of_the_servers() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor)
            .env("NOTIFY_SOCKET", "/nowhere")
            .env("LISTEN_PID", "1")
            .env("OF_THE_OPERATOR", "kept")
            .raw();
        let environment = server.connect("s").shell("env");
        for own in ["UWSGI_", "NOTIFY_SOCKET", "LISTEN_"] {
            let found = environment.lines().find(|line| line.starts_with(own));
            assert_eq!(found, None, "{environment}");
        }
        assert!(environment.contains("OF_THE_OPERATOR=kept"), "{environment}");
    });
}

/// Seen from the inside, with other sessions, a statistics' client and a
/// reload behind it.
#[test]
fn a_program_has_no_descriptor_but_its_terminal() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor)
            .option("forkptyrouter-stats", "{dir}/stats")
            .switch("stats-http")
            .raw();
        let mut others: Vec<Wire> = (0..5).map(|_| server.connect("s")).collect();
        let _silent = server.connect("stats");
        for other in &mut others {
            other.shell("true");
        }
        let mut client = server.connect("s");
        client.assert_only_a_terminal(&flavor.name);
    });
}
