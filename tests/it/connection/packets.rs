//! The packets of uwsgi mode, in any fragmentation.

use crate::harness::wire::{header, input};
use crate::harness::{Setup, assert_same, in_process, noise};

/// Passes every byte on unchanged.
const MIRROR: &str = "stty raw -echo; echo ready; exec cat";

/// Prints the signals that it gets until it is sent TERM.
const SIGNALS: &str = "stty -echo
    for s in HUP INT QUIT USR1 USR2 ALRM; do trap \"echo got-$s.\" $s; done
    trap 'echo got-TERM.; kill $!; exit' TERM
    sleep 1000 &
    echo ready
    while :; do wait; done";

#[test]
fn several_packets_in_one_write_are_all_read() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(MIRROR).uwsgi();
        let mut client = server.connect("u");
        client.read_until("ready");
        let mut packets = Vec::new();
        let mut wanted = String::new();
        for number in 0..200 {
            let piece = format!("piece {number};");
            packets.extend(input(&piece));
            packets.extend(header(0, 0));
            wanted.push_str(&piece);
        }
        packets.extend(input("end"));
        client.send(packets);
        assert!(client.read_until("end").ends_with(&format!("{wanted}end")));
    });
}

#[test]
fn a_packet_a_byte_at_a_time_is_read() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script("stty size; stty raw -echo; echo ready; exec cat");
        let server = server.uwsgi();
        let mut client = server.connect("u");
        client.read_until("ready");
        let packets = [
            input("abc"),
            header(0, 0).to_vec(),
            header(61, 100).to_vec(),
            header(171, 101).to_vec(),
            header(7, 200).to_vec(),
            input("def"),
        ];
        for byte in packets.concat() {
            client.send([byte]);
        }
        assert!(client.read_until("def").ends_with("abcdef"));
    });
}

#[test]
fn the_largest_packet_is_read() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(MIRROR).uwsgi();
        let mut client = server.connect("u");
        client.read_until("ready");
        let content = noise(3, 65535);
        client.send(input(&content));
        client.send(input("the end"));
        let all =
            client.read_while("all that was sent", |seen| seen.ends_with(b"the end")).to_vec();
        let from = all.len() - 65535 - "the end".len();
        assert_same(&all[from..all.len() - 7], &content);
    });
}

/// modifier1 means nothing, whatever it is.
#[test]
fn modifier1_is_ignored() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(MIRROR).uwsgi();
        let mut client = server.connect("u");
        client.read_until("ready");
        for modifier1 in [1, 5, 127, 255] {
            client.send([&[modifier1, 1, 0, 0][..], b"x"].concat());
        }
        client.read_until("xxxx");
    });
}

/// The number of a signal is right whatever is sent before and after it.
#[test]
fn signals_between_other_packets_are_delivered() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(SIGNALS).uwsgi();
        let mut client = server.connect("u");
        client.read_until("ready");
        let numbers =
            [(1, "HUP"), (2, "INT"), (3, "QUIT"), (10, "USR1"), (12, "USR2"), (14, "ALRM")];
        for (number, name) in numbers {
            client.send(
                [
                    &input("some input\n")[..],
                    &header(40, 100),
                    &header(65535, number),
                    &input("more\n"),
                    &header(90, 101),
                ]
                .concat(),
            );
            let output = client.read_until(&format!("got-{name}."));
            assert_eq!(output.matches("got-").count(), 1, "after {name}: {output:?}");
        }
        client.send([header(0, 15), header(0, 0)].concat());
        let rest = client.text_to_end();
        assert_eq!(rest.matches("got-").count(), numbers.len() + 1, "{rest:?}");
        assert!(rest.trim_end().ends_with("got-TERM."), "{rest:?}");
    });
}

/// INT, QUIT and TSTP go to the foreground job, as from a keyboard; others to
/// the session's own process.
#[test]
fn signals_reach_the_foreground_job_or_the_session_leader() {
    const JOB: &str = "#!/bin/sh
        for s in INT QUIT USR1; do trap \"echo job-$s.\" $s; done
        trap 'echo job-TSTP.; kill $!; exit' TSTP
        sleep 1000 &
        echo 'job-ready.'
        while :; do wait; done";
    in_process(|flavor| {
        let server = Setup::new(flavor).file("job", JOB).uwsgi();
        let mut client = server.connect("u");
        let shell = "trap 'echo shell-US''R1.' USR1; trap 'echo shell-I''NT.' INT";
        client.input(format!("{shell}; {}\n", server.path("job")));
        client.read_until("job-ready.");
        client.send(header(0, 10));
        for (number, name) in [(2, "INT"), (3, "QUIT"), (20, "TSTP")] {
            client.send(header(0, number));
            client.read_until(&format!("job-{name}."));
        }
        // The shell runs its trap when its foreground job has ended.
        client.read_until("shell-USR1.");
        client.input("exit\n");
        let all = client.text_to_end();
        assert!(!all.contains("job-USR1."), "USR1 is the shell's: {all:?}");
        assert!(!all.contains("shell-INT."), "INT is the job's: {all:?}");
    });
}

#[test]
fn unknown_modifiers_are_ignored() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(MIRROR).uwsgi();
        let mut client = server.connect("u");
        client.read_until("ready");
        client.input("a");
        for modifier2 in 102..=255 {
            for size in [0, 1, 65535] {
                client.send(header(size, modifier2));
            }
        }
        client.input("b");
        client.input("c");
        assert!(client.read_until("abc").ends_with("\nabc"), "and nothing else");
    });
}

/// An old client's first packet may be anything.
#[test]
fn an_unknown_modifier_may_come_first() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(MIRROR).uwsgi();
        for modifier2 in [103, 200, 255] {
            let mut client = server.connect("u");
            client.send(header(9, modifier2));
            client.read_until("ready");
            client.input("abc");
            client.read_until("abc");
        }
    });
}

#[test]
fn random_bytes_harm_no_other_session() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script(MIRROR)
            .option("forkpty-router", "{dir}/s")
            .option("forkpty-urouter", "{dir}/u")
            .start();
        let gateway = server.gateway();
        let mut bystander = server.connect("u");
        bystander.read_until("ready");
        for seed in 1..=20 {
            for socket in ["s", "u"] {
                let client = server.connect(socket);
                client.flood(&noise(seed, 5000), std::time::Duration::from_millis(20));
                if seed % 2 == 0 {
                    client.end_of_input();
                }
            }
            bystander.input(format!("still here {seed};"));
            bystander.read_until(&format!("still here {seed};"));
        }
        assert_eq!(server.gateway(), gateway, "the gateway did not end");
        assert_eq!(server.count_in_log("internal error"), 0);
    });
}

#[test]
fn the_size_is_set_at_the_start_and_on_change() {
    in_process(|flavor| {
        // Without -s, a shell that was stopped in the midst of a line.
        let script = "trap 'stty size' WINCH; stty size; sleep 1000 & while :; do wait; done";
        let server = Setup::new(flavor)
            .script(script)
            .option("forkptyrouter-rows", "30")
            .option("forkptyrouter-cols", "132")
            .uwsgi();
        let mut client = server.connect("u");
        client.read_until("30 132\r\n");
        client.resize(50, 200);
        client.read_until("50 200\r\n");
        // One dimension alone keeps the other.
        client.send(header(51, 100));
        client.read_until("51 200\r\n");
        client.send(header(65535, 101));
        client.read_until("51 65535\r\n");
        drop(server);

        let server = Setup::new(flavor).script("stty size").raw();
        assert_eq!(server.connect("s").text_to_end(), "24 80\r\n");
    });
}
