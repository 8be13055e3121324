//! A server whose first worker has a shared terminal (`--pty-socket`).

use std::fmt::Write as _;

use super::process;
use super::{Flavor, Server, Setup, Wire, wait_until};

/// A server with the terminal's socket `p`, and a socket `h` for requests.
pub fn shared(flavor: &Flavor) -> Setup {
    Setup::bare(&flavor.name, &flavor.binary)
        .plugin(&flavor.plugins, "pty")
        .option("pty-socket", "{dir}/p")
        .option("http-socket", "{dir}/h")
        .env("TERM", "xterm")
        .killed_at_end()
}

/// Starts it and waits for the terminal.
#[track_caller]
pub fn start(setup: Setup) -> Server {
    let server = setup.launch();
    server.wait_for_log("pty server ");
    // Said before the terminal is the worker's.
    wait_until("the worker is ready", || is_ready(worker(&server)));
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

/// Whether a worker waits for requests: only then it has its signal handlers
/// and all of its descriptors.
pub fn is_ready(worker: i32) -> bool {
    let open = process::descriptors(worker);
    open.iter().any(|(_, to)| to.as_os_str() == "anon_inode:[eventpoll]")
}

/// Sends the worker a request and returns its answer. Without a language it
/// has none; it hangs up then, after a line on its terminal.
#[track_caller]
pub fn request(server: &Server, path: &str) -> String {
    let mut wire = server.connect("h");
    wire.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
    wire.text_to_end()
}

/// Lines that a worker without an application prints for a request.
pub const REQUEST_SEEN: &str = "unavailable modifier requested: 0";
pub const REQUEST_SEEN_BY_PYTHON: &str = "no python application found";

/// Waits until a client sees that the worker had a request.
#[track_caller]
pub fn request_is_seen(server: &Server, client: &mut Wire) {
    let from = client.seen().len();
    request(server, "/");
    client.read_while("the worker's line of the request", |seen| {
        let text = String::from_utf8_lossy(&seen[from..]);
        (text.contains(REQUEST_SEEN) || text.contains(REQUEST_SEEN_BY_PYTHON))
            && text.ends_with('\n')
    });
}

/// The worker's descriptors, for a person.
pub fn describe_descriptors(pid: i32) -> String {
    process::descriptors(pid).iter().fold(String::new(), |mut text, (number, to)| {
        let _ = writeln!(text, "  {number} {}", to.display());
        text
    })
}

/// A client at the terminal.
#[track_caller]
pub fn join(server: &Server) -> Wire {
    server.connect("p")
}
