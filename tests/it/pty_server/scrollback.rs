//! Scrollback of a shared terminal for clients that come late, and for clients that may
//! only view.

use std::time::Duration;

use crate::harness::pty_server::{join, shared, start};
use crate::harness::{Server, Wire, assert_same, on_every_server, on_one_server, sequence};

/// A program that prints this much, and then repeats what it reads.
const PRINTS: &str = "stty -echo -opost; seq 1 30000; echo ready; exec cat";

/// Waits until everything was printed, and returns how much of it was.
#[track_caller]
fn printed(server: &Server) -> Vec<u8> {
    let mut first = join(server);
    first.send("marker\n");
    first.read_until("marker\n");
    [sequence(30_000), b"ready\nmarker\n".to_vec()].concat()
}

/// Output that a new client is shown; it ends with `marker`.
#[track_caller]
fn shown(server: &Server) -> Vec<u8> {
    let mut late = join(server);
    late.read_while("the scrollback", |seen| seen.ends_with(b"marker\n")).to_vec()
}

#[test]
fn the_last_64_kilobytes_are_shown_from_the_beginning_of_a_line() {
    on_one_server(|flavor| {
        let server = start(shared(flavor).option("pty-exec", PRINTS));
        let all = printed(&server);
        let shown = shown(&server);
        assert_same(&shown, &all[all.len() - shown.len()..]);
        assert_eq!(all[all.len() - shown.len() - 1], b'\n', "it begins at a line");
        assert!((65_500..=65_536).contains(&shown.len()), "{} bytes", shown.len());
        // Each one anew, and what comes then.
        let mut late = join(&server);
        late.read_until("marker\n");
        late.send("more\n");
        assert_eq!(late.read_until("more\n"), "more\n");
    });
}

#[test]
fn all_output_is_shown_where_there_is_room() {
    on_every_server(|flavor| {
        let setup = shared(flavor).option("pty-exec", PRINTS).option("pty-scrollback", "1000000");
        let server = start(setup);
        let all = printed(&server);
        let shown = shown(&server);
        // The worker's own first words come before the program's.
        assert_same(&shown[shown.len().saturating_sub(all.len())..], &all);
    });
}

#[test]
fn a_small_scrollback_is_kept() {
    on_one_server(|flavor| {
        let setup = shared(flavor).option("pty-exec", PRINTS).option("pty-scrollback", "32");
        let server = start(setup);
        printed(&server);
        // 32 bytes reach into the middle of a line.
        assert_eq!(
            String::from_utf8_lossy(&shown(&server)),
            "29998\n29999\n30000\nready\nmarker\n"
        );
    });
}

#[test]
fn without_scrollback_nothing_is_shown() {
    on_one_server(|flavor| {
        let setup = shared(flavor).option("pty-exec", PRINTS).option("pty-scrollback", "0");
        let server = start(setup);
        let mut first = join(&server);
        first.send("marker\n");
        first.read_until("marker\n");
        let mut late = join(&server);
        assert!(late.is_silent_for(Duration::from_millis(100)));
        first.send("now\n");
        assert_eq!(late.read_until("now\n"), "now\n");
    });
}

/// Queries of a program are for the terminals that were there: a late one would type its
/// answer at whatever runs now.
#[test]
fn queries_are_not_shown_again() {
    on_one_server(|flavor| {
        let setup = shared(flavor).option("pty-exec", "stty raw -echo; echo ready; exec cat");
        let server = start(setup);
        let mut first = join(&server);
        first.read_until("ready\n");
        let asked = "a\x1b[6n\x1b[>c\x1b]11;?\x07\x1b]52;c;QQ==\x07\x1bP+q544e\x1b\\\x05\x1b[1mb\n";
        first.send(asked);
        assert_eq!(first.read_until("b\n"), asked, "live");
        let mut late = join(&server);
        late.read_until("ready\n");
        assert_eq!(late.read_until("b\n"), "a\x1b[1mb\n");
        // Nor is one that has begun when somebody comes.
        let mut before = String::from("b\n");
        for (begun, rest, seen) in [
            ("\x1b[", "6n|", "|"),
            ("\x1b]52;", "c;QQ==\x07|", "|"),
            ("\x1b[", "31m|", "\x1b[31m|"),
        ] {
            first.send(begun);
            first.read_until(begun);
            let mut late = join(&server);
            late.read_until(&before);
            first.send(rest);
            first.read_until("|");
            assert_eq!(late.read_until("|"), seen);
            before.push_str(seen);
        }
    });
}

#[test]
fn an_invalid_size_ends_the_start() {
    on_every_server(|flavor| {
        let ended = shared(flavor).option("pty-scrollback", "lots").run();
        assert!(!ended.status.success(), "{ended:?}");
        let line = ended.log.lines().find(|line| line.contains("pty-scrollback"));
        assert!(line.is_some_and(|line| line.contains("lots")), "{}", ended.log);
    });
}

#[test]
fn viewers_see_and_cannot_type() {
    on_one_server(|flavor| {
        let setup = shared(flavor).option("pty-readonly-socket", "{dir}/watch");
        let server = start(setup.option("pty-exec", "stty -echo; echo ready; exec cat"));
        let mut watcher = server.connect("watch");
        watcher.read_until("ready\r\n");
        let mut typist = join(&server);
        typist.read_until("ready\r\n");
        // Not even by much of it, at once or bit by bit.
        watcher.send("from the watcher\n");
        assert!(watcher.flood(&vec![b'x'; 1_000_000], Duration::from_secs(5)) == 1_000_000);
        watcher.send("\n");
        typist.send("from the typist\n");
        for client in [&mut typist, &mut watcher] {
            assert_eq!(client.read_until("\r\n"), "from the typist\r\n");
        }
        assert!(typist.is_silent_for(Duration::from_millis(100)), "nothing of the watcher's");
        // A late watcher has the scrollback, too.
        let mut late: Wire = server.connect("watch");
        late.read_until("from the typist\r\n");
    });
}

/// Watching is all that is to be had there.
#[test]
fn a_readonly_socket_alone_serves() {
    on_one_server(|flavor| {
        let setup = crate::harness::Setup::bare(&flavor.name, &flavor.binary)
            .plugin(&flavor.plugins, "pty")
            .option("pty-readonly-socket", "{dir}/watch")
            .option("http-socket", "{dir}/h")
            .option("pty-exec", "while sleep 0.05; do echo tick; done");
        let server = start(setup);
        let mut watcher = server.connect("watch");
        watcher.read_until("tick\r\ntick\r\n");
    });
}
