//! Output, input and the scrollback of a session that is left in the midst: floods,
//! pastes, terminal queries, and a scrollback that a hostile client has written.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use fpty::scrollback::ScrollbackReader;

use crate::harness::detachable::{Detachable, SHELL, detach, setup};
use crate::harness::{assert_same, in_process, noise, sequence, wait_until};

const SIZE: (u16, u16) = (24, 80);

#[test]
fn a_flood_while_detached_is_restored() {
    in_process(|flavor| {
        let script = "stty -echo; echo here; read x; seq 200000; echo e''nd; read x";
        let instance = Detachable::new(flavor, script);
        let mut person = instance.connect(&[], SIZE);
        person.sees("here");
        instance.wait_for_handover(&person);
        person.send("\r");
        person.sees("1\n");
        instance.lose(person);
        instance.wait_for_end_of("seq");
        let mut back = instance.attach(&[], SIZE);
        back.sees("199999\n200000\nend\n");
        back.scrolls_at_least(1000);
    });
}

#[test]
fn detach_in_a_flood_works() {
    in_process(|flavor| {
        let script =
            "stty -echo; echo here; read x; seq 100000 999999 & read x; echo e''nd; read x";
        for hands_over in [true, false] {
            let instance = Detachable::of(flavor, script, hands_over);
            let mut person = instance.connect(&[], (24, 200));
            person.sees("here");
            if hands_over {
                instance.wait_for_handover(&person);
            }
            person.send("\r");
            person.sees("10");
            // Nobody reads: everything on the way is full.
            let mut before = String::new();
            wait_until("the flood stands still", || {
                std::thread::sleep(Duration::from_millis(50));
                let processes = instance.server.session_processes();
                let seq = processes.iter().find(|process| process.name == "seq").unwrap();
                let written = fs::read_to_string(format!("/proc/{}/io", seq.pid)).unwrap();
                std::mem::replace(&mut before, written.clone()) == written
            });
            person.send("~d");
            assert_eq!(person.status(), 0);
            let id = instance.id();
            person.sees(&format!("fpty: detached: {id} (come back with: fpty -a {id}"));
            // It goes on.
            instance.wait_for_end_of("seq");
            instance.attach(&[], SIZE).sees("999998\n999999\n");
        }
    });
}

/// Output that the client had read and not shown, and output that the gateway reads from
/// then on.
#[test]
fn a_client_killed_in_a_flood_loses_and_repeats_nothing() {
    in_process(|flavor| {
        for round in 1..20 {
            let script = "stty -echo; seq 1 150000; read x";
            let setup = setup(flavor, script).option("forkptyrouter-detach", "9");
            let setup = setup.option("forkptyrouter-detach-buffer", "4000000");
            let hands_over = if round % 4 == 3 { "false" } else { "true" };
            let instance = Detachable::start(setup.option("forkptyrouter-handover", hands_over));
            let mut person = instance.connect(&[], SIZE);
            person.sees_any();
            std::thread::sleep(Duration::from_millis(3 * round));
            instance.lose(person);
            instance.wait_for_end_of("seq");
            let ring = ScrollbackReader::open(instance.ring()).unwrap();
            let mut kept = Vec::new();
            wait_until("all of it is kept", || {
                kept = ring.range(0, ring.total().unwrap()).unwrap();
                kept.ends_with(b"150000\r\n")
            });
            kept.retain(|byte| *byte != b'\r');
            assert_same(&kept, &sequence(150_000));
            // What is shown of it is there once, and in its order.
            let mut back = instance.attach(&[], SIZE);
            back.sees("149999\n");
            let text = back.all_lines();
            let numbers: Vec<u32> =
                text.lines().filter_map(|line| line.trim().parse().ok()).collect();
            assert!(numbers.len() > 1000, "{}", numbers.len());
            assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "round {round}");
        }
    });
}

/// The next client ends the paste: else all that is typed would be part of it.
#[test]
fn a_client_killed_in_a_paste_ends_the_paste() {
    in_process(|flavor| {
        let script = r"stty -icanon -echo min 1; printf '\033[?2004h>'; exec cat -v";
        let instance = Detachable::new(flavor, script);
        let mut person = instance.connect(&[], SIZE);
        person.sees(">");
        instance.wait_for_handover(&person);
        person.send("\x1b[200~echo pasted");
        person.sees("^[[200~echo pasted");
        instance.lose(person);
        let mut back = instance.attach(&[], SIZE);
        back.sees("^[[200~echo pasted^[[201~");
        back.send(" and typed");
        back.sees("^[[200~echo pasted^[[201~ and typed");
        instance.lose(back);
        let mut back = instance.attach(&[], SIZE);
        back.send(" more");
        back.sees("^[[201~ and typed more");
    });
}

#[test]
fn attaches_in_many_sizes_restore_the_screen() {
    in_process(|flavor| {
        let instance = Detachable::new(flavor, SHELL);
        let mut person = instance.connect(&[], SIZE);
        person.sees("$ ");
        for round in 0..30 {
            instance.lose(person);
            person = instance.attach(&[], (10 + round * 7 % 40, 40 + round * 11 % 90));
            person.sees("$ ");
            person.send(&format!("echo ro''und {round}\r"));
            person.sees(&format!("\nround {round}\n$ "));
        }
        // It is a line smaller for a moment, so that its program draws.
        person.settles();
        person.send("stty size\r");
        person.sees(&format!("{} {}\n$ ", 10 + 29 * 7 % 40, 40 + 29 * 11 % 90));
    });
}

/// Where a ring has the count of its output, and the output itself.
const TOTAL: u64 = 16;
const OUTPUT: u64 = 16 * 1024;

/// Writes in a ring what a hostile client might.
fn corrupt(ring: OwnedFd, seed: u64) {
    let file = std::fs::File::from(ring);
    let mut random = noise(seed + 1, 200_000).into_iter();
    let mut number = || {
        let bytes = [0; 8].map(|_: u8| random.next().unwrap());
        u64::from_le_bytes(bytes)
    };
    let traps: [&[u8]; 6] = [
        b"\x1b[c\x1b[6n",
        b"\x1b]52;c;aGk=\x07",
        b"\x1b[65535b",
        b"\x1b[?1049h",
        b"\x1bPq",
        b"\xff\x9b",
    ];
    match seed % 4 {
        0 => file.write_all_at(&number().to_le_bytes(), TOTAL).unwrap(),
        // Everything behind the magic, as bytes without a sense.
        1 => {
            file.write_all_at(&noise(seed + 2, 200_000), TOTAL).unwrap();
            file.write_all_at(&(number() % 500_000).to_le_bytes(), TOTAL).unwrap();
        }
        // Here and there.
        2 => {
            for _ in 0..500 {
                file.write_all_at(&[number() as u8], TOTAL + number() % 30_000).unwrap();
            }
        }
        // Output.
        _ => {
            let mut output = Vec::new();
            while output.len() < 20_000 {
                output.extend_from_slice(traps[number() as usize % traps.len()]);
                output.push(number() as u8);
            }
            file.write_all_at(&output, OUTPUT).unwrap();
            file.write_all_at(&(output.len() as u64).to_le_bytes(), TOTAL).unwrap();
        }
    }
}

#[test]
fn a_corrupted_scrollback_does_no_harm() {
    in_process(|flavor| {
        for seed in 0..40 {
            let instance = Detachable::new(flavor, SHELL);
            let mut person = instance.connect(&[], SIZE);
            person.sees("$ ");
            instance.lose(person);
            corrupt(instance.ring(), seed);
            let mut back = instance.attach(&[], SIZE);
            // Whatever there is on the screen.
            back.send("\x15printf '\\033c'\recho he''re\r");
            back.sees("here\n$ ");
            let shown = back.shown();
            for question in ["\x1b[c", "\x1b[6n", "]52;"] {
                assert!(!shown.contains(question), "{seed} {question:?}: {shown:?}");
            }
            detach(back, &instance.address);
        }
    });
}

#[test]
fn old_terminal_queries_are_not_repeated() {
    in_process(|flavor| {
        let instance = Detachable::new(
            flavor,
            r"stty -echo; printf '\033[c\033[6n\033]11;?\007\033]52;c;aGk=\007\033[?2026$pasked'; read x",
        );
        let mut person = instance.connect(&[], SIZE);
        person.sees("asked");
        instance.lose(person);
        let mut back = instance.attach(&[], SIZE);
        back.sees("asked");
        let shown = back.shown();
        for question in ["\x1b[c", "[6n", "]11", "]52", "$p"] {
            assert!(!shown.contains(question), "{question:?}: {shown:?}");
        }
    });
}
