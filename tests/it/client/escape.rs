//! Escapes, which a person types to the client itself: `~.` and its like.

use crate::harness::client::{MODES, Pipes, Seat, both, client_of};
use crate::harness::{Setup, on_one_server};

/// Says so when it is there, and repeats what it reads.
const ECHOES: &str = "stty raw -echo; echo ready; exec cat";

#[test]
fn an_escape_counts_after_a_newline_only() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        for mode in MODES {
            let mut seat = Seat::attached(&client_of(flavor, &server, mode));
            let wire = &mut seat.terminal.wire;
            wire.read_until("ready\n");
            wire.send("a~.b~?c~~d;");
            assert_eq!(wire.read_until("d;"), "a~.b~?c~~d;", "{mode:?}");
            // A tilde is one, and two are one.
            wire.send("\r~x;");
            assert_eq!(wire.read_until("x;"), "\r~x;", "{mode:?}");
            wire.send("\r~~.;");
            assert_eq!(wire.read_until(".;"), "\r~.;", "{mode:?}");
            // Key by key.
            wire.send("\r");
            wire.read_until("\r");
            wire.send("~");
            assert!(wire.is_silent_for(std::time::Duration::from_millis(50)), "it may be one");
            wire.send(".");
            let (status, said) = seat.back_at_the_shell();
            assert_eq!(status, 0, "{mode:?}: {said:?}");
        }
    });
}

#[test]
fn the_escape_help_is_for_the_person_only() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        for mode in MODES {
            let mut seat = Seat::attached(&client_of(flavor, &server, mode));
            let wire = &mut seat.terminal.wire;
            wire.read_until("ready\n");
            wire.send("~?after;");
            let said = wire.read_until("after;");
            for escape in ["~.", "~?", "~~", "~^Z"] {
                assert_eq!(said.matches(escape).count(), 1, "{mode:?}: {said:?}");
            }
            // Lines of a raw terminal.
            assert!(!said.replace("\r\n", "").contains('\n'), "{said:?}");
            wire.send("\r~.");
            assert_eq!(seat.back_at_the_shell().0, 0);
        }
    });
}

#[test]
fn escapes_can_be_turned_off() {
    on_one_server(|flavor| {
        let script = "stty raw -echo; echo ready; head -c 9 | od -An -c";
        let server = both(Setup::new(flavor).script(script)).start();
        for mode in MODES {
            let mut client = client_of(flavor, &server, mode);
            client.arg("--pty-no-escape");
            let mut seat = Seat::attached(&client);
            seat.terminal.wire.read_until("ready\n");
            seat.terminal.wire.send("~.\r~?\r~~;");
            let (status, said) = seat.back_at_the_shell();
            assert_eq!(status, 0, "{said:?}");
            let squeezed = said.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
            assert!(squeezed.contains(r"~ . \r ~ ? \r ~ ~ ;"), "{mode:?}: {said:?}");
        }
    });
}

#[test]
fn a_pipe_has_no_escapes() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script(ECHOES)).start();
        for mode in MODES {
            let mut client = Pipes::open(client_of(flavor, &server, mode));
            client.stdout.read_until("ready\n");
            client.send("~.\n~.\r~?\n~~\n~\x1a;");
            assert_eq!(client.stdout.read_until(";"), "~.\n~.\r~?\n~~\n~\x1a;", "{mode:?}");
        }
    });
}
