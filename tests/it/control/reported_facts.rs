//! Names, ends and messages are true: who has a session, which one is meant, what an
//! instance is called.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::audit::lines::{audited, lines, of, wait_for};
use crate::harness::attach_client::AttachClient;
use crate::harness::client::{Pipes, Seat, both, shell_status, wrapped};
use crate::harness::fake_gateway::Fake;
use crate::harness::terminal::Terminal;
use crate::harness::users::{can_be_others, connecting_as, fpty_as};
use crate::harness::{
    Flavor, Server, Setup, in_process, on_every_server, servers, side_by_side, wait_until,
};

fn fpty(arguments: &[&str]) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.env("TERM", "xterm").args(arguments);
    fpty
}

/// Nothing is reported of a connection on which nothing was sent.
#[test]
fn a_connection_closed_without_a_byte_is_lost() {
    let fake = Fake::new();
    for words in [&[][..], &["-t"]] {
        let mut arguments = words.to_vec();
        arguments.push(&fake.address);
        let pipes = Pipes::open(fpty(&arguments));
        drop(fake.accept());
        let finished = pipes.finish();
        assert_eq!(shell_status(finished.status), 254, "{finished:?}");
        let line = format!("fpty: connection to {} lost: ", fake.address);
        assert!(finished.stderr.starts_with(&line), "{finished:?}");
        assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    }
    // A byte is a session.
    let pipes = Pipes::open(fpty(&[&fake.address]));
    fake.accept().stream.write_all(b"$ ").expect("a client");
    assert_eq!(shell_status(pipes.finish().status), 0);
}

/// Whatever the output ended with, and whoever has the terminal.
#[test]
fn the_clients_own_messages_are_lines_of_their_own() {
    in_process(|flavor| {
        side_by_side(["true", "false"], |handover| {
            let setup = Setup::new(flavor)
                .option("forkptyrouter-handover", handover)
                .option("forkptyrouter-allow-command", "true");
            let server = both(setup).start();
            let address = server.path("u");
            for end in ["abc", "abc\\n", "abc\\r", "abc\\n\\033[1m", "\\n\\303\\251"] {
                for (kind, merge) in [("-t", true), ("-T", true), ("-T", false)] {
                    let line = format!("sleep .1; printf '{end}'; kill -9 $$");
                    let client = fpty(&["--status-json", kind, &address, &line]);
                    let script = if merge { "\"$@\" 2>&1" } else { "\"$@\" 2>&1 >/dev/null" };
                    let mut shell = wrapped(script, &client);
                    let output = shell.stdin(Stdio::null()).output().expect("a shell");
                    let text = String::from_utf8(output.stdout).expect("text");
                    let said: Vec<&str> = text.lines().rev().take(2).collect();
                    let json: Value = serde_json::from_str(said[0]).expect("JSON");
                    assert_eq!(json["status"], 137, "{kind} {end}: {text:?}");
                    assert_eq!(said[1], "fpty: killed by SIGKILL", "{kind} {end}: {text:?}");
                }
            }
            // A terminal, and nothing that is not needed.
            for (end, before) in [("abc", "abc\r\n"), ("abc\\n", "abc\r\n"), ("\\n", "\r\n")] {
                let line = format!("sleep .1; printf '{end}'; kill -9 $$");
                let mut terminal = Terminal::run(fpty(&[&address, &line]), 24, 80);
                let said = terminal.wire.read_until("fpty: killed by SIGKILL");
                let said = said.strip_suffix("fpty: killed by SIGKILL").unwrap();
                assert_eq!(said, before, "{end}");
                terminal.wait();
            }
        });
    });
}

fn leaving(flavor: &Flavor) -> Setup {
    Setup::new(flavor).option("forkptyrouter-detach", "10").argument("--chmod-socket=666")
}

#[track_caller]
fn begun(server: &Server, name: &str) -> AttachClient {
    AttachClient::begins(server, &[("fpty.name", name)]).takes()
}

/// Two within one second.
#[test]
fn attach_without_a_name_takes_the_session_detached_last() {
    in_process(|flavor| {
        let server = leaving(flavor).uwsgi();
        for _ in 0..5 {
            let (one, other) = (begun(&server, "one"), begun(&server, "other"));
            let (one, other) = (one.leaves(), other.leaves());
            let mut back = AttachClient::comes(&server, "", &[]).takes();
            back.terminal().send("kill -9 $$\n");
            assert_eq!(back.ended().0, 1);
            assert_eq!(AttachClient::comes(&server, &other, &[]).ended().0, 3, "it was that one");
            let mut back = AttachClient::comes(&server, &one, &[]).takes();
            back.terminal().send("kill -9 $$\n");
            assert_eq!(back.ended().0, 1);
        }
    });
}

#[test]
fn names_are_per_user_and_ids_are_global() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        let server = leaving(flavor).uwsgi();
        let address = server.path("u");
        let stranger = connecting_as(4001, || begun(&server, "job").leaves());
        // Root asks for a name: a stranger's is none.
        let mut back = AttachClient::comes(&server, "job", &[]);
        assert_eq!(back.ended(), (3, 0, String::from("there is no such session")));
        let kill = |which: &str| {
            let output = fpty(&["-k", which, &address]).output().expect("fpty runs");
            (output.status.code(), String::from_utf8(output.stderr).expect("text"))
        };
        assert_eq!(kill("job").0, Some(255));
        // `-A` begins its own one.
        let own = AttachClient::comes(&server, "job", &[("fpty.name", "job"), ("fpty.begin", "1")]);
        let own = own.takes().leaves();
        assert_ne!(own, stranger);
        // Somebody calls a session like another's id: by -a and -k the id is meant.
        let shadow = begun(&server, &own).leaves();
        let back = AttachClient::comes(&server, &own, &[]).takes();
        assert_eq!(back.leaves(), own);
        assert_eq!(kill(&own).0, Some(0), "{:?}", kill(&own));
        // Then it is a name, and root has a stranger's by its id, or how that begins.
        let back = AttachClient::comes(&server, &own, &[]).takes();
        assert_eq!(back.leaves(), shadow);
        let back = AttachClient::comes(&server, &stranger[..7], &[]).takes();
        assert_eq!(back.leaves(), stranger);
        assert_eq!(kill(&stranger).0, Some(0));
    });
}

#[test]
fn refusals_name_the_attached_user() {
    if !can_be_others() {
        return;
    }
    let Some(daemon) = nix::unistd::User::from_name("daemon").expect("accounts") else { return };
    in_process(|flavor| {
        let server = leaving(flavor).uwsgi();
        let uid = daemon.uid.as_raw();
        let first = connecting_as(uid, || begun(&server, "one"));
        let arguments = ["-a", "one", &server.path("u")];
        let mut again = fpty_as(&server, uid, &[daemon.gid.as_raw()], &arguments);
        let output = again.stdin(Stdio::null()).output().expect("fpty runs");
        let text = String::from_utf8(output.stderr).expect("text");
        assert!(text.starts_with("fpty: session refused: daemon is attached since"), "{text}");
        let id = first.leaves();
        let mut back = AttachClient::comes(&server, &id, &[]).takes();
        let mut thief = AttachClient::comes(&server, &id, &[("fpty.steal", "1")]);
        assert_eq!(back.ended().2, "root has taken the session");
        drop(back);
        thief = thief.takes();
        drop(thief);
    });
}

#[test]
fn the_instance_is_named_by_its_configuration_file() {
    on_every_server(|flavor| {
        for (given, name) in [
            ("{dir}/x.ini", "{dir}/x.ini"),
            ("--ini={dir}/x.ini", "{dir}/x.ini"),
            ("--ini {dir}/x.ini", "{dir}/x.ini"),
        ] {
            let more =
                "ini = {dir}/more.ini\nforkpty-urouter = {dir}/u\nforkptyrouter-audit = json";
            let mut setup = Setup::new(flavor)
                .file("x.ini", &format!("[uwsgi]\n{more}\n"))
                .file("more.ini", "[uwsgi]\nmaster = true\n");
            let dir = setup.path("");
            for argument in given.split(' ') {
                setup = setup.argument(&argument.replace("{dir}", &dir));
            }
            let server = setup.start();
            drop(server.connect("u"));
            fpty(&[&server.path("u")]).stdin(Stdio::null()).output().expect("fpty runs");
            wait_until("a line", || !of(&lines(&server.log()), "session-start").is_empty());
            let line = &lines(&server.log())[0];
            assert_eq!(line["instance"], name.replace("{dir}", &dir), "{given}");
        }
    });
}

/// A server that already runs as a user needs no right to become that user.
#[test]
fn a_socket_may_name_the_servers_own_user() {
    if !can_be_others() {
        return;
    }
    on_every_server(|flavor| {
        for uid in ["uid=nobody", "uid=nobody,gid=nogroup", "uid=65534,gid=65534,groups=none"] {
            let setup = Setup::new(flavor).option("uid", "nobody").option("gid", "nogroup");
            std::fs::set_permissions(
                setup.path(""),
                std::os::unix::fs::PermissionsExt::from_mode(0o777),
            )
            .expect("mode");
            let value = format!("addr={{dir}}/u,{uid},cmd=/bin/sh -c \"id -un; id -gn\"");
            let server = setup.option("forkpty-urouter2", &value).start();
            let mut client = server.connect("u");
            client.send([0, 0, 0, 0]);
            let said = String::from_utf8_lossy(&client.read_to_end()).into_owned();
            assert_eq!(said, "nobody\r\nnogroup\r\n", "{uid}");
        }
    });
}

/// A minute before, and not where that is all of its time.
#[test]
fn an_idle_session_is_told_a_minute_before() {
    in_process(|flavor| {
        side_by_side(
            [("forkptyrouter-timeout", "timeout"), ("forkptyrouter-max-time", "max")],
            |(option, name)| {
                side_by_side(["true", "false"], |handover| {
                    let server = Setup::new(flavor)
                        .script("stty -echo; echo begun; exec sleep 1000")
                        .option(option, "61")
                        .option("forkptyrouter-handover", handover)
                        .option("forkptyrouter-allow-command", "true")
                        .uwsgi();
                    let mut client = AttachClient::connects(&server, "u", None, &[]);
                    client.waits("a notice", |client| !client.notices.is_empty());
                    assert!(client.notices[0].contains("ends in a minute"), "{:?}", client.notices);
                    if name == "max" {
                        let sleeper = Pipes::open(fpty(&["-T", &server.path("u"), "sleep 1000"]));
                        let path = format!("/proc/{}", sleeper.pid());
                        std::thread::sleep(Duration::from_millis(1500));
                        assert!(std::path::Path::new(&path).exists());
                    }
                });
            },
        );
    });
}

/// A command whose terminal is somebody else's for a while.
#[test]
fn a_background_command_is_relayed_without_its_terminal() {
    in_process(|flavor| {
        let setup = Setup::new(flavor).option("forkptyrouter-allow-command", "true");
        let server = both(setup).start();
        let line =
            "trap 'echo int' INT; echo begun; (sleep 1; echo later; sleep 1; echo last) & cat";
        let mut client = fpty(&["-T", &server.path("u")]);
        client.arg(line);
        let mut seat = Seat::prepared(&client, ":");
        seat.terminal.wire.send("\"$@\"\n");
        seat.terminal.wire.read_until("begun");
        seat.terminal.wire.send("\x1a");
        seat.terminal.wire.read_until("status=148.");
        seat.terminal.wire.send("bg; echo ba''ck\n");
        seat.terminal.wire.read_until("back");
        seat.terminal.wire.send("echo he''re\n");
        seat.terminal.wire.read_until("here");
        seat.terminal.wire.read_until("later");
        seat.terminal.wire.send("echo he''re\n");
        seat.terminal.wire.read_until("here");
        seat.terminal.wire.send("fg\n");
        seat.terminal.wire.read_until("last");
        seat.terminal.wire.send("ty''ped\n");
        // Echoed, and by cat.
        seat.terminal.wire.read_until("ty''ped");
        seat.terminal.wire.read_until("ty''ped");
        seat.terminal.wire.send("\x04");
        seat.terminal.wire.read_until("status=0.");
    });
}

/// Bytes are bytes.
#[test]
fn a_variable_need_not_be_utf_8() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option("forkptyrouter-allow-command", "true")
            .option("forkptyrouter-accept-env", "BAR")
            .uwsgi();
        let mut client = fpty(&[]);
        client
            .arg("-E")
            .arg(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"BAR=caf\xe9"));
        client.args(["-T", &server.path("u"), "printf %s \"$BAR\""]).stdin(Stdio::null());
        let output = client.output().expect("fpty runs");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"caf\xe9"[..]));
    });
}

/// In a terminal a line is a line, elsewhere it is whole.
#[test]
fn a_list_fits_the_terminal() {
    in_process(|flavor| {
        let server = audited(flavor).option("forkptyrouter-allow-command", "true").uwsgi();
        let address = server.path("u");
        let line = format!("sleep 1000 # {}", "x".repeat(200));
        let sleeper = Pipes::open(fpty(&["-T", &address, &line]));
        wait_for(&server, "session-start", 1);
        let mut terminal = Terminal::run(fpty(&["-l", &address]), 24, 100);
        assert!(terminal.wait().success());
        let shown = terminal.wire.read_until("\u{2026}\r\n");
        assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
        let output = fpty(&["-l", &address]).output().expect("fpty runs");
        assert!(String::from_utf8(output.stdout).expect("text").contains(&line));
        drop(sleeper);
    });
}

/// Whom the gateway relays for it tells that the instance stops.
#[test]
fn a_stop_is_told_as_a_stop() {
    on_every_server(|flavor| {
        for gateways in ["1", "2"] {
            let setup = audited(flavor)
                .option("forkptyrouter-handover", "false")
                .option("forkptyrouter-processes", gateways)
                .option("forkptyrouter-allow-command", "true");
            let mut server = both(setup).start();
            let mut terminal = AttachClient::connects(&server, "u", None, &[]);
            terminal.waits("a prompt", |client| !client.output.is_empty());
            let plain = server.connect("s");
            plain.send("echo plain\n");
            let command = Pipes::open(fpty(&["-T", &server.path("u"), "echo begun; sleep 1000"]));
            let person = Pipes::open(fpty(&["-t", &server.path("u"), "echo begun; sleep 1000"]));
            wait_for(&server, "session-start", 4);
            server.stop();
            let why = "session ended: the instance has stopped";
            assert_eq!(terminal.ended(), (6, 0, String::from(why)));
            let mut plain = plain;
            let text = plain.text_to_end();
            assert!(text.ends_with(&format!("\r\nforkptyrouter: {why}\r\n")), "{text:?}");
            for client in [command, person] {
                let finished = client.finish();
                assert_eq!(finished.status.code(), Some(254), "{finished:?}");
                assert!(finished.stderr.ends_with(&format!("fpty: {why}\n")), "{finished:?}");
            }
            wait_until("nothing is left", || server.session_processes().is_empty());
        }
        // A gateway that somebody ends is not the instance, and another comes.
        let server = audited(flavor).option("forkptyrouter-handover", "false").uwsgi();
        let mut terminal = AttachClient::connects(&server, "u", None, &[]);
        terminal.waits("a prompt", |client| !client.output.is_empty());
        crate::harness::process::signal(server.gateway(), nix::sys::signal::Signal::SIGTERM);
        let (kind, _, text) = terminal.ended();
        assert_eq!((kind, text.as_str()), (8, "the gateway was ended by a signal"));
        wait_until("another gateway", || server.log().contains("respawned uWSGI forkptyrouter"));
        let mut terminal = AttachClient::connects(&server, "u", None, &[]);
        terminal.waits("a prompt", |client| !client.output.is_empty());
    });
}
