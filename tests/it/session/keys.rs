//! Packets that are a terminal's keys (INT, QUIT, TSTP): the terminal itself
//! does what they do, as for a person who sits at it.

use crate::harness::wire::{header, input};
use crate::harness::{Server, Setup, Wire, in_process, wait_until};

const INT: u8 = 2;

fn shell(server: &Server) -> Wire {
    let mut client = server.connect("u");
    client.resize(24, 80);
    client.read_until("$ ");
    client
}

#[track_caller]
fn wait_for_sleep(server: &Server) {
    wait_until("the job sleeps in the foreground", || {
        server.session_processes().iter().any(|process| {
            process.name == "sleep" && process.state == 'S' && process.foreground == process.group
        })
    });
}

/// Input that was typed ahead is cancelled, too, be it a line or a flood.
#[test]
fn an_interrupt_key_drops_unread_input() {
    in_process(|flavor| {
        let server = Setup::new(flavor).uwsgi();
        let mut client = shell(&server);
        let long = "echo R''AN\n".repeat(4_000);
        for ahead in ["echo R''AN\n", &long] {
            client.input("sleep 1000\n");
            wait_for_sleep(&server);
            client.flood(
                &ahead.as_bytes().chunks(60_000).flat_map(input).collect::<Vec<u8>>(),
                std::time::Duration::from_millis(200),
            );
            client.send(header(0, INT));
            client.input("echo \"=$?=\"\n");
            let output = client.read_until("=130=");
            assert!(!output.contains("RAN"), "{:?}", &output[output.len().saturating_sub(300)..]);
            assert!(output.contains("^C"), "the terminal shows the key");
            client.read_until("$ ");
        }
    });
}

/// Ctrl-S stops the output; Ctrl-C starts it again.
#[test]
fn an_interrupt_key_restarts_stopped_output() {
    in_process(|flavor| {
        let server = Setup::new(flavor).uwsgi();
        let mut client = shell(&server);
        client.input("sleep 1000\n");
        wait_for_sleep(&server);
        client.input("\x13");
        client.send(header(0, INT));
        client.input("echo al''ive\n");
        client.read_until("alive\r\n");
    });
}

#[test]
fn a_raw_program_reads_the_key_as_a_byte() {
    in_process(|flavor| {
        for (settings, byte) in [("raw", "03"), ("raw intr ^X", "18"), ("-icanon -isig", "03")] {
            let script =
                format!("stty -echo {settings}; echo ready; head -c 3 | od -An -tx1; echo end");
            let server = Setup::new(flavor).script(&script).uwsgi();
            let mut client = server.connect("u");
            client.resize(24, 80);
            client.read_until("ready");
            client.send([&input("a")[..], &header(0, INT), &input("b")].concat());
            let output = client.read_until("end");
            assert!(output.contains(&format!("61 {byte} 62")), "{settings}: {output:?}");
        }
    });
}

/// A terminal that has no such key, and a program that reads its own.
#[test]
fn a_terminal_without_the_key_gets_a_signal() {
    in_process(|flavor| {
        let script = "stty -echo intr undef; trap 'echo got-INT; exit 3' INT; echo ready; \
                      while :; do sleep 0.05; done";
        let server = Setup::new(flavor).script(script).uwsgi();
        let mut client = server.connect("u");
        client.resize(24, 80);
        client.read_until("ready");
        client.send(header(0, INT));
        client.read_until("got-INT");
    });
}
