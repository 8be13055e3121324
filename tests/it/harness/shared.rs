//! A server whose first worker has a shared terminal (`--pty-socket`).

use std::fmt::Write as _;

use super::process;
use super::{Flavor, Server, Setup, Wire, wait_until};

/// A server with the terminal's socket `p`, and a socket `h` where its worker
/// answers a request for `/file`.
pub fn shared(flavor: &Flavor) -> Setup {
    Setup::bare(&flavor.name, &flavor.binary)
        .plugin(&flavor.plugins, "pty")
        .option("pty-socket", "{dir}/p")
        .option("http-socket", "{dir}/h")
        .file("file", "the worker answers\n")
        .option("static-map", "/file={dir}/file")
        .env("TERM", "xterm")
}

/// Starts it and waits for the terminal.
#[track_caller]
pub fn start(setup: Setup) -> Server {
    let server = setup.launch();
    server.wait_for_log("pty server ");
    // Said before the terminal is the worker's.
    worker(&server);
    server
}

/// The first worker: the one that holds a terminal's master.
#[track_caller]
pub fn worker(server: &Server) -> i32 {
    let has_terminal =
        |pid| process::descriptors(pid).iter().any(|(_, to)| to.to_string_lossy().contains("ptmx"));
    let mut pid = 0;
    wait_until("a worker has the terminal", || {
        let workers = process::children(server.master());
        pid = workers.iter().find(|worker| has_terminal(worker.pid)).map_or(0, |found| found.pid);
        pid != 0
    });
    pid
}

/// Asks the worker for the file; `None` when it does not answer.
pub fn request(server: &Server, path: &str) -> String {
    let mut wire = server.connect("h");
    wire.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
    wire.text_to_end()
}

/// That the worker answers.
#[track_caller]
pub fn assert_answers(server: &Server) {
    let answer = request(server, "/file");
    assert!(answer.contains("the worker answers"), "{answer:?}");
}

/// The worker's descriptors, for a person.
pub fn describe_descriptors(pid: i32) -> String {
    process::descriptors(pid).iter().fold(String::new(), |mut text, (number, to)| {
        let _ = writeln!(text, "  {number} {}", to.display());
        text
    })
}

/// Somebody at the terminal.
#[track_caller]
pub fn join(server: &Server) -> Wire {
    server.connect("p")
}
