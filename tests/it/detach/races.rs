//! Attaches, steals and ends in orders that are rare.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::audit::lines::{audited, lines, wait_for};
use crate::harness::attach_client::AttachClient;
use crate::harness::{Flavor, Server, Setup, in_process, process, servers, wait_until};
use crate::session::slow_start::Lease;

#[track_caller]
fn server(flavor: &Flavor) -> Server {
    Setup::new(flavor).option("forkptyrouter-detach", "10").uwsgi()
}

/// Begins, and has a prompt.
#[track_caller]
fn seated(server: &Server, name: &str) -> AttachClient {
    AttachClient::begins(server, &[("fpty.name", name)]).at_the_prompt()
}

#[track_caller]
fn steals(server: &Server, name: &str) -> AttachClient {
    AttachClient::comes(server, name, &[("fpty.steal", "1")])
}

#[test]
fn an_overtaken_attach_is_told_who_attached() {
    in_process(|flavor| {
        let server = server(flavor);
        // It does not go when it is told to, so that the next one waits.
        let mut first = seated(&server, "one");
        let mut overtaken = steals(&server, "one");
        assert_eq!(first.ended(), (9, 1, String::from("root has taken the session")));
        let thief = steals(&server, "one");
        assert_eq!(overtaken.ended(), (3, 0, String::from("root has taken the session")));
        let mut thief = thief.takes();
        thief.terminal().send("echo mi''ne\n");
        thief.terminal().read_until("mine\r\n");
    });
}

#[test]
fn an_attach_that_waits_for_an_ending_session_gets_its_end() {
    in_process(|flavor| {
        let server = server(flavor);
        let mut first = seated(&server, "one");
        first.terminal().send("read A; exit 5\n");
        first.terminal().read_until("exit 5\r\n");
        let thief = steals(&server, "one");
        assert_eq!(first.ended().0, 9);
        first.terminal().send("\n");
        let mut thief = thief.takes();
        assert_eq!(thief.ended(), (0, 5, String::new()));
        wait_until("nothing is left", || steals(&server, "one").ended().0 == 3);
    });
}

#[test]
fn a_name_is_free_again_after_a_failed_start() {
    in_process(|flavor| {
        let setup = Setup::new(flavor).option("forkptyrouter-detach", "10");
        let server = setup.script("#!/bin/sh\nexec /bin/sh -i\n").uwsgi();
        let script = server.path("script");
        let works = std::fs::read(&script).unwrap();
        std::fs::write(&script, "no program at all\n").unwrap();
        let lease = Lease::take(&script);
        let mut never = AttachClient::begins(&server, &[("fpty.name", "one")]);
        wait_until("its process is there", || server.programs().len() == 1);
        lease.give_up();
        assert!(never.ended().2.contains("Exec format error"));
        std::fs::write(&script, works).unwrap();
        let mut none = AttachClient::comes(&server, "one", &[]);
        assert_eq!(none.ended().2, "there is no such session");
        seated(&server, "one").leaves();
    });
}

/// Sets how many descriptors the gateway may have from now on.
fn limit_descriptors(server: &Server, soft: libc::rlim_t) -> libc::rlim_t {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let number = libc::RLIMIT_NOFILE;
    // SAFETY: prlimit(2) of one process with pointers to our own.
    unsafe {
        assert_eq!(libc::prlimit(server.gateway(), number, std::ptr::null(), &mut before), 0);
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: before.rlim_max };
        assert_eq!(libc::prlimit(server.gateway(), number, &limit, std::ptr::null_mut()), 0);
    }
    before.rlim_cur
}

/// A client that was told that the session goes on finds it.
#[test]
fn a_detach_without_resources_is_refused_and_the_session_goes_on() {
    in_process(|flavor| {
        let server = server(flavor);
        let mut client = seated(&server, "one");
        let before = limit_descriptors(&server, 3);
        let why = client.stays();
        assert!(why.starts_with("cannot detach: "), "{why}");
        limit_descriptors(&server, before);
        client.terminal().send("echo he''re\n");
        client.terminal().read_until("here\r\n");
        let id = client.leaves();
        let mut back = AttachClient::comes(&server, &id, &[]).takes();
        back.terminal().send("echo ba''ck\n");
        back.terminal().read_until("back\r\n");
    });
}

/// Also where the gateway is not its parent: whoever it was began with has ended, and
/// what leads the session ignores that it is hung up.
#[test]
fn the_foreground_job_of_a_restored_session_is_hung_up() {
    in_process(|flavor| {
        let setup = Setup::new(flavor).option("forkptyrouter-detach", "10");
        let server = setup.option("forkptyrouter-hangup-grace", "60").uwsgi();
        let jobs = || server.session_processes().iter().filter(|it| it.name == "sleep").count();
        for way in ["for good", "operator", "operator, left"] {
            let mut client = seated(&server, "one");
            client.terminal().send("trap : HUP; sh -c 'echo jo\"\"b; exec sleep 1000'\n");
            client.terminal().read_until("job\r\n");
            wait_until("it runs", || jobs() == 1);
            let mut client = Some(client);
            if way == "operator, left" {
                client.take().expect("it is there").leaves();
            }
            server.replace_gateway("kill");
            match way {
                "for good" => client.as_mut().expect("it is there").ends_it(),
                _ => {
                    let mut kill = Command::new(servers::fpty());
                    kill.args(["--kill", "one", &server.path("u")]);
                    assert!(kill.status().expect("it runs").success());
                }
            }
            wait_until(&format!("the job is hung up ({way})"), || jobs() == 0);
            // It has the grace; the next one is not to see it.
            let leaders = server.session_processes();
            for leader in leaders.iter().filter(|it| !it.name.starts_with("fpty-")) {
                process::signal(leader.pid, Signal::SIGKILL);
            }
            wait_until("nothing is left of it", || {
                server.session_processes().iter().all(|it| it.name.starts_with("fpty-"))
            });
        }
    });
}

#[test]
fn a_detached_session_keeps_its_permit_for_the_attach() {
    in_process(|flavor| {
        let setup = Setup::new(flavor).option("forkptyrouter-detach", "10");
        let server = setup.option("forkptyrouter-max-user-sessions", "1").uwsgi();
        let id = seated(&server, "one").leaves();
        let is_full = |server: &Server| {
            let mut refused = AttachClient::begins(server, &[]);
            refused.gets_an_answer();
            refused.end.is_some_and(|(kind, _, why)| kind == 3 && why.contains("max-user-sessions"))
        };
        assert!(is_full(&server), "its place is free");
        let back = AttachClient::comes(&server, &id, &[]).takes();
        assert!(is_full(&server));
        back.leaves();
        // The next gateway knows it, too.
        server.replace_gateway("kill");
        assert!(is_full(&server));
        let mut back = AttachClient::comes(&server, &id, &[]).takes();
        back.ends_it();
        wait_until("its place is free", || !is_full(&server));
    });
}

/// Audit events with their reasons, in their order.
fn story(server: &Server) -> Vec<String> {
    let told = |line: &serde_json::Value| {
        let reason = line["reason"].as_str().map(|reason| format!(" {reason}"));
        format!("{}{}", line["event"].as_str().expect("an event"), reason.unwrap_or_default())
    };
    lines(&server.log()).iter().map(told).collect()
}

/// Viewers of a session are gone when it has ended, and that is reported first.
#[test]
fn the_end_of_a_viewed_session_is_told_after_its_viewers_are_gone() {
    in_process(|flavor| {
        for is_left in [false, true] {
            let server = audited(flavor).option("forkptyrouter-detach", "10").uwsgi();
            let mut client = seated(&server, "one");
            client.terminal().send("read A; exit 4\n");
            client.terminal().read_until("exit 4\r\n");
            let mut watcher =
                AttachClient::comes(&server, "one", &[("fpty.readonly", "1")]).takes();
            let mut expected = vec!["session-start", "session-watch"];
            let end = match is_left {
                false => {
                    client.terminal().send("\n");
                    assert_eq!(client.ended(), (0, 4, String::new()));
                    assert_eq!(watcher.ended(), (0, 4, String::new()));
                    "session-end exit"
                }
                true => {
                    client.leaves();
                    expected.push("session-detach asked");
                    let mut kill = Command::new(servers::fpty());
                    kill.args(["--kill", "one", &server.path("u")]);
                    assert!(kill.status().expect("it runs").success());
                    assert_eq!(watcher.ended().0, 7);
                    "session-end operator"
                }
            };
            expected.extend(["session-unwatch", end]);
            wait_for(&server, "session-end", 1);
            assert_eq!(story(&server), expected);
        }
    });
}

#[test]
fn a_detached_session_ends_by_a_limit() {
    in_process(|flavor| {
        let setup = audited(flavor).option("forkptyrouter-detach", "10");
        let server = setup.option("forkptyrouter-detach-time", "1").uwsgi();
        seated(&server, "one").leaves();
        wait_for(&server, "session-end", 1);
        let told = ["session-start", "session-detach asked", "session-end limit"];
        assert_eq!(story(&server), told);
        wait_until("its program is gone", || server.programs().is_empty());
    });
}
