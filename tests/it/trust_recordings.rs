//! Recordings tell the truth: nothing goes past one, and nothing of it is lost
//! without a word.

use std::fs;

use nix::sys::signal::Signal;

use crate::extended::{open, to_the_end};
use crate::harness::client::{Mode, fpty};
use crate::harness::leaver::Leaver;
use crate::harness::{on_every_server, process, wait_until};
use crate::recordings::{Cast, ends, record, recorded};

/// The variables of a client that can leave, and takes terminals.
const LEAVES: [(&str, &str); 3] = [("fpty.detach", "1"), ("fpty.take", "1"), ("fpty.name", "job")];

#[test]
fn a_session_that_could_be_left_is_recorded_to_its_end() {
    on_every_server(|flavor| {
        for handover in ["true", "false"] {
            let server = recorded(flavor)
                // Long after its terminal would have been offered.
                .script("stty raw -echo; printf ready; sleep 0.3; seq 1 1000; exit 3")
                .option("forkptyrouter-detach", "5")
                .option("forkptyrouter-handover", handover)
                .start();
            for variables in [&LEAVES[..], &LEAVES[1..2], &[]] {
                let count = ends(&server).len();
                let mut client = server.connect("u");
                open(&client, variables);
                // No offer among what was said.
                let said = to_the_end(&mut client);
                assert_eq!(said.ended, [(0, 3, String::new())]);
                let is_named = variables.len() == 3;
                assert_eq!(said.notices.len(), usize::from(is_named), "{:?}", said.notices);
                assert!(said.notices.iter().all(|line| line.contains("it is recorded")));
                let record = record(&server, count + 1);
                let cast = Cast::read(record["path"].as_str().expect("a path"));
                cast.check(&record);
                assert_eq!(cast.all("o").as_bytes(), said.output);
                assert_eq!((cast.total("dropped"), cast.all("x").as_str()), ("0", "3"));
            }
        }
    });
}

#[test]
fn a_command_without_a_terminal_is_refused_where_nothing_goes_unrecorded() {
    on_every_server(|flavor| {
        let other = "addr={dir}/skips,record=yes,record_commands=skip";
        let all = "addr={dir}/refuses,record=yes,record_on_error=continue,record_commands=refuse";
        let server = recorded(flavor)
            .script("echo configured")
            .option("forkptyrouter-allow-command", "true")
            .option("forkptyrouter-record-on-error", "close")
            .option("forkpty-urouter2", other)
            .option("forkpty-urouter2", all)
            .start();
        for (socket, runs) in [("u", false), ("skips", true), ("refuses", false)] {
            let mut fpty = fpty(Mode::Uwsgi, &server.path(socket));
            let done = fpty.args(["-T", "echo ran; exit 5"]).output().expect("fpty");
            let error = String::from_utf8_lossy(&done.stderr);
            let wanted: (Option<i32>, &[u8]) =
                if runs { (Some(5), b"ran\n") } else { (Some(255), b"") };
            assert_eq!((done.status.code(), &done.stdout[..]), wanted, "{socket}: {error}");
            assert_eq!(error.contains("forkptyrouter-record-commands"), !runs, "{error}");
        }
        assert_eq!(server.count_in_log("\"event\":\"refused\""), 2);
    });
}

/// Recordings are turned on while sessions go on that are in none.
#[test]
fn what_began_before_recordings_ends_or_is_said_to_go_on() {
    on_every_server(|flavor| {
        for on_error in ["close", "continue"] {
            let server = crate::harness::client::both(crate::harness::Setup::new(flavor))
                .option("forkptyrouter-detach", "5")
                .option("forkptyrouter-record-on-error", on_error)
                .ini("\n")
                .start();
            let mut attached = Leaver::begins(&server, &[]).takes();
            attached.terminal().send("\n");
            attached.terminal().read_until("$ ");
            let left = Leaver::begins(&server, &[("fpty.name", "left")]).takes();
            left.leaves();
            let ini = format!("[uwsgi]\nforkptyrouter-record = {}\n", server.path("r"));
            fs::write(server.path("server.ini"), ini).expect("a file");
            process::signal(server.master(), Signal::SIGHUP);
            wait_until("it has reloaded", || server.count_in_log("sessions at once") == 2);
            if on_error == "continue" {
                assert_eq!(server.count_in_log("is not recorded: it began before recordings"), 2);
                continue;
            }
            assert_eq!(server.count_in_log("ends: it began before recordings did"), 2);
            let (_, _, why) = attached.ended();
            assert!(why.contains("it cannot be recorded: it began before"), "{why}");
            wait_until("their programs end", || server.programs().is_empty());
        }
    });
}
