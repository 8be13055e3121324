//! The supervisor is killed or hangs, alone or with its gateway or the master; sessions end
//! while there is no gateway.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::audit::lines::{lines, of, wait_for};
use crate::harness::attach_client::AttachClient;
use crate::harness::process::{self, Process};
use crate::harness::{
    Flavor, Server, Setup, in_process, on_every_server, on_one_server, side_by_side, wait_until,
};

#[track_caller]
fn server(flavor: &Flavor) -> Server {
    setup(flavor).uwsgi()
}

fn setup(flavor: &Flavor) -> Setup {
    Setup::new(flavor)
        .option("forkptyrouter-detach", "300")
        .option("forkptyrouter-audit", "json")
        .option("forkptyrouter-hangup-grace", "1")
        .option("forkpty-router", "{dir}/s")
}

/// One session of each kind that outlives its gateway.
struct SupervisedSessions {
    /// A client that has its terminal, and whose session cannot be detached.
    bound: AttachClient,
    /// A client that has its terminal, and whose session can be detached.
    attached: AttachClient,
    /// The id of a detached session.
    left: String,
}

#[track_caller]
fn at_the_prompt(mut client: AttachClient, says: &str) -> AttachClient {
    client.terminal().send(format!("{says}; echo re''ady\n"));
    client.terminal().read_until("ready\r\n");
    client
}

impl SupervisedSessions {
    #[track_caller]
    fn new(server: &Server, says: &str) -> Self {
        let begins = || AttachClient::begins(server, &[]).takes();
        let bound = AttachClient::connects(server, "u", None, &[("fpty.take", "1")]).takes();
        let kept = Self {
            bound: at_the_prompt(bound, says),
            attached: at_the_prompt(begins(), says),
            left: at_the_prompt(begins(), says).leaves(),
        };
        has_all(server);
        kept
    }
}

/// Waits until there is a supervisor that has all three terminals.
#[track_caller]
fn has_all(server: &Server) -> i32 {
    wait_until("all are kept", || server.supervised_terminals() == 3);
    server.supervisor().expect("it has them")
}

#[track_caller]
fn kill_supervisor(server: &Server) -> i32 {
    let pid = server.supervisor().expect("something keeps them");
    process::signal(pid, Signal::SIGKILL);
    wait_until("it is gone", || Process::of(pid).is_none_or(|it| it.is_zombie()));
    pid
}

/// The reason and status of each session's end, in the order of their beginnings.
/// What has begun as often has ended.
fn ends(server: &Server) -> Vec<(Value, Value)> {
    let all = lines(&server.log());
    let (starts, ends) = (of(&all, "session-start"), of(&all, "session-end"));
    let mut ids: Vec<&Value> = Vec::new();
    starts.iter().map(|start| &start["id"]).for_each(|id| {
        if !ids.contains(&id) {
            ids.push(id);
        }
    });
    let end = |id: &Value| {
        let count = |lines: &[&Value]| lines.iter().filter(|line| line["id"] == *id).count();
        assert_eq!(count(&starts), count(&ends), "{id}: {all:#?}");
        let last = ends.iter().rfind(|end| end["id"] == *id).expect("an end");
        (last["reason"].clone(), last["status"].clone())
    };
    ids.into_iter().map(end).collect()
}

fn nothing_is_left(server: &Server) {
    wait_until("nothing is left", || server.processes().is_empty());
}

/// The next one is told of all, and the next gateway by that.
#[test]
fn the_next_supervisor_knows_the_sessions_of_a_killed_one() {
    on_one_server(|flavor| {
        for way in ["exit", "kill", "reload"] {
            let server = server(flavor);
            let SupervisedSessions { mut bound, mut attached, left } =
                SupervisedSessions::new(&server, "true");
            let mut plain = server.connect("s");
            plain.shell("true");
            let before = kill_supervisor(&server);
            assert_ne!(has_all(&server), before);
            if way != "exit" {
                server.replace_gateway(way);
            } else {
                plain.shell("true");
            }
            bound.terminal().send("exit 3\n");
            assert_eq!(bound.ended(), (0, 3, String::new()), "{way}");
            attached.terminal().send("exit 4\n");
            assert_eq!(attached.ended(), (0, 4, String::new()), "{way}");
            let mut back = AttachClient::comes(&server, &left, &[]).takes();
            back.terminal().send("exit 5\n");
            assert_eq!(back.ended(), (0, 5, String::new()), "{way}");
            drop(plain);
            wait_for(&server, "session-end", server.count_in_log("session-start"));
            let ends = ends(&server);
            assert_eq!(ends[0], (json!("exit"), json!(3)), "{way}");
            assert_eq!(ends[1], (json!("exit"), json!(4)), "{way}");
        }
    });
}

/// The supervisor is gone when the instance stops, be it noticed or not.
#[test]
fn a_supervisor_killed_before_a_stop_leaves_nothing() {
    on_every_server(|flavor| {
        for noticed in [false, true] {
            let mut server = server(flavor);
            let SupervisedSessions { mut bound, attached, left: _ } =
                SupervisedSessions::new(&server, "trap '' HUP");
            if !noticed {
                process::signal(server.gateway(), Signal::SIGSTOP);
            }
            kill_supervisor(&server);
            server.stop();
            nothing_is_left(&server);
            if noticed {
                assert_eq!(bound.ended().0, 6, "{:?}", bound.end);
            }
            drop(attached);
            let lost = (json!("lost"), Value::Null);
            assert_eq!(ends(&server), [lost.clone(), lost.clone(), lost]);
        }
    });
}

/// Nobody but the clients has their terminals any more.
#[test]
fn a_supervisor_killed_with_its_gateway_leaves_nothing() {
    in_process(|flavor| {
        let server = server(flavor);
        let _kept = SupervisedSessions::new(&server, "trap '' HUP");
        let gateway = server.gateway();
        process::signal(gateway, Signal::SIGSTOP);
        kill_supervisor(&server);
        process::signal(gateway, Signal::SIGKILL);
        wait_until("there is another gateway", || server.gateway() != gateway);
        wait_until("their programs end", || {
            server.session_processes().iter().all(|one| one.name.starts_with("fpty-"))
        });
        wait_for(&server, "session-end", 3);
        let lost = (json!("lost"), Value::Null);
        assert_eq!(ends(&server), [lost.clone(), lost.clone(), lost]);
        // And whoever comes is served.
        let mut next = at_the_prompt(AttachClient::begins(&server, &[]).takes(), "true");
        next.terminal().send("exit 7\n");
        assert_eq!(next.ended().1, 7);
    });
}

/// Another gateway has started the next supervisor, which never heard of them.
#[test]
fn a_supervisor_killed_with_one_of_two_gateways_leaves_nothing_of_that() {
    on_one_server(|flavor| {
        let server = setup(flavor).option("forkptyrouter-processes", "2").uwsgi();
        server.wait_for_log("spawned uWSGI forkptyrouter 2 (pid: ");
        let (one, of_one) = (server.gateway(), |gateway| process::children(gateway).len());
        let mut clients = Vec::new();
        wait_until("each gateway has one", || {
            let request = [("fpty.take", "1")];
            let client = AttachClient::connects(&server, "u", None, &request).takes();
            clients.push(at_the_prompt(client, "trap '' HUP"));
            let here = of_one(one);
            (1..clients.len()).contains(&here)
        });
        let (all, here) = (clients.len(), of_one(one));
        wait_until("all are kept", || server.supervised_terminals() == all);
        process::signal(one, Signal::SIGSTOP);
        let before = kill_supervisor(&server);
        wait_until("the other one has another", || {
            server.supervisor().is_some_and(|now| now != before)
                && server.supervised_terminals() == all - here
        });
        process::signal(one, Signal::SIGKILL);
        wait_for(&server, "session-end", here);
        wait_until("its programs end", || {
            let programs = server.session_processes().into_iter();
            programs.filter(|it| !it.name.starts_with("fpty-")).count() == all - here
        });
        assert_eq!(server.count_in_log("\"reason\":\"lost\""), here);
    });
}

/// Sessions of a master that dies go to the supervisor, also to one that was there before
/// a reload.
#[test]
fn a_killed_master_leaves_nothing() {
    on_every_server(|flavor| {
        for reloaded in [false, true] {
            let server = setup(flavor).killed_at_end().uwsgi();
            let SupervisedSessions { mut bound, .. } =
                SupervisedSessions::new(&server, "trap '' HUP");
            let before = server.supervisor();
            if reloaded {
                server.replace_gateway("reload");
            }
            let mut plain = server.connect("s");
            plain.shell("trap '' HUP");
            assert_eq!(server.supervisor(), before);
            process::signal(server.master(), Signal::SIGKILL);
            assert_eq!(bound.ended().0, 6, "{:?}", bound.end);
            wait_until("their programs end", || server.session_processes().is_empty());
            let lost = (json!("lost"), Value::Null);
            assert_eq!(ends(&server), vec![lost; 4]);
        }
    });
}

/// Each end is told once, with its status, whoever tells it; also where the master
/// writes the log, by way of a pipe that is another one after a reload.
#[test]
fn ends_without_a_gateway_have_their_status() {
    on_one_server(|flavor| {
        for (log_master, reloaded) in [(false, false), (true, false), (true, true)] {
            let setup = setup(flavor);
            let setup = if log_master { setup.switch("log-master") } else { setup };
            let server = setup.uwsgi();
            let SupervisedSessions { mut bound, mut attached, left } =
                SupervisedSessions::new(&server, "true");
            let mut other = at_the_prompt(AttachClient::begins(&server, &[]).takes(), "true");
            if reloaded {
                server.replace_gateway("reload");
            }
            let (master, gateway) = (server.master(), server.gateway());
            process::signal(master, Signal::SIGSTOP);
            process::signal(gateway, Signal::SIGKILL);
            bound.terminal().send("exit 3\n");
            assert_eq!(bound.ended(), (0, 3, String::new()));
            attached.terminal().send("kill -9 $$\n");
            assert_eq!((attached.ended().0, attached.ended().1), (1, 9));
            process::signal(master, Signal::SIGCONT);
            let told = wait_for(&server, "session-end", 2);
            let at = |number: usize| of(&told, "session-start")[number]["id"].clone();
            let end = |id: &Value| {
                let ends = of(&told, "session-end");
                let end = *ends.iter().find(|end| end["id"] == *id).expect("an end");
                (end["reason"].clone(), end["status"].clone(), end["signal"].clone())
            };
            assert_eq!(end(&at(0)), (json!("exit"), json!(3), Value::Null));
            assert_eq!(end(&at(1)), (json!("signal"), Value::Null, json!(9)));
            wait_until("there is another gateway", || server.gateway() != gateway);
            let mut back = AttachClient::comes(&server, &left, &[]).takes();
            back.terminal().send("exit 5\n");
            assert_eq!(back.ended().1, 5);
            other.terminal().send("exit 6\n");
            assert_eq!(other.ended().1, 6);
            wait_for(&server, "session-end", server.count_in_log("session-start"));
            let ends = ends(&server);
            assert!(ends.iter().all(|(reason, _)| reason != "lost"), "{ends:?}");
        }
    });
}

/// Ends by the stop are reported once, also where the log goes with the master.
#[test]
fn a_stop_tells_every_end_once() {
    on_every_server(|flavor| {
        side_by_side([(false, false), (true, false), (true, true)], |(log_master, reloaded)| {
            let setup = setup(flavor);
            let setup = if log_master { setup.switch("log-master") } else { setup };
            let mut server = setup.uwsgi();
            let mut kept = SupervisedSessions::new(&server, "true");
            let mut plain = server.connect("s");
            plain.shell("true");
            if reloaded {
                server.replace_gateway("reload");
            }
            server.stop();
            assert_eq!(kept.bound.ended().0, 6);
            nothing_is_left(&server);
            let lost = (json!("lost"), Value::Null);
            assert_eq!(ends(&server), vec![lost; 4], "{log_master}");
        });
    });
}

/// The session began once, and ends once, over any number of gateways.
#[test]
fn a_session_over_several_gateways_has_one_start_and_one_end() {
    on_one_server(|flavor| {
        let server = server(flavor);
        let client = AttachClient::begins(&server, &[]).takes();
        let mut client = at_the_prompt(client, "true");
        for way in ["kill", "reload", "kill"] {
            server.replace_gateway(way);
            client.terminal().send("echo st''ill\n");
            client.terminal().read_until("still\r\n");
        }
        client.terminal().send("exit 6\n");
        assert_eq!(client.ended(), (0, 6, String::new()));
        let told = wait_for(&server, "session-end", 1);
        let (starts, ends_told) = (of(&told, "session-start"), of(&told, "session-end"));
        assert_eq!(starts.len(), 1);
        for name in ["id", "socket", "mode", "peer", "command", "pid", "uid", "gid"] {
            assert_eq!(starts[0][name], ends_told[0][name], "{name}");
        }
        assert_eq!(ends(&server), [(json!("exit"), json!(6))]);
    });
}

/// The supervisor needs more descriptors for a session than the gateway.
#[test]
fn sessions_without_room_in_the_supervisor_end_with_their_gateway() {
    in_process(|flavor| {
        let server = setup(flavor).option("max-fd", "200").uwsgi();
        let mut clients = Vec::new();
        while clients.len() < 90 && server.count_in_log("it could not be kept") == 0 {
            clients.push(AttachClient::connects(&server, "u", None, &[("fpty.take", "1")]).takes());
        }
        server.wait_for_log("it could not be kept");
        let all = server.programs().len();
        let gateway = server.gateway();
        process::signal(gateway, Signal::SIGKILL);
        wait_until("there is another gateway", || server.gateway() != gateway);
        let live = || {
            let programs = server.session_processes().into_iter();
            programs.filter(|it| !it.name.starts_with("fpty-")).count()
        };
        wait_until("some have ended, and no more", || live() < all);
        assert!(live() > 0);
        wait_for(&server, "session-end", all - live());
    });
}

/// A supervisor that is stopped keeps nobody waiting for ever.
#[test]
fn a_stopped_supervisor_is_replaced() {
    in_process(|flavor| {
        let server = server(flavor);
        let SupervisedSessions { mut bound, .. } = SupervisedSessions::new(&server, "true");
        let before = server.supervisor().expect("something keeps them");
        process::signal(before, Signal::SIGSTOP);
        server.replace_gateway("kill");
        wait_until("it is gone", || Process::of(before).is_none_or(|it| it.is_zombie()));
        let mut next = at_the_prompt(AttachClient::begins(&server, &[]).takes(), "true");
        wait_until("there is another", || server.supervisor().is_some_and(|pid| pid != before));
        next.terminal().send("exit 7\n");
        assert_eq!(next.ended().1, 7);
        let _ = bound.terminal();
    });
}
