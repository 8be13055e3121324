//! The end of a handed over session, whatever became of the gateway that gave the terminal
//! away.

use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::attach_client::AttachClient;
use crate::harness::process::{self, Process};
use crate::harness::{Server, Setup, Wire, in_process, on_one_server, servers, users, wait_until};

/// A client that has its terminal, and cannot leave the session.
#[track_caller]
fn seated(server: &Server) -> AttachClient {
    AttachClient::connects(server, "u", None, &[("fpty.take", "1")]).at_the_prompt()
}

/// Begins something at the terminal that is in no session of ours: its process.
#[track_caller]
fn begins_elsewhere(client: &mut AttachClient) -> i32 {
    let terminal = client.terminal();
    terminal.send(
        "setsid sh -c 'trap \"\" HUP; echo p\"\"id $$ e\"\"nd; while read x; do echo got:$x; done; \
         sleep 1000' <$(tty) >$(tty) 2>&1 &\n",
    );
    let text = terminal.read_until("end\r\n");
    text.split_once("pid ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

fn list(server: &Server) -> Vec<Value> {
    let output = Command::new(servers::fpty())
        .args(["--list", "--json", &server.path("u")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn kill(server: &Server) {
    let all = list(server);
    assert_eq!(all.len(), 1, "{all:?}");
    let id = all[0]["id"].as_str().unwrap();
    let ended = Command::new(servers::fpty()).args(["--kill", id, &server.path("u")]).output();
    let ended = ended.unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

/// Waits until the terminal is hung up: nothing more is read from it, and what is
/// typed reaches nobody.
#[track_caller]
fn assert_dead(terminal: &Wire) {
    use nix::errno::Errno;
    wait_until("the terminal is dead", || {
        nix::unistd::write(terminal.fd(), b"more\n") == Err(Errno::EIO)
            && matches!(nix::unistd::read(terminal.fd(), &mut [0; 4096]), Ok(0) | Err(Errno::EIO))
    });
}

/// The client ignores that its session has ended.
#[test]
fn a_client_that_keeps_the_terminal_after_the_end_cannot_use_it() {
    in_process(|flavor| {
        for (options, way) in [
            (&[][..], "kill"),
            (&[("forkptyrouter-max-time", "2")], "max-time"),
            (&[("forkptyrouter-detach", "300")], "kill"),
            (&[("forkptyrouter-hangup-grace", "0")], "kill"),
        ] {
            let setup = options.iter().fold(Setup::new(flavor), |setup, (k, v)| setup.option(k, v));
            let server = setup.uwsgi();
            let mut client = seated(&server);
            let other = begins_elsewhere(&mut client);
            if way == "kill" {
                kill(&server);
            }
            let end = client.ended();
            assert_ne!(end.0, 0, "{end:?}");
            if users::can_be_others() {
                assert_dead(client.terminal());
                // It has read the end.
                wait_until("it sleeps", || {
                    process::children(other).iter().any(|child| child.name == "sleep")
                });
            }
            let group = nix::unistd::Pid::from_raw(other);
            let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
        }
    });
}

/// Where the terminal cannot be taken back, those who have it are killed.
#[test]
fn users_of_a_terminal_that_cannot_be_hung_up_are_killed() {
    if !users::can_be_others() {
        return;
    }
    on_one_server(|flavor| {
        let setup = Setup::new(flavor).option("uid", "65534").option("gid", "65534");
        std::os::unix::fs::chown(setup.path(""), Some(65534), Some(65534)).unwrap();
        let server = setup.option("forkptyrouter-hangup-grace", "1").uwsgi();
        let mut client = seated(&server);
        let other = begins_elsewhere(&mut client);
        kill(&server);
        client.ended();
        wait_until("it is killed", || Process::of(other).is_none_or(|it| it.is_zombie()));
        assert_eq!(server.count_in_log("cannot hang /dev/pts/"), 1);
        assert!(server.count_in_log("that takes CAP_SYS_ADMIN") == 1);
    });
}

/// Waits until somebody else has what the session needs.
#[track_caller]
fn wait_until_kept(server: &Server) {
    let pidfds = |pid| {
        let open = process::descriptors(pid);
        open.iter().filter(|(_, path)| path.ends_with("anon_inode:[pidfd]")).count()
    };
    wait_until("the session is kept", || {
        server.processes().iter().any(|one| one.name == "fpty-supervisor" && pidfds(one.pid) > 1)
    });
}

/// The session is in the list as it was, and is ended like any other.
#[test]
fn the_next_gateway_lists_and_ends_a_handed_over_session() {
    on_one_server(|flavor| {
        for way in ["kill", "reload"] {
            let server = Setup::new(flavor)
                .option("forkptyrouter-allow-command", "true")
                .option("forkptyrouter-audit", "json")
                .uwsgi();
            let request = [("fpty.take", "1"), ("TERM", "vt100")];
            let mut client = AttachClient::connects(&server, "u", None, &request).takes();
            client.terminal().send("\n");
            client.terminal().read_until("$ ");
            let other = begins_elsewhere(&mut client);
            wait_until_kept(&server);
            let before = list(&server);
            server.replace_gateway(way);
            let after = list(&server);
            assert_eq!((before.len(), after.len()), (1, 1), "{after:?}");
            for (name, value) in before[0].as_object().unwrap() {
                if name != "idle" {
                    assert_eq!(&after[0][name], value, "{name} after {way}");
                }
            }
            // And by one after that.
            server.replace_gateway("kill");
            // Both read the terminal: the other may get some of them.
            client.terminal().send("echo st''ill\n".repeat(20));
            client.terminal().read_until("still\r\n");
            kill(&server);
            assert_eq!(client.ended().0, 7, "{:?}", client.end);
            if users::can_be_others() {
                assert_dead(client.terminal());
            }
            wait_until("its end is told", || server.count_in_log("session-end") > 0);
            let log = server.log();
            let line = log.lines().find(|line| line.contains("session-end")).unwrap();
            assert!(line.contains("\"reason\":\"operator\""), "{line}");
            let id = before[0]["id"].as_str().unwrap();
            assert!(line.contains(id), "{line}");
            assert!(line.contains("\"pid\":"), "{line}");
            assert!(list(&server).is_empty());
            assert_eq!(server.count_in_log("session-end"), 1);
            assert_eq!(server.count_in_log("session-start"), 1);
            let group = nix::unistd::Pid::from_raw(other);
            let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
        }
    });
}

/// The session's time counts from its own start.
#[test]
fn the_time_limit_of_a_handed_over_session_survives_a_killed_gateway() {
    in_process(|flavor| {
        let server = Setup::new(flavor).option("forkptyrouter-max-time", "4").uwsgi();
        let began = Instant::now();
        let mut client = seated(&server);
        wait_until_kept(&server);
        server.replace_gateway("kill");
        let (kind, ..) = client.ended();
        assert_eq!(kind, 5, "{:?}", client.end);
        let took = began.elapsed();
        assert!((3500..6500).contains(&took.as_millis()), "{took:?}");
    });
}

/// The session holds its permit, over a kill and a reload, and releases it.
#[test]
fn the_permit_of_a_handed_over_session_survives_a_kill_and_a_reload() {
    on_one_server(|flavor| {
        for (option, why) in [
            ("forkptyrouter-max-sessions", "max-sessions"),
            ("forkptyrouter-max-user-sessions", "max-user-sessions"),
        ] {
            for way in ["kill", "reload"] {
                let server = Setup::new(flavor).option(option, "1").uwsgi();
                let mut client = seated(&server);
                wait_until_kept(&server);
                server.replace_gateway(way);
                let mut other = AttachClient::connects(&server, "u", None, &[]);
                let end = other.ended();
                assert!(end.2.contains(why), "{end:?} after {way}");
                client.terminal().send("exit 6\n");
                assert_eq!(client.ended().1, 6);
                wait_until("there is room", || {
                    let mut other = AttachClient::connects(&server, "u", None, &[]);
                    other.waits("something", |it| it.end.is_some() || !it.output.is_empty());
                    other.end.is_none()
                });
            }
        }
    });
}

/// Where no gateway comes for a while, clients are told of the end all the same.
#[test]
fn an_end_without_a_gateway_is_told_to_the_client() {
    on_one_server(|flavor| {
        let server = Setup::new(flavor).option("forkptyrouter-audit", "json").uwsgi();
        let (mut one, mut other) = (seated(&server), seated(&server));
        wait_until_kept(&server);
        wait_until("both are kept", || server.supervised_terminals() == 2);
        let (master, gateway) = (server.master(), server.gateway());
        process::signal(master, Signal::SIGSTOP);
        process::signal(gateway, Signal::SIGKILL);
        one.terminal().send("kill -9 $$\n");
        // A stopped master reaps nobody who has become its child.
        let shell = server.session_processes();
        other.terminal().send("echo th''ere\n");
        other.terminal().read_until("there\r\n");
        assert!(shell.len() >= 2);
        assert_eq!((one.ended().0, one.ended().1), (1, 9));
        drop(other);
        wait_until("both ends are told", || server.count_in_log("session-end") == 2);
        let told = |reason: &str| server.count_in_log(&format!("\"reason\":\"{reason}\""));
        assert_eq!((told("signal"), told("hangup")), (1, 1));
        process::signal(master, Signal::SIGCONT);
        wait_until("there is another gateway", || server.gateway() != gateway);
        wait_until("nothing is left", || {
            server.session_processes().iter().all(|one| one.name == "fpty-supervisor")
        });
        assert!(list(&server).is_empty());
        assert_eq!(server.count_in_log("session-end"), 2);
    });
}
