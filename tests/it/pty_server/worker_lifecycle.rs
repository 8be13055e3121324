//! The worker of a shared terminal: killed, reloaded, one of several, idle.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::client::{Mode, Pipes, client};
use crate::harness::process::{self, Process};
use crate::harness::pty_server::{
    describe_descriptors, is_ready, join, request, request_is_seen, shared, start, worker,
};
use crate::harness::{Server, comes_true, on_every_server, wait_until};

const ECHOES: &str = "stty -echo; echo ready $$; exec cat";

/// The new terminal of a worker other than this one.
#[track_caller]
fn next_worker(server: &Server, before: i32) -> i32 {
    wait_until("there is a new worker", || {
        let worker = worker(server);
        worker != before && is_ready(worker)
    });
    worker(server)
}

/// Whether a worker has opened everything that it opens as it starts.
fn in_its_loop(worker: i32) -> bool {
    let listed = describe_descriptors(worker);
    listed.contains("eventpoll") && !listed.contains(".so\n")
}

#[test]
fn a_killed_worker_comes_back_with_a_terminal() {
    on_every_server(|flavor| {
        let server = start(shared(flavor).option("pty-exec", ECHOES).option("processes", "2"));
        let mut first = worker(&server);
        for round in 0..3 {
            let mut client = join(&server);
            client.read_until("ready ");
            let program: i32 = client.read_until("\r\n").trim().parse().unwrap();
            client.send("typed\n");
            client.read_until("typed\r\n");
            wait_until("the worker is in its loop", || in_its_loop(first));
            let before = process::descriptors(first).len();
            let listed = describe_descriptors(first);
            process::signal(first, Signal::SIGKILL);
            client.read_to_end();
            let second = next_worker(&server, first);
            wait_until("the old program is gone", || {
                Process::of(program).is_none_or(|program| program.is_zombie())
            });
            // Each round in the same circumstances: one client is attached.
            let mut client = join(&server);
            client.read_until("ready ");
            client.send("again\n");
            client.read_until("again\r\n");
            wait_until("the new worker is in its loop", || in_its_loop(second));
            let after = process::descriptors(second).len();
            assert_eq!(
                after,
                before,
                "round {round}: before\n{listed}after\n{}",
                describe_descriptors(second)
            );
            drop(client);
            wait_until("it is seen that the client has left", || {
                process::descriptors(second).len() < after
            });
            first = second;
        }
        request(&server, "/");
    });
}

/// The other workers have nothing of it: a client that one of them took would
/// wait for ever.
#[test]
fn only_the_first_worker_has_the_terminal() {
    on_every_server(|flavor| {
        let setup = shared(flavor).option("pty-exec", ECHOES).option("processes", "3");
        let server = start(setup.option("mules", "1"));
        let first = worker(&server);
        let children = || process::children(server.master());
        wait_until("three workers and a mule run", || {
            let ready = children().iter().filter(|child| is_ready(child.pid)).count();
            children().len() == 4 && ready >= 3
        });
        let inode = inode_of(&server.path("p"));
        let holds = |pid: i32| {
            let open = process::descriptors(pid);
            open.iter().any(|(_, to)| to.as_os_str() == format!("socket:[{inode}]").as_str())
        };
        assert!(holds(first), "{}", describe_descriptors(first));
        let others = || {
            let mut others = children();
            others.retain(|child| child.pid != first && holds(child.pid));
            others.iter().map(|child| child.pid).collect::<Vec<_>>()
        };
        comes_true(Duration::from_secs(5), || others().is_empty());
        assert_eq!(others(), [0; 0], "the pids of those who hold it, too");
        for _ in 0..10 {
            join(&server).read_until("ready");
        }
    });
}

/// The number of a listening UNIX socket (proc_net_unix).
fn inode_of(path: &str) -> String {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let line = sockets.lines().find(|line| line.ends_with(path));
    let number = line.and_then(|line| line.split_ascii_whitespace().nth(6));
    number.expect("the socket is listed").to_owned()
}

#[test]
fn clients_that_come_and_go_leave_nothing_open() {
    on_every_server(|flavor| {
        let server = start(shared(flavor).option("pty-exec", ECHOES));
        let worker = worker(&server);
        join(&server).read_until("ready");
        let mut stays = join(&server);
        stays.read_until("ready");
        let open = || process::descriptors(worker).len();
        let mut before = 0;
        wait_until("the first one is let go", || {
            let count = open();
            std::mem::replace(&mut before, count) == count
        });
        for round in 0..20 {
            let mut client = join(&server);
            match round % 4 {
                0 => drop(client),
                1 => {
                    client.read_until("ready");
                }
                2 => client.send("left unread\n"),
                _ => {
                    client.end_of_input();
                    client.read_to_end();
                }
            }
        }
        wait_until(&format!("{before} descriptors, as before"), || open() == before);
        stays.send("alive\n");
        stays.read_until("alive\r\n");
    });
}

#[test]
fn a_reload_brings_a_new_terminal() {
    on_every_server(|flavor| {
        let server = start(shared(flavor).option("pty-exec", ECHOES));
        let master = server.master();
        let mut before = worker(&server);
        let mut client = join(&server);
        client.read_until("ready");
        for _ in 0..2 {
            process::signal(master, Signal::SIGHUP);
            client.read_to_end();
            let after = next_worker(&server, before);
            wait_until("there are new clients", || {
                crate::harness::Wire::try_connect(&server.path("p")).is_ok()
            });
            client = join(&server);
            client.read_until("ready");
            client.send("again\n");
            client.read_until("again\r\n");
            request(&server, "/");
            before = after;
        }
    });
}

#[test]
fn an_idle_worker_costs_no_processor() {
    on_every_server(|flavor| {
        let server = start(shared(flavor).option("pty-exec", ECHOES).switch("pty-log"));
        let mut clients: Vec<_> = (0..5).map(|_| join(&server)).collect();
        for client in &mut clients {
            client.read_until("ready");
            client.read_until("\r\n");
        }
        // One that will send no more, one that has left with output unread.
        clients[1].end_of_input();
        request_is_seen(&server, &mut clients[0]);
        drop(clients.pop());
        let worker = worker(&server);
        // The worker says more of a request than its first line.
        wait_until("nothing more is said", || {
            clients[0].read_for(Duration::from_millis(200)).is_empty()
        });
        let before = Process::of(worker).unwrap().ticks;
        assert!(clients[0].is_silent_for(Duration::from_secs(1)));
        assert_eq!(Process::of(worker).unwrap().ticks, before, "ticks of 10 ms");
    });
}

/// A client that sends no more gets what comes of what it sent, from programs
/// that take their time and of which one reads after the other; nobody's
/// program ends of it.
#[test]
fn a_half_closed_client_gets_the_answers_to_its_input() {
    on_every_server(|flavor| {
        let server = start(shared(flavor).option("pty-exec", "PS1='$ ' exec sh -i"));
        let mut stays = join(&server);
        stays.read_until("$ ");
        stays.send("stty -echo\n");
        stays.read_until("stty -echo\r\n$ ");
        for (input, wanted) in [
            ("sleep 1; echo x\n", "x\r\n"),
            ("sleep 0.5\necho y\n", "y\r\n"),
            ("read line; sleep 0.5; echo \"<$line>\"\nfor the other\n", "<for the other>\r\n"),
        ] {
            let mut pipe = join(&server);
            pipe.send(input);
            pipe.end_of_input();
            let all = pipe.text_to_end();
            assert!(all.ends_with(&format!("{wanted}$ ")), "{all:?}");
        }
        stays.send("echo still here\n");
        stays.read_until("still here\r\n");
        // The product's client, with a pipe on its standard input.
        let mut pipes = Pipes::open(client(flavor, Mode::Raw, &server.path("p")));
        pipes.send("sleep 1; echo by the client\n");
        pipes.stdin = None;
        assert!(pipes.stdout.text_to_end().contains("by the client\r\n"));
    });
}

/// A program that runs, and one that does not read at all, are waited for;
/// a client that leaves is not.
#[test]
fn a_half_closed_client_waits_for_a_silent_program() {
    on_every_server(|flavor| {
        let command = "stty -echo; echo ready; while [ ! -e stop ]; do sleep 0.1; done; echo over";
        let server = start(shared(flavor).option("pty-exec", command));
        let worker = worker(&server);
        let mut silent = join(&server);
        silent.read_until("ready\r\n");
        let before = process::descriptors(worker).len();
        let mut leaving = join(&server);
        leaving.read_until("ready\r\n");
        leaving.end_of_input();
        drop(leaving);
        silent.send("unread\n");
        silent.end_of_input();
        wait_until("the other one is let go", || process::descriptors(worker).len() == before);
        assert!(silent.is_silent_for(Duration::from_secs(1)));
        std::fs::write(server.path("stop"), "").unwrap();
        silent.read_until("over\r\n");
    });
}

/// `printf 'command\n' | client`: the terminal itself has no end, so that of
/// its input is the client's; it gets what waits for it.
#[test]
fn a_half_closed_client_gets_the_end() {
    on_every_server(|flavor| {
        let command = "stty -echo -opost; seq 1 10000; echo ready; exec cat";
        let server = start(shared(flavor).option("pty-exec", command));
        let mut first = join(&server);
        first.read_until("10000\nready\n");
        let mut second = join(&server);
        second.send("its input\n");
        second.end_of_input();
        let all = second.text_to_end();
        assert!(all.contains("10000\nready\n"), "{all:?}");
        first.read_until("its input\n");
    });
}
