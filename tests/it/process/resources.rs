//! Resources that sessions use, and what happens when nothing is left of them: processes,
//! descriptors, memory, processor time.

use std::time::Duration;

use crate::harness::process::{self, Process};
use crate::harness::{Server, Setup, Wire, in_process, on_one_server, wait_until};

/// Runs sessions to their ends, 8 at a time.
fn churn(server: &Server, rounds: usize) {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    server.connect("s").read_to_end();
                }
            });
        }
    });
}

#[test]
fn no_zombies_remain() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script("echo x").raw();
        churn(&server, 10);
        let gateway = server.gateway();
        wait_until("the gateway has no child", || process::children(gateway).is_empty());
    });
}

#[test]
fn a_thousand_sessions_leave_nothing_open() {
    in_process(|flavor| {
        let server = Setup::new(flavor).option("forkptyrouter-command", "/bin/true").raw();
        let gateway = server.gateway();
        let open = || process::descriptors(gateway);
        let count = |beginning: &str| {
            let is_one = |to: &std::path::PathBuf| to.to_string_lossy().starts_with(beginning);
            open().iter().filter(|(_, to)| is_one(to)).count()
        };
        server.wait_for_log("sessions at once");
        let sockets = count("socket:");
        churn(&server, 5);
        wait_until("the first sessions are over", || process::children(gateway).is_empty());
        // The last connection closes a moment after its program was reaped.
        wait_until("no terminal and no client is open", || {
            count("/dev/pt") == 0 && count("socket:") == sockets
        });
        let (before, memory) = (open().len(), process::private_memory(gateway).unwrap());
        churn(&server, 125);
        wait_until("as many descriptors are open as before", || open().len() == before);
        let grown = process::private_memory(gateway).unwrap().saturating_sub(memory);
        assert!(grown < 1024, "the gateway grew by {grown} KiB");
        assert_eq!(server.gateway(), gateway, "the same gateway");
    });
}

/// Sessions leave without a word while others come.
#[test]
fn clients_that_leave_at_once_leave_nothing_open() {
    in_process(|flavor| {
        let server = Setup::new(flavor).raw();
        let gateway = server.gateway();
        let before = server.idle_descriptors();
        for _ in 0..200 {
            drop(server.connect("s"));
        }
        wait_until("all are over", || {
            process::children(gateway).is_empty() && process::descriptors(gateway).len() == before
        });
        assert_eq!(server.connect("s").shell("echo alive"), "alive\r\n");
    });
}

/// Where a hello may come, nothing is started for who has left before it could.
#[test]
fn clients_that_leave_before_a_byte_start_nothing() {
    in_process(|flavor| {
        let server = Setup::new(flavor).option("forkptyrouter-audit", "json").uwsgi();
        for _ in 0..20 {
            drop(server.connect("u"));
        }
        let mut client = server.connect("u");
        client.send(crate::harness::wire::input("exit 7\n"));
        client.read_to_end();
        wait_until("a session has ended", || server.count_in_log("\"session-end\"") > 0);
        assert_eq!(server.count_in_log("\"session-start\""), 1, "{}", server.log());
    });
}

#[test]
fn out_of_descriptors_a_client_is_told_and_others_live() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script("stty -echo; echo ready; exec cat")
            .option("max-fd", "40")
            .raw();
        let gateway = server.gateway();
        let mut living = Vec::new();
        let told = loop {
            let mut client = server.connect("s");
            let seen =
                client.read_while("a prompt or a refusal", |seen| seen.ends_with(b"\r\n")).to_vec();
            let line = String::from_utf8_lossy(&seen).into_owned();
            if line != "ready\r\n" {
                client.read_to_end();
                break line;
            }
            living.push(client);
            assert!(living.len() < 40, "40 descriptors are not enough for so many sessions");
        };
        assert!(told.contains("refused") && told.contains("open files"), "{told:?}");
        assert!(living.len() > 3, "only {} sessions", living.len());
        server.wait_for_log("refused");
        for client in &mut living {
            client.read_until("ready\r\n");
            client.send("unharmed\n");
            client.read_until("unharmed\r\n");
        }
        // It waits with the next ones, and does not spin meanwhile.
        let ticks = Process::of(gateway).unwrap().ticks;
        assert!(living[0].is_silent_for(Duration::from_millis(500)));
        let spent = Process::of(gateway).unwrap().ticks - ticks;
        assert!(spent < 10, "{spent} ticks in half a second");

        living.truncate(2);
        wait_until("the others are over", || process::children(gateway).len() == 2);
        wait_until("there are sessions again", || {
            let mut client = server.connect("s");
            let seen = client.read_while("a line", |seen| seen.ends_with(b"\r\n"));
            seen == b"ready\r\n"
        });
        assert_eq!(server.gateway(), gateway, "the same gateway");
    });
}

/// As somebody else than root, whom the limit does not bind; nobody else has
/// this number.
#[test]
fn out_of_processes_a_client_is_told_and_others_live() {
    if !nix::unistd::getuid().is_root() {
        return eprintln!("skipped: needs root, to become somebody else");
    }
    on_one_server(|flavor| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let _server = Setup::new(flavor)
            .inherit(listener)
            .option("uid", "54321")
            .option("limit-nproc", "8")
            .option("forkptyrouter-command", "/bin/cat")
            .option("forkpty-router", "fd://900")
            .start();
        let mut living = Vec::new();
        let told = loop {
            let mut client = Wire::connect(&address);
            client.send("x\n");
            let seen = client.read_while("an echo or a refusal", |seen| seen.ends_with(b"\r\n"));
            let line = String::from_utf8_lossy(seen).into_owned();
            if !line.starts_with("x\r\n") {
                break line;
            }
            living.push(client);
            assert!(living.len() < 10, "8 processes are not enough for so many sessions");
        };
        assert!(told.contains("refused") && told.contains("process"), "{told:?}");
        for client in &mut living {
            client.send("unharmed\n");
            // The terminal's echo and the program's, whose "x" may still come
            // between them.
            client.read_while("two echoes", |seen| {
                String::from_utf8_lossy(seen).matches("unharmed\r\n").count() == 2
            });
        }
        drop(living);
        wait_until("there are sessions again", || {
            let mut client = Wire::connect(&address);
            client.send("x\n");
            client.read_while("a line", |seen| seen.ends_with(b"\r\n")).starts_with(b"x\r\n")
        });
    });
}

#[test]
fn idle_sessions_cost_no_processor() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script("stty -echo; echo ready; exec cat")
            .option("forkpty-router", "{dir}/s")
            .option("forkptyrouter-stats", "{dir}/stats")
            .start();
        let mut clients: Vec<_> = (0..50).map(|_| server.connect("s")).collect();
        for client in &mut clients {
            client.read_until("ready\r\n");
        }
        let gateway = server.gateway();
        let before = Process::of(gateway).unwrap().ticks;
        assert!(clients[0].is_silent_for(Duration::from_secs(1)), "nothing happens");
        assert_eq!(Process::of(gateway).unwrap().ticks, before, "ticks of 10 ms");
        let memory = process::private_memory(gateway).unwrap();
        assert!(memory < 16 * 1024, "{memory} KiB");
    });
}

/// Ends that wait for each other must not make the loop spin.
#[test]
fn half_ended_sessions_cost_no_processor() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script("trap '' HUP; echo ready; sleep 1000").raw();
        let mut half: Vec<_> = (0..20).map(|_| server.connect("s")).collect();
        for client in &mut half {
            client.read_until("ready\r\n");
            client.end_of_input();
        }
        // Their first looks at the end of input come quickly.
        assert!(half[0].is_silent_for(Duration::from_millis(500)));
        let gateway = server.gateway();
        let before = Process::of(gateway).unwrap().ticks;
        assert!(half[0].is_silent_for(Duration::from_secs(1)));
        let spent = Process::of(gateway).unwrap().ticks - before;
        assert!(spent <= 5, "{spent} ticks in a second");
    });
}
