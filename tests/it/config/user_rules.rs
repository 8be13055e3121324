//! Rules for users that have numbers only, and limits for each user.

use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::connection::extended_mode::open;
use crate::harness::client::Pipes;
use crate::harness::ports::free_address;
use crate::harness::users::{as_user, can_be_others, fpty_as};
use crate::harness::{
    Flavor, Server, Setup, Wire, executable, in_process, on_every_server, process, wait_until,
};

/// A user that nobody is, and groups likewise.
const ONE: u32 = 48_001;
const OTHER: u32 = 48_002;
const GROUP: u32 = 48_100;

fn by_rules(flavor: &Flavor, mode: &str, rules: &str) -> Setup {
    let rules = format!("addr={{dir}}/s,{rules}");
    Setup::new(flavor).option(&format!("forkpty-{mode}2"), &rules)
}

/// Runs `exit 7` there as somebody; what became of it.
#[track_caller]
fn attempt(server: &Server, uid: u32, groups: &[u32], address: &str) -> (Option<i32>, String) {
    let typed = server.path("typed");
    std::fs::write(&typed, "exit 7\n").unwrap();
    let typed = std::fs::File::open(typed).unwrap();
    let fpty = fpty_as(server, uid, groups, &[address]);
    let finished = Pipes::reading(fpty, typed).finish();
    let shown = String::from_utf8_lossy(&finished.stdout).into_owned();
    (finished.status.code(), finished.stderr + &shown)
}

#[track_caller]
fn comes_in(server: &Server, uid: u32, groups: &[u32]) {
    let (status, said) = attempt(server, uid, groups, &server.path("s"));
    assert_eq!(status, Some(7), "{uid} {groups:?}: {said} {}", server.log());
}

#[track_caller]
fn stays_out(server: &Server, uid: u32, groups: &[u32]) {
    let (status, said) = attempt(server, uid, groups, &server.path("s"));
    assert_eq!(status, Some(255), "{uid} {groups:?}: {said}");
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(lines.len() == 1 && lines[0].ends_with("session refused: not permitted"), "{said}");
}

#[test]
fn numeric_users_and_groups_are_allowed_and_denied() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        let start =
            |rules: &str| by_rules(flavor, "urouter", &format!("chmod=666,{rules}")).start();
        let server = start(&format!("allow_user={ONE}"));
        comes_in(&server, ONE, &[GROUP]);
        comes_in(&server, 0, &[0]);
        stays_out(&server, OTHER, &[GROUP]);
        assert_eq!(server.count_in_log("is refused: "), 1);
        let server = start(&format!("allow_group={GROUP},deny_user={OTHER}"));
        comes_in(&server, ONE, &[GROUP]);
        // Only among the supplementary ones.
        comes_in(&server, ONE, &[ONE, 5, GROUP]);
        stays_out(&server, ONE, &[ONE, 5]);
        stays_out(&server, OTHER, &[GROUP]);
        let server = start(&format!("deny_group={GROUP};7,root=deny"));
        comes_in(&server, ONE, &[ONE]);
        stays_out(&server, ONE, &[ONE, GROUP]);
        stays_out(&server, ONE, &[7]);
        stays_out(&server, 0, &[0]);
        let server = start(&format!("allow_user={ONE};{OTHER},allow_group={GROUP}"));
        comes_in(&server, ONE, &[GROUP]);
        stays_out(&server, ONE, &[ONE]);
        stays_out(&server, OTHER + 1, &[GROUP]);
    });
}

/// The global lists hold for plain sockets; a socket's own replace them.
#[test]
fn a_sockets_own_list_replaces_the_global_one() {
    if !can_be_others() {
        return;
    }
    on_every_server(|flavor| {
        let address = free_address();
        let server = by_rules(flavor, "urouter", &format!("chmod=666,allow_user={OTHER}"))
            .option("forkpty-urouter", "{dir}/u")
            .option("forkpty-router", &address)
            .argument("--chmod-socket=666")
            .option("forkptyrouter-allow-user", &ONE.to_string())
            .start();
        let plain = server.path("u");
        assert_eq!(attempt(&server, ONE, &[ONE], &plain).0, Some(7));
        assert_eq!(attempt(&server, OTHER, &[ONE], &plain).0, Some(255));
        comes_in(&server, OTHER, &[ONE]);
        stays_out(&server, ONE, &[ONE]);
        // Nobody is known by a user over TCP.
        let text = Wire::connect(&address).text_to_end();
        assert_eq!(text, "forkptyrouter: session refused: not permitted\r\n");
    });
}

/// One line each, status not 0, and nothing is bound.
#[test]
fn an_invalid_user_rule_ends_the_start() {
    on_every_server(|flavor| {
        for (option, value) in [
            ("forkpty-router2", "addr={dir}/s,bogus=1"),
            ("forkpty-router2", "addr={dir}/s,max"),
            ("forkptyrouter2", "addr={dir}/s,max=1,max=1"),
            ("forkpty-urouter2", "addr={dir}/s,uid=no-such-user"),
            ("forkptyurouter2", "addr={dir}/s,allow_group=no-such-group"),
            ("forkpty-router2", "addr={dir}/s,max_time=8x"),
            ("forkpty-router2", "addr={dir}/s,chdir=/no/such/folder"),
            ("forkpty-router2", "addr={dir}/s,allow_addr=10.0.0.0/8"),
            ("forkpty-router2", "cmd=/bin/sh"),
            ("forkptyrouter-allow-user", "no-such-user"),
            ("forkptyrouter-deny-addr", "10.0.0.0/99"),
            ("forkptyrouter-max-sessions", "-1"),
            ("forkptyrouter-rate", "many"),
            ("forkptyrouter-timeout", "8x"),
            ("forkptyrouter-max-time", "m"),
        ] {
            let setup = Setup::new(flavor).option("forkpty-router", "{dir}/plain");
            let (plain, own) = (setup.path("plain"), setup.path("s"));
            let ended = setup.option(option, value).run();
            assert!(!ended.status.success(), "{option} = {value}");
            let wrong = |line: &&str| line.starts_with("forkptyrouter: option ");
            let lines: Vec<&str> = ended.log.lines().filter(wrong).collect();
            assert!(lines.len() == 1 && lines[0].contains(option), "{value}: {}", ended.log);
            for path in [plain, own] {
                assert!(!std::path::Path::new(&path).exists(), "{option} = {value}: bound");
            }
        }
    });
}

#[test]
fn a_program_runs_as_another_user_in_another_folder() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        let rules =
            format!("uid={ONE},gid={OTHER},groups={GROUP};7,chdir=/tmp,env=HOME=/a\\,b;WHO=me");
        let server = by_rules(flavor, "router", &rules).start();
        let mut client = server.connect("s");
        assert_eq!(client.shell("id -u; id -g"), format!("{ONE}\r\n{OTHER}\r\n"));
        let groups = client.shell("id -G");
        let mut groups: Vec<&str> = groups.split_whitespace().collect();
        groups.sort_unstable();
        assert_eq!(groups, ["48002", "48100", "7"]);
        assert_eq!(client.shell("pwd; echo $HOME $WHO"), "/tmp\r\n/a,b me\r\n");
        // Its terminal is its own, and there is no way back.
        assert_eq!(client.shell("test -O $(tty) && echo own"), "own\r\n");
        let ids = client.shell("grep -E '^(Uid|Gid|CapEff|CapAmb)' /proc/self/status");
        let of = |key: &str| ids.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        assert_eq!(of("Uid:"), Some("48001\t48001\t48001\t48001"));
        assert_eq!(of("Gid:"), Some("48002\t48002\t48002\t48002"));
        assert_eq!(of("CapEff:"), Some("0000000000000000"));
        drop(client);
        wait_until("its program ends", || server.programs().is_empty());
        // The gateway is still who it was.
        let gateway = process::status(server.gateway(), "Uid").unwrap();
        assert!(gateway.starts_with('0'), "{gateway}");
    });
}

#[test]
fn the_session_limit_holds_over_all_gateways() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option("forkpty-router", "{dir}/s")
            .option("forkpty-urouter", "{dir}/u")
            .option("forkptyrouter-max-sessions", "6")
            .option("forkptyrouter-processes", "3")
            .start();
        let mut clients: Vec<Wire> = (0..6).map(|_| server.connect("s")).collect();
        for client in &mut clients {
            client.shell("true");
        }
        for socket in ["s", "u"] {
            let text = server.connect(socket).text_to_end();
            assert!(text.contains("as many sessions as there may be (max-sessions)"), "{text}");
        }
        drop(clients.pop());
        let is_in = |client: &Wire| client.read_for(Duration::from_secs(2)) == b"$ ";
        wait_until("there is room for one again", || is_in(&server.connect("s")));
        // What a gateway counted that was killed goes with it.
        drop(clients);
        for gateway in process::children(server.master()) {
            process::signal(gateway.pid, Signal::SIGKILL);
        }
        wait_until("all six have room", || {
            let clients: Vec<_> = (0..6).map(|_| server.connect("s")).collect();
            clients.iter().all(is_in)
        });
    });
}

/// Clients that send nothing count, too.
#[test]
fn the_limit_per_user_counts_silent_connections() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        let server = by_rules(flavor, "urouter", "chmod=666,max_user=2,max=3").start();
        let hold = |uid: u32| Pipes::open(fpty_as(&server, uid, &[uid], &[&server.path("s")]));
        let (one, two) = (hold(ONE), hold(ONE));
        wait_until("both are in", || server.programs().len() == 2);
        let (status, said) = attempt(&server, ONE, &[ONE], &server.path("s"));
        assert_eq!(status, Some(255));
        assert!(said.contains("(max-user-sessions)"), "{said}");
        let three = hold(OTHER);
        wait_until("the other one is in", || server.programs().len() == 3);
        let (status, said) = attempt(&server, OTHER, &[OTHER], &server.path("s"));
        assert_eq!(status, Some(255));
        assert!(said.contains("(max-sessions)"), "{said}");
        one.send("exit\n");
        one.finish();
        wait_until("its place is free", || {
            attempt(&server, ONE, &[ONE], &server.path("s")).0 == Some(7)
        });
        for held in [two, three] {
            held.send("exit\n");
            held.finish();
        }
    });
}

/// A minute before.
#[test]
fn a_client_is_told_a_minute_before_its_limit() {
    in_process(|flavor| {
        let server = by_rules(flavor, "urouter", "max_time=61,handover=false").start();
        let mut client = server.connect("s");
        open(&client, &[]);
        client.read_until("this session ends in a minute");
    });
}

/// From the outside of a user namespace its users have numbers here; within
/// one those of the outside have none.
#[test]
fn users_of_another_namespace_match_no_name() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        // The server is in a namespace in which only its own user has a number.
        let setup = Setup::new(flavor);
        std::fs::set_permissions(setup.path(""), PermissionsExt::from_mode(0o777)).unwrap();
        let binary = flavor.binary.display().to_string();
        let plugins = flavor.plugins.display().to_string();
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--", &binary, "--plugins-dir", &plugins]);
        unshare.args(["--plugin", "forkptyrouter", "--forkpty-urouter2"]);
        unshare.arg(format!("addr={},chmod=666,allow_user=65534", setup.path("s")));
        let log = std::fs::File::create(setup.path("log")).unwrap();
        unshare.stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = unshare.spawn().expect("unshare runs");
        let socket = setup.path("s");
        let copy = setup.path("fpty");
        executable::write(&copy, std::fs::read(crate::harness::servers::fpty()).unwrap());
        let mut fpty = std::process::Command::new(copy);
        fpty.arg(&socket).stdin(Stdio::null());
        as_user(&mut fpty, ONE, &[ONE]);
        wait_until("it serves or cannot", || {
            std::path::Path::new(&socket).exists() || child.try_wait().unwrap().is_some()
        });
        if std::path::Path::new(&socket).exists() {
            let mut output: Option<Output> = None;
            wait_until("it answers", || {
                let one = fpty.output().unwrap();
                let text = String::from_utf8_lossy(&one.stderr).into_owned();
                let answered = text.contains("not permitted");
                output = Some(one);
                answered || text.is_empty()
            });
            let output = output.unwrap();
            assert_eq!(output.status.code(), Some(255), "{output:?}");
        }
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGINT);
        let _ = child.wait();
    });
}

/// A server that is not root and may change its user all the same, as service
/// managers can have it (AmbientCapabilities): its programs may not.
#[test]
fn ambient_capabilities_do_not_reach_programs_of_other_users() {
    if !can_be_others() {
        return;
    }
    on_every_server(|flavor| {
        let setup = Setup::new(flavor);
        std::fs::set_permissions(setup.path(""), PermissionsExt::from_mode(0o777)).unwrap();
        let mut setpriv = std::process::Command::new("setpriv");
        let ids = [format!("--reuid={OTHER}"), format!("--regid={OTHER}")];
        setpriv.args(ids).args(["--clear-groups", "--inh-caps=+setuid,+setgid"]);
        setpriv.args(["--ambient-caps=+setuid,+setgid", "--"]).arg(&flavor.binary);
        setpriv.arg("--plugins-dir").arg(&flavor.plugins);
        setpriv.args(["--plugin", "forkptyrouter", "--forkpty-router2"]);
        setpriv.arg(format!("addr={},uid={ONE},gid={ONE}", setup.path("s")));
        let log = std::fs::File::create(setup.path("log")).unwrap();
        let mut child = setpriv.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let socket = setup.path("s");
        wait_until("it serves", || std::path::Path::new(&socket).exists());
        let mut client = Wire::connect(&socket);
        let status = client.shell("id -u; grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status");
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGINT);
        let _ = child.wait();
        assert!(status.starts_with(&ONE.to_string()), "{status}");
        assert_eq!(status.matches("0000000000000000").count(), 3, "{status}");
    });
}
