//! Audit lines of sessions of killed gateways, and lines that are lost to a full log.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::audit::lines::{audited, lines, of, wait_for};
use crate::connection::extended_mode::open;
use crate::harness::{
    DEADLINE, Server, Wire, comes_true, in_process, on_one_server, process, servers, side_by_side,
    wait_until,
};
use crate::session::slow_start::Lease;

/// Sessions have an end line even where no gateway is left to see their end.
#[test]
fn sessions_of_a_killed_gateway_have_an_end_line() {
    on_one_server(|flavor| {
        side_by_side(["killed", "stopped", "reloaded"], |how| {
            let mut server = audited(flavor).raw();
            let mut clients: Vec<_> = (0..5).map(|_| server.connect("s")).collect();
            for client in &mut clients {
                client.shell("true");
            }
            let mut over = server.connect("s");
            over.send("exit 1\n");
            over.read_to_end();
            wait_for(&server, "session-end", 1);
            match how {
                "stopped" => drop(server.stop()),
                "reloaded" => process::signal(server.master(), Signal::SIGHUP),
                _ => process::signal(server.gateway(), Signal::SIGKILL),
            }
            let lines = wait_for(&server, "session-end", 6);
            let mut ids: Vec<_> = of(&lines, "session-end").iter().map(|end| &end["id"]).collect();
            let mut started: Vec<_> =
                of(&lines, "session-start").iter().map(|start| &start["id"]).collect();
            ids.sort_by_key(|id| id.to_string());
            started.sort_by_key(|id| id.to_string());
            assert_eq!(ids, started);
            for end in &of(&lines, "session-end")[1..] {
                assert_eq!((&end["reason"], &end["status"]), (&json!("lost"), &Value::Null));
                let took = end["duration"].as_f64().unwrap();
                assert!((0.0..15.0).contains(&took), "{end}");
                let time = end["time"].as_str().unwrap();
                assert!(time >= lines[0]["time"].as_str().unwrap(), "{end}");
            }
        });
    });
}

/// Whether the supervisor has a session, beside its own master.
fn is_kept(server: &Server) -> bool {
    let pidfds = |pid| {
        let open = process::descriptors(pid);
        open.iter().filter(|(_, path)| path.ends_with("anon_inode:[pidfd]")).count()
    };
    server.processes().iter().any(|one| one.name == "fpty-supervisor" && pidfds(one.pid) > 1)
}

/// The real client, its gateway gone: somebody else sees the end.
#[test]
fn a_session_that_outlives_its_gateway_has_its_own_end_line() {
    in_process(|flavor| {
        side_by_side(
            [("exit 6", "exit", json!(6)), ("", "hangup", Value::Null)],
            |(end, reason, status)| {
                let server = audited(flavor).uwsgi();
                let mut client = Command::new(servers::fpty())
                    .arg(server.path("u"))
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                wait_until("the session is kept", || is_kept(&server));
                let gateway = server.gateway();
                process::signal(gateway, Signal::SIGKILL);
                server.wait_for_log("respawned uWSGI forkptyrouter 1");
                assert_eq!(server.count_in_log("session-end"), 0);
                if end.is_empty() {
                    process::signal(client.id() as i32, Signal::SIGKILL);
                } else {
                    let mut input = client.stdin.take().unwrap();
                    std::io::Write::write_all(&mut input, format!("{end}\n").as_bytes()).unwrap();
                }
                client.wait().unwrap();
                let lines = wait_for(&server, "session-end", 1);
                let (start, end) = (&lines[0], of(&lines, "session-end")[0]);
                assert_eq!(start["id"], end["id"]);
                assert_eq!((&end["reason"], &end["status"]), (&json!(reason), &status), "{end}");
            },
        );
    });
}

/// The supervisor has a session before its program is executed, and before the start is told.
#[test]
fn no_session_of_a_killed_gateway_ends_without_a_start() {
    in_process(|flavor| {
        side_by_side(["ended", "restored"], |how| {
            let server = audited(flavor)
                .script("read line; exit 3")
                .option("forkpty-urouter", "{dir}/u")
                .option("forkptyrouter-detach", "9")
                .start();
            let lease = Lease::take(&server.path("script"));
            let client = server.connect("u");
            open(&client, &[("fpty.detach", "1")]);
            wait_until("its process is there", || server.programs().len() == 1);
            wait_until("the session is kept", || is_kept(&server));
            assert_eq!(server.count_in_log("session-start"), 0);
            let program = server.programs()[0].pid;
            if how == "restored" {
                process::signal(server.gateway(), Signal::SIGKILL);
                server.wait_for_log("respawned uWSGI forkptyrouter 1");
                wait_for(&server, "session-start", 1);
                process::signal(program, Signal::SIGKILL);
            } else {
                // The next gateway finds that it is over.
                process::signal(server.master(), Signal::SIGSTOP);
                process::signal(server.gateway(), Signal::SIGKILL);
                process::signal(program, Signal::SIGKILL);
                wait_for(&server, "session-end", 1);
                process::signal(server.master(), Signal::SIGCONT);
                server.wait_for_log("respawned uWSGI forkptyrouter 1");
            }
            lease.give_up();
            let lines = wait_for(&server, "session-end", 1);
            let events: Vec<_> = lines.iter().map(|line| &line["event"]).collect();
            assert_eq!(events.first(), Some(&&json!("session-start")), "{how}: {events:?}");
            assert_eq!(of(&lines, "session-start").len(), 1, "{how}: {events:?}");
            assert_eq!(lines[0]["id"], of(&lines, "session-end")[0]["id"]);
        });
    });
}

/// Sessions go on, what waits is bounded, and what was lost is told.
#[test]
fn lines_lost_to_a_full_log_are_counted() {
    on_one_server(|flavor| {
        const SESSIONS: usize = 2400;
        let setup = audited(flavor).script("exit 0").option("forkpty-router", "{dir}/s");
        let fifo = setup.path("fifo");
        nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut log = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&fifo)
            .unwrap();
        let server = setup.option("logto", "{dir}/fifo").launch();
        let mut sessions = SESSIONS;
        wait_until("it serves", || {
            let client = Wire::try_connect(&server.path("s"));
            client.is_ok_and(|mut client| client.read_to_end().is_empty())
        });
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..SESSIONS / 2 {
                        server.connect("s").read_to_end();
                    }
                });
            }
        });
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        assert!(process::private_memory(gateway_of(&server)).unwrap() < 16 * 1024);
        // Now somebody reads, and the next session's lines tell how many are
        // missing.
        let mut text = Vec::new();
        let (mut there, mut told) = (0, 0);
        let is_complete = comes_true(DEADLINE, || {
            server.connect("s").read_to_end();
            sessions += 1;
            // A pipe has room for a hundred lines, and to take all apart costs time.
            let mut last = Instant::now();
            comes_true(DEADLINE, || {
                let before = text.len();
                let _ = log.read_to_end(&mut text);
                if text.len() > before {
                    last = Instant::now();
                }
                last.elapsed() > Duration::from_millis(300)
            });
            let lines = lines(&String::from_utf8_lossy(&text));
            there = lines.len();
            told = lines.iter().filter_map(|line| line["lost"].as_u64()).sum::<u64>() as usize;
            // The first one of all came before they were counted.
            there + told == 2 * (sessions + 1)
        });
        assert!(is_complete, "{there} lines and {told} lost of {sessions} sessions and one");
        assert!(told > 0, "nothing was lost: the log is too large for this case");
    });
}

/// The gateway of a server whose log cannot be looked into.
fn gateway_of(server: &Server) -> i32 {
    let children = process::children(server.master());
    children.first().expect("a gateway").pid
}
