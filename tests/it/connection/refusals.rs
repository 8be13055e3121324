//! A refusal is told beside the terminal's output, and to a script by a word of its own.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::client::{MODES, Mode, Pipes, client};
use crate::harness::ports::free_port;
use crate::harness::{Setup, on_one_server, servers};

#[test]
fn a_refusal_by_rule_is_told_beside_the_terminal() {
    on_one_server(|flavor| {
        let (raw, uwsgi) = (free_port(), free_port());
        let denied =
            |port| format!("addr=127.0.0.1:{port},allow_command=true,deny_addr=127.0.0.0/8");
        let _server = Setup::new(flavor)
            .option("forkpty-router2", &denied(raw))
            .option("forkpty-urouter2", &denied(uwsgi))
            .start();
        let (raw, uwsgi) = (format!("127.0.0.1:{raw}"), format!("127.0.0.1:{uwsgi}"));
        for arguments in [
            &["-r", &raw][..],
            &[&uwsgi],
            &["-t", &uwsgi, "true"],
            &["-T", &uwsgi, "true"],
            &["-a", "x", &uwsgi],
        ] {
            let mut fpty = Command::new(servers::fpty());
            fpty.arg("--status-json").args(arguments);
            let ended = Pipes::reading(fpty, Stdio::null()).finish();
            assert_eq!(
                (ended.status.code(), &ended.stdout[..]),
                (Some(255), &b""[..]),
                "{ended:?}"
            );
            let lines: Vec<&str> = ended.stderr.lines().collect();
            assert_eq!(lines.len(), 2, "{ended:?}");
            assert_eq!(lines[0], "fpty: session refused: not permitted");
            let json: Value = serde_json::from_str(lines[1]).expect("JSON");
            assert_eq!(json["kind"], "refused");
            assert_eq!(json["text"], "session refused: not permitted");
        }
        for mode in MODES {
            let address = if mode == Mode::Raw { &raw } else { &uwsgi };
            let ended = Pipes::reading(client(flavor, mode, address), Stdio::null()).finish();
            assert_eq!(ended.status.code(), Some(255), "{ended:?}");
            assert_eq!(ended.stdout, b"", "{ended:?}");
            assert!(ended.stderr.contains("[pty] session refused: not permitted\n"), "{ended:?}");
        }
    });
}
