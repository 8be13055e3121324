//! Malformed packets, by the thousand: each client harms only its own session.

use std::time::Duration;

use crate::harness::cost::{Holdings, RUN, echoes, running, wait_until_as_before};
use crate::harness::wire::{header, input};
use crate::harness::{Flavor, Setup, in_process, noise, on_one_server};

/// A stream of packets, then damaged, by its number.
fn stream(number: u64) -> Vec<u8> {
    let dice = noise(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), 600);
    let mut bytes = Vec::new();
    for roll in dice[..300].chunks_exact(6) {
        let size = u16::from_le_bytes([roll[1], roll[2]]);
        match roll[0] % 6 {
            0 => bytes.extend(input(&dice[..usize::from(roll[3])])),
            // KILL and HUP would only end it early.
            1 => bytes.extend(header(size, roll[3] % 99 + 1)),
            2 => bytes.extend(header(size, 100 + roll[3] % 2)),
            3 => bytes.extend(header(size, 102 + roll[3] % 154)),
            // A header that promises more than comes.
            4 => bytes.extend(header(size, 0)),
            _ => bytes.extend(&dice[..usize::from(roll[3] % 40)]),
        }
        if roll[5] > 250 {
            break;
        }
    }
    // Bits flipped, pieces dropped, the end cut off.
    for damage in dice[300..].chunks_exact(4).take(usize::from(dice[299] % 12)) {
        if bytes.is_empty() {
            break;
        }
        let at = usize::from(u16::from_le_bytes([damage[0], damage[1]])) % bytes.len();
        match damage[2] % 3 {
            0 => bytes[at] ^= 1 << (damage[3] % 8),
            1 => drop(bytes.drain(at..(at + usize::from(damage[3] % 9)).min(bytes.len()))),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn streams_harm_nobody(flavor: &Flavor, count: u64) {
    let server = Setup::new(flavor).script(RUN).option("forkpty-urouter", "{dir}/u").raw();
    let gateway = server.gateway();
    server.idle_descriptors();
    let before = Holdings::of(gateway);
    let mut other = running(&server, "s", "exec cat");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for number in (thread..count).step_by(8) {
                    let client = server.connect("u");
                    let bytes = stream(number);
                    // In one piece, or in small ones.
                    let piece = if number % 3 == 0 { bytes.len().max(1) } else { 7 };
                    for piece in bytes.chunks(piece) {
                        if client.flood(piece, Duration::from_millis(100)) < piece.len() {
                            break;
                        }
                    }
                    if number % 5 == 0 {
                        client.end_of_input();
                    }
                }
            });
        }
    });
    let took = echoes(&mut other, 20);
    assert!(took[18] < Duration::from_secs(1), "{took:?}");
    assert_eq!(server.gateway(), gateway, "the same gateway");
    assert_eq!(server.count_in_log("internal error"), 0);
    drop(other);
    wait_until_as_before(gateway, before);
}

#[test]
fn two_thousand_malformed_streams_harm_nobody() {
    in_process(|flavor| streams_harm_nobody(flavor, 2000));
}

#[test]
#[ignore = "soak: takes minutes"]
fn soak_a_hundred_thousand_malformed_streams() {
    on_one_server(|flavor| streams_harm_nobody(flavor, 100_000));
}
