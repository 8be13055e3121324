//! Clients and programs that do not read: what waits stays where it is, and is whole when
//! they read again.

use std::time::Duration;

use crate::harness::cost::{Holdings, RUN, echoes, load, running};
use crate::harness::{Server, Setup, Wire, assert_same, in_process, noise, wait_until};

const QUICK: Duration = Duration::from_millis(500);

/// The gateway keeps little, works little, and serves others meanwhile.
#[track_caller]
fn assert_calm(server: &Server, before: Holdings, other: &mut Wire) {
    let gateway = server.gateway();
    let used = load(gateway, Duration::from_millis(700));
    assert!(used < 0.1, "{used} of a processor");
    let took = echoes(other, 100);
    assert!(took[98] < QUICK, "{took:?}");
    let grown = Holdings::of(gateway).memory.saturating_sub(before.memory);
    assert!(grown < 1024, "the gateway keeps {grown} KiB");
}

/// Output, input, and both at once, each stopped and taken up again.
#[test]
fn a_stream_that_was_blocked_is_whole() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(RUN).raw();
        let mut other = running(&server, "s", "exec cat");
        echoes(&mut other, 5);
        let before = Holdings::of(server.gateway());

        // A client that does not read.
        let count = 3_000_000;
        let mut output = running(&server, "s", &format!("yes | head -c {count}; exit"));
        std::thread::sleep(Duration::from_millis(500));
        assert_calm(&server, before, &mut other);
        let got = output.read_to_end();
        assert_same(&got["ready\n".len()..], &b"y\n".repeat(count / 2));

        // A program that does not read, until it is told to.
        let sent = noise(7, 2_000_000);
        let command =
            format!("while [ ! -e go ]; do sleep 0.05; done; head -c {} | cksum; exit", sent.len());
        let mut input = running(&server, "s", &command);
        // The shell must have read the command before more comes.
        std::thread::sleep(Duration::from_millis(300));
        let went = input.flood(&sent, Duration::from_millis(500));
        assert!(went < sent.len(), "{went} bytes were taken for a program that does not read");
        assert_calm(&server, before, &mut other);
        std::fs::write(server.path("go"), "").unwrap();
        input.send(&sent[went..]);
        let said = input.text_to_end();
        let sum = checksum(&sent);
        assert!(said.contains(&format!("{sum} {}", sent.len())), "{said:?}, not {sum}");
    });
}

/// `cat` against a client that sends and does not read: all of it stands
/// still; then the client reads, and what it sent comes back.
#[test]
fn both_directions_full_at_once_lose_nothing() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(RUN).raw();
        let mut other = running(&server, "s", "exec cat");
        echoes(&mut other, 5);
        let before = Holdings::of(server.gateway());
        let mut full = running(&server, "s", "exec cat");
        wait_until("cat runs", || {
            server.programs().iter().filter(|program| program.name == "cat").count() == 2
        });
        let bytes = noise(9, 8_000_000);
        let sent = full.flood(&bytes, Duration::from_millis(500));
        assert!(sent < 4_000_000, "{sent} bytes were taken");
        assert_calm(&server, before, &mut other);
        let got = full.read_while("all of it", |seen| seen.len() >= sent + "ready\n".len());
        assert_same(&got["ready\n".len()..], &bytes[..sent]);
    });
}

/// The first number that cksum(1) prints (POSIX).
fn checksum(bytes: &[u8]) -> u32 {
    let mut length = bytes.len();
    let mut sum = 0_u32;
    let mut add = |byte: u8| {
        sum ^= u32::from(byte) << 24;
        for _ in 0..8 {
            sum = if sum & 0x8000_0000 == 0 { sum << 1 } else { (sum << 1) ^ 0x04c1_1db7 };
        }
    };
    bytes.iter().for_each(|byte| add(*byte));
    while length > 0 {
        add(length as u8);
        length >>= 8;
    }
    !sum
}
