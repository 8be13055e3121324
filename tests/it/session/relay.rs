//! All bytes of a session arrive, in order, to the end, however slow either side is.

use std::time::Duration;

use crate::harness::process::Process;
use crate::harness::wire::header;
use crate::harness::{Setup, Wire, assert_same, in_process, noise, sequence, wait_until};

/// Prints about three megabytes, as they are, and exits.
const THREE_MEGABYTES: &str = "stty -opost; exec seq 1 450000";

#[test]
fn final_output_is_complete() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(THREE_MEGABYTES).raw();
        let wanted = sequence(450_000);
        assert_same(&server.connect("s").read_to_end(), &wanted);

        // A client that takes its time, after everything has stopped.
        let mut slow = server.connect("s");
        wait_until("the gateway waits for the client", || {
            let ticks = || {
                let all = server.processes();
                all.iter().map(|process| process.ticks).sum::<u64>()
            };
            let before = ticks();
            slow.is_silent_for(Duration::from_millis(1));
            std::thread::sleep(Duration::from_millis(50));
            before == ticks()
        });
        assert_same(&slow.read_to_end(), &wanted);
    });
}

#[test]
fn ten_megabytes_go_through_a_raw_terminal_and_back() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script("stty raw -echo; echo ready; exec cat")
            .option("forkpty-router", "{dir}/s")
            .option("forkpty-urouter", "{dir}/u")
            .start();
        for (socket, framed) in [("s", false), ("u", true)] {
            let content = noise(11, 10_000_000);
            let mut client = server.connect(socket);
            client.read_until("ready\n");
            let sender = Wire::over(client.fd().try_clone().unwrap(), "the sending half");
            let all = std::thread::scope(|scope| {
                scope.spawn(|| {
                    for piece in content.chunks(50_000) {
                        if framed { sender.input(piece) } else { sender.send(piece) }
                    }
                });
                client
                    .read_while("ten megabytes came back", |seen| seen.len() >= 10_000_006)
                    .to_vec()
            });
            assert_same(&all[6..], &content);
        }
    });
}

/// A client that shuts down its writing half still reads the rest.
#[test]
fn a_half_close_is_an_end_of_input() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option("forkpty-router", "{dir}/s")
            .option("forkpty-urouter", "{dir}/u")
            .option("forkptyrouter-command", "stty -echo; wc -l; sleep 0.2; echo 'the rest'")
            .start();
        for socket in ["s", "u"] {
            let mut client = server.connect(socket);
            if socket == "s" {
                client.send("a\nb\nc\n")
            } else {
                client.input("a\nb\nc\n")
            }
            client.end_of_input();
            let all = client.text_to_end();
            assert!(all.contains("3\r\n") && all.ends_with("the rest\r\n"), "{socket}: {all:?}");
        }
    });
}

/// All commands of `printf 'commands'
/// client` run, then it ends.
#[test]
fn commands_in_a_pipe_run_to_the_end() {
    in_process(|flavor| {
        let server = Setup::new(flavor).raw();
        let mut client = server.connect("s");
        client.send("sleep 0.2\necho fi''rst\nsleep 0.2; echo sec''ond\ncat\n");
        client.end_of_input();
        let all = client.text_to_end();
        assert!(all.contains("first") && all.contains("second"), "{all:?}");
    });
}

/// A program that does not read: its client is not read either, and nobody
/// else notices.
#[test]
fn unread_input_of_a_program_delays_nobody_else() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script(
                "stty raw -echo; echo ready; read line; [ \"$line\" = deaf ] && sleep 1000; cat",
            )
            .raw();
        let mut deaf = server.connect("s");
        deaf.read_until("ready\n");
        deaf.send("deaf\n");
        let mut other = server.connect("s");
        other.read_until("ready\n");
        other.send("\n");
        wait_until("the deaf program does not read", || {
            server.session_processes().iter().any(|process| process.name == "sleep")
        });
        let sent = deaf.flood(&noise(1, 8_000_000), Duration::from_millis(300));
        assert!(sent < 4_000_000, "the gateway took {sent} bytes for a program that does not read");
        for number in 0..100 {
            other.send(format!("echo {number};"));
            other.read_until(&format!("echo {number};"));
        }
        let mut third = server.connect("s");
        third.read_until("ready\n");
        let still_there = |name| server.session_processes().iter().any(|p| p.name == name);
        assert!(still_there("sleep"), "nobody ended the flooded program");
        assert!(deaf.is_silent_for(Duration::ZERO), "{}", deaf.text_to_end());
    });
}

/// A client that does not read: its program waits, and nobody else notices.
#[test]
fn unread_output_of_a_client_delays_nobody_else() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script(
                "stty raw -echo; echo ready; read line
                [ \"$line\" = print ] && exec seq 1 450000; exec cat",
            )
            .raw();
        let gateway = server.gateway();
        let mut silent = server.connect("s");
        silent.read_until("ready\n");
        silent.send("print\n");
        let mut other = server.connect("s");
        other.read_until("ready\n");
        other.send("\n");
        for number in 0..300 {
            other.send(format!("echo {number};"));
            other.read_until(&format!("echo {number};"));
        }
        let memory = crate::harness::process::private_memory(gateway).unwrap();
        assert!(memory < 32 * 1024, "the gateway keeps {memory} KiB");
        let all = silent.read_to_end();
        assert_same(&all["ready\n".len()..], &sequence(450_000));
    });
}

#[test]
fn short_sessions_side_by_side_lose_nothing() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script("stty -opost; seq 1 300; echo end").raw();
        let wanted = [sequence(300), b"end\n".to_vec()].concat();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert_same(&server.connect("s").read_to_end(), &wanted);
                    }
                });
            }
        });
    });
}

/// A program is killed while its output waits for a client that does not
/// read: the terminal is hung up, and says so again and again.
#[test]
fn a_hung_up_terminal_with_unread_output_costs_no_processor() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script("stty -opost; exec seq 1 9000000").uwsgi();
        let mut client = server.connect("u");
        let gateway = server.gateway();
        let ticks = |pid| Process::of(pid).map_or(0, |process| process.ticks);
        let mut program = 0;
        wait_until("the program runs", || {
            let found = server.programs().into_iter().find(|program| program.name == "seq");
            program = found.map_or(0, |found| found.pid);
            program > 0
        });
        wait_until("it waits for its client", || {
            let before = ticks(program);
            std::thread::sleep(Duration::from_millis(100));
            before == ticks(program)
        });
        client.send(header(0, 9));
        wait_until("it is dead and reaped", || Process::of(program).is_none());
        let before = ticks(gateway);
        std::thread::sleep(Duration::from_secs(1));
        let spent = ticks(gateway) - before;
        assert!(spent <= 5, "{spent} ticks in a second");
        let output = client.read_to_end();
        assert!(
            (10_000..2_000_000).contains(&output.len()),
            "{} bytes were on their way",
            output.len()
        );
        assert_same(&output, &sequence(450_000)[..output.len()]);
    });
}
