//! A shared terminal that has no worker, now or ever: clients are refused at once.

use std::io::Write;

use crate::harness::process::{self, Process};
use crate::harness::pty_server::{join, request, request_is_seen, shared, start, worker};
use crate::harness::{Server, Setup, Wire, on_every_server, wait_until};

/// Output of a client that is refused.
#[track_caller]
fn refused(server: &Server) -> String {
    let mut client = join(server);
    // The client may have typed already.
    let _ = nix::unistd::write(client.fd(), b"typed\n");
    let said = client.text_to_end();
    assert!(said.starts_with("pty: refused: "), "{said:?}");
    said
}

#[test]
fn clients_are_refused_without_workers() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor)
            .option("plugin", "pty")
            .option("forkpty-router", "{dir}/s")
            .option("pty-socket", "{dir}/p")
            .option("pty-readonly-socket", "{dir}/watch")
            .killed_at_end()
            .start();
        server.wait_for_log("pty: there are no workers");
        for _ in 0..3 {
            assert!(refused(&server).contains("no workers"));
        }
        let mut watcher = server.connect("watch");
        watcher.read_until("pty: refused: there are no workers");
        assert_eq!(server.connect("s").shell("echo $((6 * 7))"), "42\r\n", "the gateway");
    });
}

#[test]
fn clients_are_refused_before_a_cheap_worker_starts() {
    on_every_server(|flavor| {
        let server =
            shared(flavor).switch("cheap").option("pty-exec", "echo ready; exec cat").launch();
        server.wait_for_log("pty: the first worker does not run");
        refused(&server);
        refused(&server);
        request(&server, "/");
        server.wait_for_log("pty server ");
        let mut client = join(&server);
        client.read_until("ready\r\n");
        request_is_seen(&server, &mut client);
    });
}

#[test]
fn clients_are_refused_after_idle_stopped_the_worker() {
    on_every_server(|flavor| {
        let server = start(shared(flavor).option("idle", "2").option("pty-exec", "cat"));
        server.wait_for_log("pty: idle may stop the first worker");
        let mut client = join(&server);
        request_is_seen(&server, &mut client);
        client.read_to_end();
        server.wait_for_log("pty: the first worker does not run");
        refused(&server);
        request(&server, "/");
        let mut client = join_when_there(&server);
        client.send("again\n");
        client.read_until("again\r\n");
    });
}

/// A client at the terminal, as soon as there is one.
#[track_caller]
fn join_when_there(server: &Server) -> Wire {
    worker(server);
    join(server)
}

/// One of two workers is let go, the first.
#[test]
fn clients_are_refused_while_cheaper_stopped_the_worker() {
    on_every_server(|flavor| {
        let setup = shared(flavor).option("processes", "2").option("cheaper", "1");
        let setup = setup.option("cheaper-algo", "manual").option("master-fifo", "{dir}/fifo");
        let server = start(setup.option("pty-exec", "echo ready; exec cat"));
        server.wait_for_log("pty: cheaper may stop the first worker");
        let mut client = join(&server);
        client.read_until("ready\r\n");
        let order = |what: &[u8]| {
            let fifo = std::fs::OpenOptions::new().write(true).open(server.path("fifo"));
            fifo.unwrap().write_all(what).unwrap();
        };
        let workers = || {
            let mut children = process::children(server.master());
            children.retain(|child: &Process| !child.is_zombie());
            children.len()
        };
        order(b"+");
        wait_until("there are two workers", || workers() == 2);
        order(b"-");
        server.wait_for_log("pty: the first worker does not run");
        client.read_to_end();
        wait_until("there is one worker", || workers() == 1);
        refused(&server);
        request(&server, "/");
        order(b"+");
        let mut client = join_when_there(&server);
        client.read_until("ready\r\n");
    });
}
