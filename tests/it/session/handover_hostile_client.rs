//! A client that has an offered terminal may change its flags: nobody else waits for that.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::harness::attach_client::AttachClient;
use crate::harness::client::both;
use crate::harness::cost::{ECHO, echoes, load};
use crate::harness::wire::{input, packet};
use crate::harness::{Flavor, Server, Setup, Wire, comes_true, in_process, wait_until};

/// Program for two clients of one server, which are told apart by their first line.
const EITHER: &str = "read line; case $line in echo) stty raw -echo; echo ready; exec cat;; \
                      sip) stty raw -echo; echo ready; \
                      while sleep 0.01; do dd bs=4000 count=1 of=/dev/null 2>/dev/null; done;; \
                      talk) stty raw -echo; while sleep 0.02; do echo talk; done;; esac; \
                      stty raw -echo; echo ready; exec sleep 1000";

fn start(flavor: &Flavor, detach: bool) -> (Server, Wire) {
    let setup = both(Setup::new(flavor).script(EITHER));
    let setup = if detach { setup.option("forkptyrouter-detach", "8") } else { setup };
    let server = setup.start();
    let mut other = server.connect("s");
    other.send("echo\n");
    other.read_until("ready\n");
    (server, other)
}

/// Nobody waits: the slowest of many.
#[track_caller]
fn nobody_waits(other: &mut Wire) {
    let took = echoes(other, 50);
    assert!(took[45] < Duration::from_secs(1), "{took:?}");
}

fn blocks(fd: &OwnedFd) {
    let _ = fcntl(fd, FcntlArg::F_SETFL(OFlag::O_RDWR));
}

/// Another process clears O_NONBLOCK without end, while `body` runs.
fn while_it_is_cleared(fd: &OwnedFd, body: impl FnOnce()) {
    let over = AtomicBool::new(false);
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                blocks(fd);
            }
        });
        let _over = Over(&over);
        body();
    });
}

/// The client never says that it has the terminal, and types into a program that does not
/// read.
#[test]
fn a_client_that_makes_the_offered_terminal_blocking_delays_nobody() {
    in_process(|flavor| {
        let (server, mut other) = start(flavor, false);
        let mut hostile = AttachClient::connects(&server, "u", None, &[("fpty.take", "1")]);
        hostile.say(&input("sleep\n"));
        let terminal = hostile.keeps_silent();
        hostile.waits("its program", |client| client.output.ends_with(b"ready\n"));
        for _ in 0..4 {
            blocks(&terminal);
            hostile.say(&input(vec![b'x'; 16_000]));
            nobody_waits(&mut other);
        }
        assert_eq!(hostile.end, None, "once is no offence");
        drop(hostile);
        // Whose program reads a little at a time has many chances.
        let mut hostile = AttachClient::connects(&server, "u", None, &[("fpty.take", "1")]);
        hostile.say(&input("sip\n"));
        let terminal = hostile.keeps_silent();
        hostile.waits("its program", |client| client.output.ends_with(b"ready\n"));
        while_it_is_cleared(&terminal, || {
            hostile.stream.set_nonblocking(true).unwrap();
            let is_over = comes_true(Duration::from_secs(10), || {
                hostile.say(&input(vec![b'y'; 8000]));
                nobody_waits(&mut other);
                server.count_in_log("made it wait") > 0
            });
            assert!(is_over, "{}", server.log());
        });
        hostile.waits("its end", |client| client.end.is_some());
        let (_, _, why) = hostile.ended();
        assert!(why.contains("made it wait"), "{why}");
        // It keeps the terminal, and the program is hung up all the same.
        wait_until("its program has ended", || {
            server.session_processes().iter().all(|one| one.name != "dd" && one.name != "sleep")
        });
        nobody_waits(&mut other);
        // Nor is anybody told of it without end.
        let used = load(server.gateway(), Duration::from_millis(500));
        assert!(used < 0.2, "{used} of a processor");
        drop(terminal);
    });
}

/// The kernel hangs up nothing where a client has the terminal, too.
#[test]
fn a_client_that_keeps_the_offered_terminal_keeps_no_program_of_a_killed_gateway() {
    in_process(|flavor| {
        let setup = both(Setup::new(flavor).script(EITHER));
        let server = setup.option("forkptyrouter-hangup-grace", "0").start();
        let mut hostile = AttachClient::connects(&server, "u", None, &[("fpty.take", "1")]);
        hostile.say(&input("sleep\n"));
        let terminal = hostile.keeps_silent();
        hostile.waits("its program", |client| client.output.ends_with(b"ready\n"));
        server.replace_gateway("kill");
        wait_until("its program has ended", || server.session_processes().is_empty());
        drop(terminal);
    });
}

/// Ioctls, the end of the input, output: the same of what is relayed on.
#[test]
fn ioctls_and_input_at_a_blocking_terminal_delay_nobody() {
    in_process(|flavor| {
        let (server, mut other) = start(flavor, false);
        let mut hostile = AttachClient::connects(&server, "u", None, &[("fpty.take", "1")]);
        hostile.say(&input("talk\n"));
        let terminal = hostile.keeps_silent();
        while_it_is_cleared(&terminal, || {
            for round in 0..10_u8 {
                hostile.say(&[[0, 24 + round, 0, 100], [0, 80, 0, 101], [0, 2, 0, 2]].concat());
                nobody_waits(&mut other);
            }
            // The end of the input.
            hostile.say(&packet(104, &[]));
            nobody_waits(&mut other);
        });
    });
}

/// A terminal that was left is read on, and its old client has it still.
#[test]
fn a_detached_blocking_terminal_delays_nobody() {
    in_process(|flavor| {
        let (server, mut other) = start(flavor, true);
        for line in ["talk\n", "sleep\n"] {
            let mut leaver = AttachClient::begins(&server, &[]);
            leaver.say(&input(line));
            let mut leaver = leaver.takes();
            let fd = leaver.terminal().fd().try_clone().unwrap();
            // Its reads begin with a byte of their own.
            let on: libc::c_int = 1;
            // SAFETY: TIOCPKT reads one int.
            assert_eq!(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCPKT, &on) }, 0);
            let id = leaver.leaves();
            while_it_is_cleared(&fd, || {
                for _ in 0..5 {
                    nobody_waits(&mut other);
                }
                let mut back = AttachClient::comes(&server, &id, &[]);
                back.say(&input(vec![b'x'; 60_000]));
                nobody_waits(&mut other);
                back.ends_it();
            });
            wait_until("its program has ended", || server.programs().len() == 1);
            let used = load(server.gateway(), Duration::from_millis(500));
            assert!(used < 0.2, "{used} of a processor");
        }
    });
}

/// The program of a client that never answers an offer runs as ever.
#[test]
fn a_client_that_never_answers_the_offer_has_a_session() {
    in_process(|flavor| {
        let server = both(Setup::new(flavor).script(ECHO)).start();
        let mut client = AttachClient::connects(&server, "u", None, &[("fpty.take", "1")]);
        client.waits("its program", |client| client.output.ends_with(b"ready\n"));
        let _terminal = client.keeps_silent();
        let text = vec![b'z'; 60_000];
        for round in 1..=5 {
            client.say(&input(&text));
            let wanted = round * text.len();
            client.waits("all of it", |client| {
                client.output.iter().filter(|byte| **byte == b'z').count() == wanted
            });
        }
    });
}
