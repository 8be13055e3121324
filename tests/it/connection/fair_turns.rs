//! A flood of packets is read a part at a time, in order, beside the other clients.

use std::time::{Duration, Instant};

use crate::harness::cost::{RUN, echoes, running};
use crate::harness::wire::{header, input};
use crate::harness::{Setup, in_process, wait_until};

/// Keys that drop the input, sizes, signals: each is some system calls of the
/// gateway's, and a read has room for 16,000.
#[test]
fn ten_floods_of_keys_delay_nobody() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(RUN).option("forkpty-urouter", "{dir}/u").raw();
        let mut other = running(&server, "s", "cat");
        // Interrupt and quit in turn, so that none is like the one before.
        let keys = [header(0, 2), header(0, 3)].concat().repeat(8000);
        let same = header(0, 2).repeat(16_000);
        let sizes = [header(10, 100).to_vec(), input("x")].concat().repeat(7000);
        std::thread::scope(|scope| {
            let server = &server;
            for flood in [&keys, &same, &sizes].into_iter().cycle().take(10) {
                scope.spawn(move || {
                    let mut hostile = server.connect("u");
                    hostile.read_until("ready\n");
                    // Interrupts and quits mean nothing to it.
                    hostile.input("trap '' INT QUIT; stty sane; exec cat >/dev/null\n");
                    let end = Instant::now() + Duration::from_secs(1);
                    while Instant::now() < end {
                        hostile.flood(flood, Duration::from_millis(200));
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(200));
            let took = echoes(&mut other, 50);
            assert!(took[49] < Duration::from_millis(400), "{took:?}");
        });
    });
}

/// Input that was read of a client that has disconnected is passed on to its end, and in
/// order.
#[test]
fn nothing_of_a_flood_is_lost() {
    in_process(|flavor| {
        // Its terminal is hung up when all was heard.
        let script = "trap '' HUP; trap 'echo >{dir}/last; exit' TERM
            stty raw -echo; echo ready; while :; do sleep 0.01; done";
        let server = Setup::new(flavor).script(script).uwsgi();
        let mut client = server.connect("u");
        client.read_until("ready\n");
        let (many, last) = (header(0, 28).repeat(10_000), header(0, 15));
        client.send([many, last.to_vec()].concat());
        // Gone while most of it was not looked at.
        drop(client);
        let path = server.path("last");
        wait_until("the last one arrives", || std::path::Path::new(&path).exists());
    });
}

/// Where nothing else happens the rest is heard all the same.
#[test]
fn a_flood_is_read_to_its_end_without_other_events() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script("stty raw -echo; echo ready; exec cat").uwsgi();
        let mut client = server.connect("u");
        client.read_until("ready\n");
        for number in 0..20 {
            // Signals that do nothing to it.
            client.send([header(0, 28).repeat(500), input(format!("<{number}>"))].concat());
            client.read_until(&format!("<{number}>"));
        }
        // The program has begun before that was all.
        let mut early = server.connect("u");
        early.send([header(0, 28).repeat(2000), input("early")].concat());
        early.read_until("early");
    });
}
