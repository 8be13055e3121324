//! Surroundings of a session's program: its terminal, its descriptors, its signals, its
//! environment.

use crate::harness::process::{self, Process};
use crate::harness::{Server, Setup, in_process, on_every_server, wait_until};

/// The one program of a server, once it is executed.
#[track_caller]
fn program_named(server: &Server, name: &str, count: usize) -> Vec<Process> {
    let mut found = Vec::new();
    wait_until(&format!("{count} programs {name} run"), || {
        found = server.programs();
        found.retain(|program| program.name == name);
        found.len() == count
    });
    found
}

/// Seen from outside, while the server has other sessions, statistics and
/// sockets open.
#[test]
fn a_program_has_its_terminal_and_no_other_descriptor() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor)
            .option("forkptyrouter-command", "/bin/cat")
            .option("forkpty-router", "{dir}/s")
            .option("forkpty-urouter", "{dir}/u")
            .option("forkptyrouter-stats", "{dir}/stats")
            .option("socket", "{dir}/other")
            .start();
        let _sessions = [server.connect("s"), server.connect("u"), server.connect("s")];
        for program in program_named(&server, "cat", 3) {
            let open = process::descriptors(program.pid);
            let numbers: Vec<u32> = open.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, [0, 1, 2], "{open:?}");
            assert!(open.iter().all(|(_, to)| to == &open[0].1), "one terminal: {open:?}");
            assert!(open[0].1.starts_with("/dev/pts"), "{open:?}");
        }
    });
}

/// 32 and 33 included, the C library's own: its posix_spawn leaves them
/// ignored in whatever it starts (cargo, this test, the server).
#[test]
fn a_program_starts_with_every_signal_at_its_default() {
    in_process(|flavor| {
        let server = Setup::new(flavor).option("forkptyrouter-command", "/bin/cat").raw();
        let _session = server.connect("s");
        for program in program_named(&server, "cat", 1) {
            for mask in ["SigIgn", "SigBlk", "SigPnd", "ShdPnd", "SigCgt"] {
                let signals = process::signals(program.pid, mask).expect("the program runs");
                assert_eq!(signals, 0, "{mask}: {signals:x}");
            }
        }
    });
}

#[test]
fn a_program_leads_a_session_on_its_controlling_terminal() {
    in_process(|flavor| {
        let server = Setup::new(flavor).option("forkptyrouter-command", "/bin/cat").raw();
        let _session = server.connect("s");
        for program in program_named(&server, "cat", 1) {
            assert_eq!(program.session, program.pid, "{program:?}");
            assert_eq!(program.group, program.pid, "{program:?}");
            assert_ne!(program.terminal, 0, "{program:?}");
            assert_eq!(program.foreground, program.pid, "in the foreground: {program:?}");
        }
        let gateway = Process::of(server.gateway()).unwrap();
        assert_eq!(gateway.terminal, 0, "the gateway did not get one by accident: {gateway:?}");
        drop(server);

        let server = Setup::new(flavor).script("tty; : > /dev/tty && echo has-it").raw();
        let output = server.connect("s").text_to_end();
        assert!(output.starts_with("/dev/pts/") && output.contains("has-it"), "{output:?}");
    });
}

#[test]
fn a_program_has_a_term() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script("echo \"TERM is <$TERM>\"").raw();
        let output = server.connect("s").text_to_end();
        assert!(output.contains("TERM is <") && !output.contains("<>"), "{output:?}");
        drop(server);

        let setup = Setup::new(flavor).env("TERM", "vt220").env("GREETING", "hello");
        let server = setup.script("echo \"$TERM $GREETING\"").raw();
        assert_eq!(server.connect("s").text_to_end(), "vt220 hello\r\n");
    });
}

/// Limits that the server has for itself do not apply to a session.
#[test]
fn a_program_has_the_servers_limits_not_the_gateways() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script("echo \"$(ulimit -Sn) of $(ulimit -Hn)\"").raw();
        let output = server.connect("s").text_to_end();
        let master = std::fs::read_to_string(format!("/proc/{}/limits", server.master())).unwrap();
        let line = master.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let limit: Vec<&str> = line.split_ascii_whitespace().collect();
        assert_eq!(output, format!("{} of {}\r\n", limit[3], limit[4]));
    });
}

/// A backspace takes a character, not a byte.
#[test]
fn a_backspace_erases_a_whole_character() {
    in_process(|flavor| {
        let server =
            Setup::new(flavor).script("stty -echo; echo ready; read l; echo \"<$l>\"").raw();
        let mut client = server.connect("s");
        client.read_until("ready\r\n");
        client.send("aü\x7fb\n");
        client.read_until("<ab>\r\n");
    });
}

#[test]
fn a_command_with_a_blank_goes_through_the_shell() {
    in_process(|flavor| {
        let command = "echo one two | tr a-z A-Z; tty -s && echo on a terminal";
        let server = Setup::new(flavor).option("forkptyrouter-command", command).raw();
        assert_eq!(server.connect("s").text_to_end(), "ONE TWO\r\non a terminal\r\n");
        drop(server);

        // Without one it is executed as it is: no shell in between.
        let server = Setup::new(flavor).option("forkptyrouter-command", "/bin/cat").raw();
        let _session = server.connect("s");
        let program = &program_named(&server, "cat", 1)[0];
        let line = std::fs::read(format!("/proc/{}/cmdline", program.pid)).unwrap();
        assert_eq!(line, b"/bin/cat\0");
    });
}

#[test]
fn a_command_that_cannot_be_executed_says_why() {
    in_process(|flavor| {
        for (command, why) in [
            ("{dir}/missing", "No such file or directory"),
            ("{dir}", "Permission denied"),
            ("no-path-at-all", "No such file or directory"),
        ] {
            let setup = Setup::new(flavor);
            let named = command.replace("{dir}", &setup.path(""));
            let server = setup.option("forkptyrouter-command", command).raw();
            for _ in 0..3 {
                let mut client = server.connect("s");
                // Input that nobody reads must not overtake the line.
                client.flood(b"input\n", std::time::Duration::from_millis(1));
                let told = client.text_to_end();
                assert!(told.contains(&named) && told.contains(why), "{told:?}");
                assert_eq!(told.lines().count(), 1, "{told:?}");
            }
            server.wait_for_log(why);
            let gateway = server.gateway();
            assert!(Process::of(gateway).is_some_and(|gateway| !gateway.is_zombie()));
            wait_until("nothing is left of the attempts", || process::children(gateway).is_empty());
        }
    });
}
