//! Sockets with rules of their own, and the global ones: who may come in, how
//! many and how long, and as whom programs run.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::client::{Finished, Pipes};
use crate::harness::ports::free_port;
use crate::harness::{Server, Setup, Wire, in_process, on_every_server, servers, wait_until};

/// The line for whoever may not come in.
const NOT_PERMITTED: &str = "forkptyrouter: session refused: not permitted\r\n";

/// A command of a user who has only a number, with these groups.
fn run_as(uid: u32, gid: u32, groups: &[u32], to: &str) -> Finished {
    let mut fpty = Command::new(servers::fpty());
    fpty.args([to, "id -u"]);
    let groups: Vec<nix::unistd::Gid> = groups.iter().copied().map(Into::into).collect();
    // SAFETY: three system calls; the memory was made before.
    unsafe {
        fpty.pre_exec(move || {
            nix::unistd::setgroups(&groups)?;
            nix::unistd::setgid(gid.into())?;
            nix::unistd::setuid(uid.into())?;
            Ok(())
        });
    }
    Pipes::reading(fpty, Stdio::null()).finish()
}

fn may(uid: u32, gid: u32, groups: &[u32], to: &str) -> bool {
    let ended = run_as(uid, gid, groups, to);
    match ended.status.code() {
        Some(0) => true,
        Some(255) => {
            assert!(ended.stderr.contains("not permitted"), "{ended:?}");
            assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
            false
        }
        _ => panic!("{ended:?}"),
    }
}

/// A server whose folder everybody may enter.
fn open(setup: Setup) -> Server {
    let server = setup.start();
    fs::set_permissions(server.path(""), fs::Permissions::from_mode(0o755)).expect("its folder");
    server
}

fn is_root() -> bool {
    nix::unistd::getuid().is_root()
}

#[test]
fn users_and_groups_are_allowed_and_denied() {
    if !is_root() {
        return;
    }
    in_process(|flavor| {
        let rules = [
            ("a", "allow_user=4001"),
            ("b", "allow_group=5001"),
            ("c", "allow_user=4001;4002,allow_group=5001,deny_user=4002"),
            ("d", "deny_group=5001"),
            ("e", "root=deny"),
            ("f", ""),
        ];
        let mut setup = Setup::new(flavor);
        for (name, rule) in rules {
            let typed = format!("addr={{dir}}/{name},chmod=666,allow_command=true,{rule}");
            setup = setup.option("forkpty-urouter2", &typed);
        }
        let server = open(setup);
        let peers: [(u32, u32, &[u32]); 6] = [
            (4001, 1, &[]),
            (4001, 1, &[5001]),
            (4002, 5001, &[]),
            (4003, 5001, &[]),
            (4003, 1, &[]),
            (0, 0, &[]),
        ];
        let expected = [
            ("a", [true, true, false, false, false, true]),
            ("b", [false, true, true, true, false, true]),
            ("c", [false, true, false, false, false, true]),
            ("d", [true, false, false, false, true, true]),
            ("e", [true, true, true, true, true, false]),
            ("f", [true; 6]),
        ];
        for (name, expected) in expected {
            let got = peers.map(|(uid, gid, groups)| may(uid, gid, groups, &server.path(name)));
            assert_eq!(got, expected, "{name}");
        }
        assert!(server.count_in_log("is refused: ") >= 5, "{}", server.log());
        // A client in raw mode, as the C plugin's, reads the line.
        let mut wire = server.connect("e");
        assert_eq!(wire.text_to_end(), NOT_PERMITTED);
    });
}

#[test]
fn global_rules_hold_for_sockets_without_their_own() {
    if !is_root() {
        return;
    }
    on_every_server(|flavor| {
        let (one, two) = (free_port(), free_port());
        let server = open(
            Setup::new(flavor)
                .option("forkptyrouter-allow-user", "4001")
                .option("forkptyrouter-allow-user", "4002")
                .option("forkptyrouter-allow-command", "true")
                .argument("--chmod-socket=666")
                .option("forkpty-urouter", "{dir}/plain")
                .option("forkpty-urouter2", "addr={dir}/own,allow_user=4003")
                .option("forkpty-router", &format!("127.0.0.1:{one}"))
                .option("forkpty-router2", &format!("addr=127.0.0.1:{two},allow_addr=127.0.0.0/8")),
        );
        let plain = [4001, 4002, 4003].map(|uid| may(uid, 1, &[], &server.path("plain")));
        assert_eq!(plain, [true, true, false]);
        let own = [4001, 4003].map(|uid| may(uid, 1, &[], &server.path("own")));
        assert_eq!(own, [false, true]);
        // Over TCP nobody is known.
        let mut wire = Wire::connect(&format!("127.0.0.1:{one}"));
        assert_eq!(wire.text_to_end(), NOT_PERMITTED);
        let mut wire = Wire::connect(&format!("127.0.0.1:{two}"));
        assert_eq!(wire.shell("echo in"), "in\r\n");
    });
}

#[test]
fn tcp_addresses_are_allowed_and_denied() {
    in_process(|flavor| {
        let (one, two) = (free_port(), free_port());
        let _server = Setup::new(flavor)
            .option("forkptyrouter-deny-addr", "127.0.0.1")
            .option("forkpty-router", &format!("127.0.0.1:{one}"))
            .option("forkpty-router2", &format!("addr=127.0.0.1:{two},deny_addr=10.0.0.0/8;::1"))
            .start();
        let mut wire = Wire::connect(&format!("127.0.0.1:{one}"));
        assert_eq!(wire.text_to_end(), NOT_PERMITTED);
        let mut wire = Wire::connect(&format!("127.0.0.1:{two}"));
        assert_eq!(wire.shell("echo in"), "in\r\n");
    });
}

#[test]
fn programs_run_as_the_sockets_user() {
    if !is_root() {
        return;
    }
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option(
                "forkpty-router2",
                "addr={dir}/s,uid=4001,gid=5001,groups=5002;5003,chdir=/usr,env=A=x\\,y;B=2,rows=30,\
                 cols=90",
            )
            .option("forkpty-router2", "addr={dir}/nobody,uid=nobody")
            .option("forkpty-urouter2", "addr={dir}/u,allow_command=true,uid=4001,gid=5001")
            .start();
        let mut wire = server.connect("s");
        let said = wire.shell("id -u; id -G; pwd; echo $A$B; stty size; stat -c %u $(tty)");
        assert_eq!(said, "4001\r\n5001 5002 5003\r\n/usr\r\nx,y2\r\n30 90\r\n4001\r\n");
        let mut wire = server.connect("nobody");
        assert_eq!(wire.shell("id -un; echo $USER"), "nobody\r\nnobody\r\n");
        let mut fpty = Command::new(servers::fpty());
        fpty.args([&server.path("u"), "id -u; id -G"]);
        let ended = Pipes::reading(fpty, Stdio::null()).finish();
        assert_eq!(ended.text(), "4001\n5001\n");
    });
}

#[test]
fn a_server_that_cannot_change_its_user_says_so_at_the_start() {
    if !is_root() {
        return;
    }
    on_every_server(|flavor| {
        let ended = Setup::new(flavor)
            .option("uid", "4001")
            .option("gid", "4001")
            .option("forkpty-router2", "addr=/tmp/never-bound.socket,uid=4002,gid=4002")
            .run();
        assert!(!ended.status.success(), "{}", ended.log);
        assert!(ended.log.contains("cannot become another"), "{}", ended.log);
        assert!(!ended.log.contains("bound on"), "{}", ended.log);
    });
}

#[test]
fn a_socket_has_its_mode_and_its_owner() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor)
            .option("forkpty-router", "{dir}/plain")
            .option("forkpty-router2", "addr={dir}/own,chmod=640")
            .argument("--chmod-socket=660")
            .start();
        let mode = |name: &str| fs::metadata(server.path(name)).expect(name).mode() & 0o777;
        assert_eq!((mode("plain"), mode("own")), (0o660, 0o640));
        drop(server);
        if is_root() {
            let server = Setup::new(flavor)
                .option("forkpty-router2", "addr={dir}/s,chown=4001:5001,chmod=600")
                .start();
            let there = fs::metadata(server.path("s")).expect("a socket");
            assert_eq!((there.uid(), there.gid(), there.mode() & 0o777), (4001, 5001, 0o600));
        }
    });
}

#[test]
fn an_invalid_rule_ends_the_start() {
    on_every_server(|flavor| {
        for (option, value, part) in [
            ("forkpty-router2", "cmd=/bin/sh", "there is no addr="),
            ("forkpty-router2", "addr={dir}/s,bogus=1", "bogus: no such key"),
            ("forkpty-router2", "addr={dir}/s,rows", "not a key=value"),
            ("forkpty-router2", "addr={dir}/s,max=1,max=2", "given twice"),
            ("forkpty-urouter2", "addr={dir}/s,uid=no-such-user", "uid = no-such-user"),
            ("forkpty-urouter2", "addr={dir}/s,allow_group=no-such-group", "no such group"),
            ("forkpty-urouter2", "addr={dir}/s,idle=1x", "not a time"),
            ("forkpty-urouter2", "addr={dir}/s,allow_addr=10.0.0.0/8", "only a TCP socket"),
            ("forkptyrouter-allow-user", "no-such-user", "no such user"),
            ("forkptyrouter-allow-addr", "10.0.0.0/99", "not an address"),
            ("forkptyrouter-max-time", "soon", "not a time"),
            ("forkptyrouter-max-sessions", "-1", "-1"),
        ] {
            let ended =
                Setup::new(flavor).option("forkpty-router", "{dir}/p").option(option, value).run();
            assert!(!ended.status.success(), "{option} {value}");
            let lines: Vec<&str> = ended.log.lines().filter(|line| line.contains(option)).collect();
            assert!(lines.iter().any(|line| line.contains(part)), "{part}: {}", ended.log);
            assert!(!ended.log.contains("bound on"), "{}", ended.log);
        }
    });
}

#[test]
fn session_limits_hold_over_all_gateways() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option("forkptyrouter-processes", "3")
            .option("forkptyrouter-max-sessions", "5")
            .option("forkpty-router", "{dir}/s")
            .option("forkpty-urouter2", "addr={dir}/u,max_user=2,max=0")
            .start();
        let mut inside: Vec<Wire> = Vec::new();
        let refused = |wire: &mut Wire| {
            let said = wire.text_to_end();
            assert!(said.contains("as many sessions"), "{said}");
        };
        for _ in 0..5 {
            let mut wire = server.connect("s");
            wire.shell("true");
            inside.push(wire);
        }
        for _ in 0..4 {
            refused(&mut server.connect("s"));
        }
        // A permit that was released can be taken again.
        drop(inside.pop());
        wait_until("there is a seat", || {
            let wire = server.connect("s");
            let said = wire.read_for(Duration::from_millis(300));
            // A prompt, or the refusal.
            !said.is_empty() && !String::from_utf8_lossy(&said).contains("as many sessions")
        });
        // These send nothing. Which of them a gateway takes first is open; two are in,
        // and one is refused for want of a permit, a moment later: it may need none.
        let silent = [server.connect("u"), server.connect("u"), server.connect("u")];
        let is_refused = |wire: &&Wire| {
            let said = wire.read_for(Duration::from_secs(1));
            String::from_utf8_lossy(&said).contains("as many sessions")
        };
        assert_eq!(silent.iter().filter(is_refused).count(), 1);
    });
}

#[test]
fn a_connection_rate_delays_and_refuses_nobody() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option("forkptyrouter-processes", "3")
            .option("forkpty-router2", "addr={dir}/s,rate=10,cmd=/bin/true")
            .option("forkpty-router", "{dir}/fast")
            .start();
        let started = Instant::now();
        let mut wires: Vec<Wire> = (0..25).map(|_| server.connect("s")).collect();
        let mut other = server.connect("fast");
        assert_eq!(other.shell("echo in"), "in\r\n");
        assert!(started.elapsed() < Duration::from_secs(1), "another socket waits");
        for wire in &mut wires {
            assert_eq!(wire.text_to_end(), "");
        }
        let took = started.elapsed();
        // Ten at once, and fifteen more.
        assert!(took >= Duration::from_millis(1400), "{took:?}");
        assert!(took < Duration::from_secs(6), "{took:?}");
    });
}

#[test]
fn the_time_limit_ends_a_session() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option("forkpty-router2", "addr={dir}/s,max_time=1s")
            .option("forkpty-urouter2", "addr={dir}/u,max_time=1s,allow_command=true")
            .start();
        let mut wire = server.connect("s");
        wire.shell("true");
        let said = wire.text_to_end();
        assert!(said.ends_with("session ended: its time is over (max-time)\r\n"), "{said}");
        let mut fpty = Command::new(servers::fpty());
        fpty.args([&server.path("u"), "sleep 1000"]);
        let ended = Pipes::reading(fpty, Stdio::null()).finish();
        assert_eq!(ended.status.code(), Some(254), "{ended:?}");
        assert!(ended.stderr.contains("its time is over"), "{ended:?}");
        wait_until("its program is gone", || server.session_processes().is_empty());
    });
}
