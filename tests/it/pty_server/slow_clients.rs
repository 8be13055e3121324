//! A shared terminal under load: nobody waits for a client that does not read, nor for a
//! program that does not.

use std::time::{Duration, Instant};

use crate::harness::process::{self, Process};
use crate::harness::pty_server::{join, request, shared, start, worker};
use crate::harness::{DEADLINE, assert_same, on_one_server, sequence, wait_until};

/// Limit of the worker's own memory, in KiB; it has a megabyte for each client.
const MEMORY_KIB: u64 = 40 * 1024;

/// Says so when it is there; prints without end once it has read a line, and
/// repeats what it reads then.
const FLOODS: &str =
    "stty raw -echo; echo ready; read x; (while :; do seq 1 5000; sleep 0.01; done) & exec cat";

/// Without the flood, and while a silent client's queue fills: the others'
/// echo takes no longer than a person would notice.
#[test]
fn a_client_that_does_not_read_is_dropped() {
    on_one_server(|flavor| {
        let server = start(shared(flavor).option("pty-exec", FLOODS));
        let worker = worker(&server);
        let mut silent = join(&server);
        silent.read_until("ready");
        let mut reader = join(&server);
        reader.read_until("ready");
        reader.send("\n");
        let dropped = || server.count_in_log("does not read was dropped");
        let mut delays = Vec::new();
        let end = Instant::now() + DEADLINE;
        while dropped() == 0 || delays.len() < 15 {
            assert!(Instant::now() < end, "nobody was dropped in {DEADLINE:?}");
            let mark = format!("<{}>", delays.len());
            let begin = Instant::now();
            reader.send(&mark);
            reader.read_until(&mark);
            delays.push(begin.elapsed());
            if delays.len() == 5 {
                request(&server, "/");
            }
        }
        delays.sort();
        // One in ten may have met with something else that the machine did.
        let slow = delays[delays.len() * 9 / 10];
        assert!(slow < Duration::from_millis(200), "{:?}", &delays[delays.len() * 8 / 10..]);
        request(&server, "/");
        let memory = process::private_memory(worker).unwrap();
        assert!(memory < MEMORY_KIB, "{memory} KiB");
        assert_eq!(dropped(), 1, "one of two");
        silent.read_to_end();
    });
}

/// A client that reads, however slowly for a while, gets everything.
#[test]
fn a_slow_client_gets_everything() {
    on_one_server(|flavor| {
        let command = "stty -opost -echo; echo ready; read x; seq 1 740000; echo end";
        let server = start(shared(flavor).option("pty-exec", command));
        let mut clients = [join(&server), join(&server)];
        for client in &mut clients {
            client.read_until("ready\n");
        }
        clients[0].send("\n");
        let wanted = [sequence(740_000), b"end\n".to_vec()].concat();
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| {
                    let seen = client.read_while("the end", |seen| seen.ends_with(b"\nend\n"));
                    let from = seen.len().saturating_sub(wanted.len());
                    assert_same(&seen[from..], &wanted);
                });
            }
        });
    });
}

/// Input for a program that does not read it waits, with its sender; others
/// see what the program says.
#[test]
fn unread_input_waits_with_its_sender() {
    on_one_server(|flavor| {
        let command = "stty raw -echo; echo ready; while sleep 0.02; do echo tick; done";
        let server = start(shared(flavor).option("pty-exec", command));
        let worker = worker(&server);
        let mut flooding = join(&server);
        flooding.read_until("ready\n");
        let mut other = join(&server);
        let sent = flooding.flood(&vec![b'x'; 16_000_000], Duration::from_millis(300));
        assert!(sent < 4_000_000, "the worker took {sent} bytes for a program that does not read");
        let memory = process::private_memory(worker).unwrap();
        assert!(memory < MEMORY_KIB, "{memory} KiB");
        for _ in 0..5 {
            other.read_until("tick\n");
        }
        let mut third = join(&server);
        third.read_until("tick\n");
        request(&server, "/");
        // It waits, and does not ask again and again.
        let ticks = || Process::of(worker).unwrap().ticks;
        let before = ticks();
        for _ in 0..25 {
            other.read_until("tick\n");
        }
        assert!(ticks() - before <= 10, "{} ticks", ticks() - before);
        // The one who flooded leaves while its input waits.
        drop(flooding);
        other.read_until("tick\n");
        let before = process::descriptors(worker).len();
        drop(third);
        wait_until("one who left is let go", || process::descriptors(worker).len() < before);
    });
}

/// A large paste is whole at a program that takes its time.
#[test]
fn two_megabytes_of_input_are_whole() {
    on_one_server(|flavor| {
        let setup = shared(flavor);
        let path = setup.path("content");
        let content = crate::harness::noise(9, 2_000_000);
        std::fs::write(&path, &content).unwrap();
        let sum = std::process::Command::new("sha256sum").arg(&path).output().unwrap();
        let sum = String::from_utf8_lossy(&sum.stdout)[..64].to_owned();
        let command = "stty raw -echo; echo ready; head -c 2000000 | sha256sum";
        let server = start(setup.option("pty-exec", command));
        let mut client = join(&server);
        client.read_until("ready\n");
        client.send(&content);
        let said = client.read_until("-\n");
        assert!(said.contains(&sum), "wanted {sum}, got {said:?}");
    });
}
