//! The shared terminal (`--pty-socket`): everybody sees the same, anybody may
//! type; the log, the original input, a program.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::harness::client::{Mode, Pipes, client};
use crate::harness::process::{self, Process};
use crate::harness::pty_server::{
    REQUEST_SEEN, REQUEST_SEEN_BY_PYTHON, is_ready, join, request, request_is_seen, shared, start,
    worker,
};
use crate::harness::{Wire, on_every_server, wait_until};

#[test]
fn all_clients_see_the_same_and_any_may_type() {
    on_every_server(|flavor| {
        let server = start(shared(flavor).option("pty-exec", "stty -echo; echo ready; exec cat"));
        let mut clients: Vec<Wire> = (0..3).map(|_| join(&server)).collect();
        let mut product = Pipes::open(client(flavor, Mode::Raw, &server.path("p")));
        product.stdout.read_until("ready\r\n");
        for client in &mut clients {
            client.read_until("ready\r\n");
        }
        for sender in 0..4 {
            let line = format!("from {sender}");
            match clients.get(sender) {
                Some(client) => client.send(format!("{line}\n")),
                None => product.send(format!("{line}\n")),
            }
            for client in clients.iter_mut().chain([&mut product.stdout]) {
                assert_eq!(client.read_until("\r\n"), format!("{line}\r\n"));
            }
        }
        // One that leaves takes nobody along.
        drop(clients.pop());
        product.stdin = None;
        clients[0].send("still here\n");
        assert_eq!(clients[1].read_until("\r\n"), "still here\r\n");
        request(&server, "/");
    });
}

/// Output of the worker itself is shown, its request log for one.
#[test]
fn the_workers_own_output_is_seen() {
    on_every_server(|flavor| {
        let server = start(shared(flavor));
        let mut client = join(&server);
        for _ in 0..3 {
            request_is_seen(&server, &mut client);
        }
        for line in [REQUEST_SEEN, REQUEST_SEEN_BY_PYTHON] {
            assert!(!server.log().contains(line), "not without pty-log");
        }
    });
}

#[test]
fn serves_at_a_tcp_address() {
    on_every_server(|flavor| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        // The option that stands last is the address.
        let setup = shared(flavor).option("pty-socket", &address);
        let _server = start(setup.option("pty-exec", "stty -echo; echo ready; exec cat"));
        let mut clients = [Wire::connect(&address), Wire::connect(&address)];
        for client in &mut clients {
            client.read_until("ready\r\n");
        }
        clients[0].send("over tcp\n");
        assert_eq!(clients[1].read_until("\r\n"), "over tcp\r\n");
    });
}

#[test]
fn pty_log_copies_output_to_the_log() {
    on_every_server(|flavor| {
        for with_log in [true, false] {
            let setup = shared(flavor).option("pty-exec", "stty -echo; echo to-all; exec cat");
            let server = start(if with_log { setup.switch("pty-log") } else { setup });
            let mut client = join(&server);
            client.read_until("to-all\r\n");
            client.send("ty''ped\n");
            client.read_until("ty''ped\r\n");
            if with_log {
                server.wait_for_log("to-all");
                server.wait_for_log("ty''ped");
            } else {
                // The worker's own log lines come by the same way, if at all.
                let log = server.log();
                let own = log.lines().filter(|line| !line.contains("pty-exec"));
                assert!(!own.clone().any(|line| line.contains("ty''ped")), "{log}");
            }
        }
    });
}

/// A lot of it: neither lost in part nor in anybody's way.
#[test]
fn pty_log_copies_much_output_whole() {
    on_every_server(|flavor| {
        let command = "stty -echo -opost; read x; seq 1 20000; echo end";
        let setup = shared(flavor).option("pty-exec", command).switch("pty-log");
        let server = start(setup);
        let mut client = join(&server);
        wait_until("the program waits", || programs(worker(&server)) > 0);
        client.send("\n");
        client.read_until("20000\nend\n");
        server.wait_for_log("20000\nend\n");
        let log = server.log();
        let copied: Vec<u32> = log.lines().filter_map(|line| line.parse().ok()).collect();
        assert_eq!(copied, (1..=20_000).collect::<Vec<u32>>());
    });
}

/// Where the master logs for all, what a worker says comes in packets, of
/// which it reads a part: nothing is missing, and lines are whole.
#[test]
fn pty_log_copies_whole_lines_to_log_master() {
    const LONG: usize = 20_000;
    let command = format!(
        "stty -echo -opost; read x; seq 1 9999; head -c {LONG} /dev/zero | tr '\\0' y; echo; echo end"
    );
    on_every_server(|flavor| {
        for options in [
            &["log-master"][..],
            &["log-master", "log-master-bufsize=600"],
            &["threaded-logger"],
            &["touch-logreopen={dir}/touch"],
            &["log-master", "log-encoder=prefix [p] "],
            &["logger=file:{dir}/log"],
        ] {
            if flavor.is_debian() && options[0].starts_with("logger") {
                continue;
            }
            let mut setup = shared(flavor).option("pty-exec", &command).switch("pty-log");
            for option in options {
                setup = match option.split_once('=') {
                    Some((name, value)) => setup.option(name, value),
                    None => setup.switch(option),
                };
            }
            let server = start(setup);
            let mut client = join(&server);
            wait_until("the program waits", || programs(worker(&server)) > 0);
            client.send("\n");
            client.read_until("\nend\n");
            wait_until("the log has the end", || server.count_in_log("end") > 0);
            let log = server.log().replace("[p] ", "");
            let copied: Vec<u32> = log.lines().filter_map(|line| line.parse().ok()).collect();
            assert_eq!(copied, (1..=9999).collect::<Vec<u32>>(), "{options:?}");
            let long = log.bytes().filter(|byte| *byte == b'y').count();
            // Some stand in other lines.
            assert!((LONG..LONG + 1000).contains(&long), "{options:?}: {long} of {LONG}");
        }
    });
}

#[test]
fn pty_input_reads_the_original_input() {
    on_every_server(|flavor| {
        let (reading, writing) = std::io::pipe().unwrap();
        let writing: OwnedFd = writing.into();
        let server = start(
            shared(flavor)
                .option("pty-exec", "stty -echo; echo ready; exec cat")
                .switch("pty-input")
                .switch("honour-stdin")
                .stdin(reading),
        );
        let mut client = join(&server);
        client.read_until("ready\r\n");
        let original = Wire::over(writing, "the original input");
        original.send("from the original\n");
        assert_eq!(client.read_until("\r\n"), "from the original\r\n");
        client.send("from a client\n");
        assert_eq!(client.read_until("\r\n"), "from a client\r\n");
        // Its end: the terminal goes on, at rest.
        drop(original);
        client.send("after the end\n");
        assert_eq!(client.read_until("\r\n"), "after the end\r\n");
        let worker = worker(&server);
        let before = Process::of(worker).unwrap().ticks;
        assert!(client.is_silent_for(Duration::from_secs(1)));
        assert_eq!(Process::of(worker).unwrap().ticks, before, "ticks of 10 ms");
        request(&server, "/");
    });
}

fn programs(worker: i32) -> usize {
    crate::harness::process::children(worker).len()
}

#[test]
fn pty_exec_runs_a_program_on_the_terminal() {
    on_every_server(|flavor| {
        let command = "tty; stty size; echo \"TERM is <$TERM>\"; ls -l /proc/self/fd/ | wc -l";
        let server = start(shared(flavor).option("pty-exec", command));
        let mut client = join(&server);
        // /dev/pts/N, as the log names it.
        let tty = client.read_until("\r\n");
        assert!(tty.starts_with("/dev/pts/"), "{tty:?}");
        server.wait_for_log(&format!("enabled on {}", tty.trim_end()));
        assert_eq!(client.read_until("\r\n"), "24 80\r\n");
        assert_eq!(client.read_until("\r\n"), "TERM is <xterm>\r\n");
        // "total", 0, 1, 2 and the folder; ls pipes to wc.
        assert_eq!(client.read_until("\r\n"), "5\r\n");
        // It is waited for, and the terminal outlives it.
        let worker = worker(&server);
        wait_until("the program was reaped", || programs(worker) == 0);
        request_is_seen(&server, &mut client);
    });
}

/// The keys that are signals reach the program of pty-exec, as a terminal's
/// foreground job, and never end the worker.
#[test]
fn signal_keys_reach_the_program_and_not_the_worker() {
    on_every_server(|flavor| {
        let command = "stty -echo; trap 'echo INT' INT; trap 'echo QUIT' QUIT; echo ready; \
                       until [ \"$line\" = end ]; do read line && echo \"got $line\"; done; \
                       trap - INT; echo over; sleep 1000";
        let server = start(shared(flavor).option("pty-exec", command));
        let pid = worker(&server);
        let mut client = join(&server);
        client.read_until("ready\r\n");
        for (key, name) in [("\x03", "INT"), ("\x1c", "QUIT")] {
            client.send(key);
            client.read_until(&format!("{name}\r\n"));
            client.send("line\n");
            client.read_until("got line\r\n");
        }
        // The program ends by one; the worker does not, and has no use for
        // the next.
        client.send("end\n");
        client.read_until("over\r\n");
        wait_until("the program is gone", || {
            client.send("\x03");
            programs(pid) == 0
        });
        client.send("\x03\x1c\x1a");
        request_is_seen(&server, &mut client);
        assert_eq!(worker(&server), pid);
    });
}

/// The server stops, whoever is attached and whatever runs.
#[test]
fn a_stop_leaves_nobody_behind() {
    on_every_server(|flavor| {
        // A program of its own, and one that is a shell's child.
        for command in ["sleep 1000", "echo ready; sleep 1000; echo"] {
            let mut server = start(shared(flavor).option("pty-exec", command));
            wait_until("the program runs", || {
                server.processes().iter().any(|process| process.name == "sleep")
            });
            let pid = worker(&server);
            wait_until("the worker is ready", || is_ready(pid));
            let descriptors = || process::descriptors(pid).len();
            let before = descriptors();
            let mut client = join(&server);
            // Whom nobody has accepted is reset when the server stops.
            wait_until("the client is accepted", || descriptors() > before);
            let status = server.stop();
            assert!(status.success(), "{status}");
            client.read_to_end();
            wait_until("no process of the server is left", || server.processes().is_empty());
        }
    });
}
