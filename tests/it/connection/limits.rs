//! Session limits, over several gateways and over killed ones.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::connection::extended_mode::open;
use crate::harness::{
    Server, Setup, Wire, in_process, on_one_server, process, side_by_side, wait_until,
};

const MOST: usize = 6;

/// Opens one more session; `None`: it was refused for want of a permit.
#[track_caller]
fn one_more(server: &Server) -> Option<Wire> {
    let mut client = server.connect("u");
    open(&client, &[]);
    let seen = client.read_while("a prompt, or a word why not", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        text.contains("$ ") || text.contains("sessions as")
    });
    (!String::from_utf8_lossy(seen).contains("sessions as")).then_some(client)
}

/// Takes what there is; no more than there is to be.
#[track_caller]
fn fill(server: &Server, clients: &mut Vec<Wire>) {
    wait_until("all seats can be taken", || {
        clients.extend(one_more(server));
        clients.len() == MOST
    });
    assert!(one_more(server).is_none());
}

fn gateways(server: &Server) -> Vec<i32> {
    let master = server.master();
    let all = process::children(master).into_iter();
    all.filter(|one| one.name == "uwsgi").map(|one| one.pid).collect()
}

/// Whether nothing has ended it: what there is to read is read.
fn lives(client: &Wire) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match nix::unistd::read(client.fd(), &mut bytes) {
            Ok(1..) => {}
            other => return other == Err(nix::errno::Errno::EAGAIN),
        }
    }
}

/// Permits of a gateway that was killed are free, and no others.
#[test]
fn session_limits_are_exact_over_killed_gateways() {
    on_one_server(|flavor| {
        side_by_side(["max", "max_user"], |rule| {
            let value = format!("addr={{dir}}/u,{rule}={MOST}");
            let server = Setup::new(flavor)
                .option("forkptyrouter-processes", "3")
                .option("forkpty-urouter2", &value)
                .start();
            wait_until("all serve", || server.count_in_log("sessions at once") == 3);
            let mut clients = Vec::new();
            for round in 1..=3 {
                fill(&server, &mut clients);
                let killed = gateways(&server)[round % 3];
                process::signal(killed, Signal::SIGKILL);
                let serve = 3 + round;
                wait_until("there is another", || server.count_in_log("sessions at once") == serve);
                // The kernel has closed those that it had.
                clients.retain(lives);
            }
            fill(&server, &mut clients);
            clients.clear();
            fill(&server, &mut clients);
        });
    });
}

/// A client that is told to begin anew does so at once, at whichever gateway.
#[test]
fn a_late_hello_has_no_seat_when_it_is_refused() {
    in_process(|flavor| {
        side_by_side(["max", "max_user"], |rule| {
            let server = Setup::new(flavor)
                .script("echo '$ '; exec cat")
                .option("forkptyrouter-processes", "3")
                .option("forkpty-urouter2", &format!("addr={{dir}}/u,{rule}=1"))
                .start();
            wait_until("all serve", || server.count_in_log("sessions at once") == 3);
            for _ in 0..40 {
                let mut silent = None;
                wait_until("the session before is over", || {
                    let mut client = server.connect("u");
                    client
                        .read_while("a prompt, or a word why not", |bytes| bytes.contains(&b'\n'));
                    silent = client.seen().starts_with(b"$ ").then_some(client);
                    silent.is_some()
                });
                let mut silent = silent.expect("a session");
                open(&silent, &[]);
                silent.read_until("the request came too late");
                assert!(one_more(&server).is_some(), "its seat is still taken");
                // Nobody waits longer for the next one because of that.
                server.advance(Duration::from_secs(11));
            }
        });
    });
}
