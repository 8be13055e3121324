//! The audit's lines where the reference sends them: to a log of their own, and
//! a command for each refused session.

use std::path::Path;
use std::process::Command;

use crate::harness::servers::C_PLUGINS;
use crate::harness::{Flavor, Setup, documents, on_every_server, wait_until};

/// Whether a server has regular expressions.
fn can_route(flavor: &Flavor) -> bool {
    let help = Command::new(&flavor.binary).arg("--help").output().unwrap().stdout;
    let can = String::from_utf8_lossy(&help).contains("--log-route");
    if !can {
        eprintln!("skipped: this server was built without regular expressions");
    }
    can
}

/// The reference's example, with files of our own.
fn example(setup: &Setup) -> String {
    let document = documents::read("docs/options-audit.md");
    let blocks = document.blocks("ini");
    let (_, example) =
        blocks.iter().find(|(_, body)| body.contains("log-route")).expect("an example");
    example
        .replace("/var/log/uwsgi/audit.log", &setup.path("audit.log"))
        .replace("/usr/local/sbin/on-refusal", &setup.path("on-refusal"))
}

#[test]
fn audit_lines_go_to_their_own_logger_and_refusals_to_a_command() {
    on_every_server(|flavor| {
        if !can_route(flavor) {
            return;
        }
        let mut setup = Setup::new(flavor)
            .file("on-refusal", "#!/bin/sh\ncat >>'{dir}/refusals'\n")
            .option("forkptyrouter-audit", "json")
            .script("exit 0");
        if flavor.is_debian() {
            setup = setup.plugin(Path::new(C_PLUGINS), "logfile");
        }
        let example = example(&setup);
        let server = setup.ini(&example).raw();
        server.connect("s").read_to_end();
        std::fs::remove_file(server.path("script")).unwrap();
        let text = |name: &str| std::fs::read_to_string(server.path(name)).unwrap_or_default();
        for count in 1..=3 {
            // Of lines that are equal, as in one millisecond, the server tells
            // its alarm once.
            server.connect("s").read_to_end();
            wait_until("the command has run", || text("refusals").lines().count() == count);
        }
        wait_until("all are in their log", || text("audit.log").lines().count() == 5);
        assert!(text("audit.log").lines().all(|line| line.starts_with("forkptyrouter-audit: {")));
        assert!(text("refusals").lines().all(|line| line.contains("\"event\":\"refused\"")));
        assert!(!server.log().contains("forkptyrouter-audit"), "{}", server.log());
        server.wait_for_log("session refused");
    });
}
