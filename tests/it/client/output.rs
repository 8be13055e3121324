//! Where the client's output goes: readers that leave, and files that take no
//! more.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::client::{both, clients_of, own_lines, wrapped};
use crate::harness::process::Process;
use crate::harness::{Setup, Wire, on_one_server, wait_until};

/// Runs it to its end; its status and standard error.
#[track_caller]
fn ended(mut command: Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A socket pair, as node.js gives its children, whose other end closes while
/// the program is silent.
#[test]
fn a_reader_that_closes_its_socket_ends_the_client() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script("trap '' HUP; echo ready; sleep 1000")).start();
        for input_too in [false, true] {
            for (mode, mut client) in clients_of(flavor, &server) {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let copy = OwnedFd::from(theirs.try_clone().unwrap());
                client.stdout(OwnedFd::from(theirs)).stderr(Stdio::null());
                match input_too {
                    true => client.stdin(copy),
                    false => client.stdin(Stdio::piped()),
                };
                let mut child = client.spawn().unwrap();
                // The copies of the child's end that are ours.
                client.stdin(Stdio::null()).stdout(Stdio::null());
                let mut wire = Wire::over(ours.into(), "the client");
                wire.read_until("ready\r\n");
                drop(wire);
                let mut status = None;
                wait_until("the client ends", || {
                    status = child.try_wait().unwrap();
                    status.is_some()
                });
                let status = status.unwrap().code();
                assert_eq!(status, Some(141), "{mode:?}, input, too: {input_too}");
            }
        }
    });
}

/// A peer that only writes no more is one that still reads.
#[test]
fn a_reader_that_half_closes_stays() {
    on_one_server(|flavor| {
        let script = "echo ready; sleep 0.5; echo late";
        let server = both(Setup::new(flavor).script(script)).start();
        for (_, mut client) in clients_of(flavor, &server) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let copy = OwnedFd::from(theirs.try_clone().unwrap());
            client.stdin(copy).stdout(OwnedFd::from(theirs)).stderr(Stdio::null());
            let mut child = client.spawn().unwrap();
            client.stdin(Stdio::null()).stdout(Stdio::null());
            ours.shutdown(std::net::Shutdown::Write).unwrap();
            let mut wire = Wire::over(ours.into(), "the client");
            assert_eq!(wire.text_to_end(), "ready\r\nlate\r\n");
            assert!(child.wait().unwrap().success());
        }
    });
}

/// While its output is not taken and the server is gone it rests.
#[test]
fn a_client_whose_server_is_gone_rests_until_it_is_read() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script("stty -opost; exec seq 1 30000")).start();
        for (mode, mut client) in clients_of(flavor, &server) {
            client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = client.spawn().unwrap();
            let pid = child.id() as i32;
            let ticks = || Process::of(pid).unwrap().ticks;
            wait_until("the client is at rest", || {
                let before = ticks();
                std::thread::sleep(Duration::from_millis(300));
                ticks() == before
            });
            let mut out = Wire::over(OwnedFd::from(child.stdout.take().unwrap()), "the client");
            let bytes = out.read_to_end();
            crate::harness::assert_same(&bytes, &crate::harness::sequence(30_000));
            assert!(child.wait().unwrap().success(), "{mode:?}");
        }
    });
}

#[test]
fn a_full_output_file_is_an_error() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script("exec seq 1 100000")).start();
        let file = server.path("out");
        let limited = format!("ulimit -f 8; exec \"$@\" > {file}");
        for (redirection, why) in [
            ("exec \"$@\" > /dev/full", "No space left on device"),
            (&limited, "File too large"),
            ("exec \"$@\" 1< /dev/null", "Bad file descriptor"),
        ] {
            for (mode, client) in clients_of(flavor, &server) {
                let (status, said) = ended(wrapped(redirection, &client));
                let lines = own_lines(&said);
                assert_eq!((status, lines.len()), (Some(254), 1), "{redirection} {mode:?} {said}");
                assert!(lines[0].contains(why), "{redirection} {mode:?} {said}");
            }
        }
        let whole = File::open(&file).unwrap().metadata().unwrap().len();
        assert!(whole >= 4096, "what there was room for is there: {whole}");
    });
}
