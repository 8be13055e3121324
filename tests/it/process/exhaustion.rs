//! When something has run out: one clear line to the client and to the log, no spinning,
//! nobody else harmed, and it goes on by itself.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::cost::{ECHO, RUN, echoes, load, running};
use crate::harness::process;
use crate::harness::{Server, Setup, Wire, in_process, on_one_server, wait_until};

/// Connects until a session is refused; returns those that live, and what
/// the other one was told.
#[track_caller]
fn fill(server: &Server, most: usize) -> (Vec<Wire>, String) {
    let mut living = Vec::new();
    loop {
        let mut client = server.connect("s");
        let seen = client.read_while("ready or a refusal", |seen| seen.ends_with(b"\n")).to_vec();
        if seen != b"ready\n" {
            client.read_to_end();
            return (living, String::from_utf8_lossy(&seen).into_owned());
        }
        client.read_until("ready\n");
        living.push(client);
        assert!(living.len() <= most, "{most} sessions, and nothing has run out");
    }
}

/// A client of the statistics that waits where there is no descriptor left
/// for it must not keep the gateway busy.
#[test]
fn without_descriptors_statistics_clients_wait_at_rest() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script(ECHO)
            .option("max-fd", "40")
            .option("forkptyrouter-stats", "{dir}/stats")
            .switch("stats-http")
            .raw();
        let (mut living, told) = fill(&server, 40);
        assert!(told.contains("refused"), "{told:?}");
        // These hold a descriptor each, until they have been silent too long.
        let silent: Vec<Wire> = (0..8).map(|_| server.connect("stats")).collect();
        std::thread::sleep(Duration::from_millis(300));
        let used = load(server.gateway(), Duration::from_secs(1));
        assert!(used < 0.1, "{used} of a processor");
        echoes(&mut living[0], 10);
        drop((silent, living.split_off(2)));
        wait_until("the statistics are told again", || {
            let mut client = server.connect("stats");
            client.send("GET / HTTP/1.0\r\n\r\n");
            client.text_to_end().contains("active_sessions")
        });
    });
}

/// A storm of clients that all have to be refused.
#[test]
fn a_storm_of_refusals_is_logged_in_a_few_lines() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(ECHO).option("max-fd", "40").raw();
        let (mut living, _) = fill(&server, 40);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let told = server.connect("s").text_to_end();
                        assert!(told.contains("refused") && told.lines().count() == 1, "{told:?}");
                    }
                });
            }
            echoes(&mut living[0], 50);
        });
        let lines = server.count_in_log("session refused");
        assert!(lines < 150, "{lines} lines for 200 refusals");
        for client in &mut living {
            echoes(client, 1);
        }
    });
}

/// In a mount namespace of its own, with room for four terminals.
#[test]
fn without_terminals_a_client_is_told_and_others_live() {
    const MOUNT: &str = "mount -t devpts -o newinstance,ptmxmode=666,max=4 devpts /dev/pts \
                         && mount --bind /dev/pts/ptmx /dev/ptmx";
    let works = Command::new("unshare")
        .args(["-m", "sh", "-c", MOUNT])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        return eprintln!("skipped: needs a mount namespace with a devpts of its own");
    }
    on_one_server(|flavor| {
        let script =
            format!("#!/bin/sh\n{MOUNT} || exit 1\nexec {} \"$@\"\n", flavor.binary.display());
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let wrapper = folder.path().join("server");
        std::fs::write(&wrapper, script).unwrap();
        let server = Setup::bare(&flavor.name, Path::new("/usr/bin/unshare"))
            .argument("-m")
            .argument("sh")
            .argument(&wrapper.display().to_string())
            .plugin(&flavor.plugins, "forkptyrouter")
            .script(ECHO)
            .raw();
        let (mut living, told) = fill(&server, 4);
        assert_eq!(living.len(), 4, "{told:?}");
        assert!(told.contains("refused") && told.contains("terminal"), "{told:?}");
        server.wait_for_log("session refused: cannot open a terminal");
        for client in &mut living {
            echoes(client, 3);
        }
        living.pop();
        wait_until("there is a terminal again", || {
            let mut client = server.connect("s");
            client.read_while("a line", |seen| seen.ends_with(b"\n")) == b"ready\n"
        });
    });
}

/// A program that does not read costs the gateway memory for what its client
/// sends; the address space ends. Whom there is no memory for is told; the
/// others live on, and so does the gateway.
#[test]
fn without_memory_the_gateway_lives() {
    on_one_server(|flavor| {
        // What the gateway takes by itself, and a few MiB more.
        let free = Setup::new(flavor).script(RUN).raw();
        let size = process::status(free.gateway(), "VmSize").unwrap();
        let limit = size.split(' ').next().unwrap().parse::<u32>().unwrap() / 1024 + 8;
        drop(free);
        let limit = limit.to_string();
        let server = Setup::new(flavor).script(RUN).option("limit-as", &limit).raw();
        let gateway = server.gateway();
        let mut other = running(&server, "s", "exec cat");
        echoes(&mut other, 5);
        let flood = vec![b'x'; 1_000_000];
        let mut greedy = Vec::new();
        wait_until("the memory is used up", || {
            let client = server.connect("s");
            client.send("exec sleep 1000\n");
            client.flood(&flood, Duration::from_millis(20));
            greedy.push(client);
            assert!(greedy.len() < 500, "{} sessions, and nothing has run out", greedy.len());
            server.log().contains("out of memory") || server.gateway() != gateway
        });
        assert_eq!(server.gateway(), gateway, "the same gateway");
        let took = echoes(&mut other, 20);
        assert!(took[18] < Duration::from_secs(1), "{took:?}");
        drop(greedy);
        wait_until("there are sessions again", || {
            server.connect("s").read_for(Duration::from_secs(3)).starts_with(b"ready")
        });
        assert_eq!(server.gateway(), gateway, "the same gateway");
    });
}
