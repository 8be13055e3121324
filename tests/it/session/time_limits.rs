//! Time limits: by a clock that nobody sets and that counts while the machine sleeps; for
//! commands without a terminal, too.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::audit::lines::{audited, of, wait_for};
use crate::connection::extended_mode::open;
use crate::harness::attach_client::AttachClient;
use crate::harness::client::Pipes;
use crate::harness::wire::{input, packet, variable};
use crate::harness::{
    Flavor, Server, Setup, Wire, in_process, on_one_server, process, servers, side_by_side,
    wait_until,
};

const PING: u8 = 107;
const TERMINAL: u8 = 103;

/// Shows another wall clock to the server: ahead by as many seconds as a file says.
/// (To set the machine's would be felt by everybody on it.)
const WALL: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, time);
    const char *path = getenv("WALL_CLOCK");
    if (!failed && path && clock == CLOCK_REALTIME) {
        char text[32] = {0};
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && read(fd, text, sizeof text - 1) > 0) time->tv_sec += atol(text);
        if (fd >= 0) close(fd);
    }
    return failed;
}
"#;

/// A server whose wall clock can be set; `None`: there is no C compiler.
fn with_a_wall_clock(flavor: &Flavor) -> Option<Setup> {
    let setup = audited(flavor).file("wall.c", WALL).file("ahead", "0");
    let (source, library) = (setup.path("wall.c"), setup.path("wall.so"));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", &library, &source, "-ldl"])
        .status()
        .is_ok_and(|status| status.success());
    if !compiled {
        eprintln!("skipped: nothing compiles C here");
        return None;
    }
    let ahead = setup.path("ahead");
    Some(setup.env("LD_PRELOAD", &library).env("WALL_CLOCK", &ahead))
}

fn set_wall_clock(server: &Server, ahead: i64) {
    std::fs::write(server.path("new"), ahead.to_string()).unwrap();
    std::fs::rename(server.path("new"), server.path("ahead")).unwrap();
}

/// Times of a gateway's alarms (timerfd, proc(5)).
fn alarms(gateway: i32) -> Vec<String> {
    let of_alarm = |(number, path): &(u32, std::path::PathBuf)| {
        let is_one = path == Path::new("anon_inode:[timerfd]");
        is_one.then(|| std::fs::read_to_string(format!("/proc/{gateway}/fdinfo/{number}")).unwrap())
    };
    process::descriptors(gateway).iter().filter_map(of_alarm).collect()
}

/// A limit of hours is the kernel's to tell of, by the clock that counts on; where
/// nothing is that far there is nothing of the kind.
#[test]
fn a_far_limit_is_a_timer_of_clock_boottime() {
    on_one_server(|flavor| {
        for (option, least) in
            [("forkptyrouter-max-time", 7100), ("forkptyrouter-timeout", 7100), ("", 0)]
        {
            let mut setup = Setup::new(flavor);
            if !option.is_empty() {
                setup = setup.option(option, "2h");
            }
            let server = setup.uwsgi();
            let mut client = server.connect("u");
            open(&client, &[]);
            client.read_until("$ ");
            let alarms = alarms(server.gateway());
            if option.is_empty() {
                assert!(alarms.is_empty(), "{alarms:?}");
                continue;
            }
            // CLOCK_BOOTTIME; the times are "(seconds, nanoseconds)".
            assert_eq!(alarms.len(), 1, "{alarms:?}");
            assert!(alarms[0].contains("clockid: 7\n"), "{alarms:?}");
            let rest = alarms[0].split_once("it_value: (").unwrap().1;
            let seconds: u64 = rest.split_once(',').unwrap().0.parse().unwrap();
            assert!((least..=7140).contains(&seconds), "{alarms:?}");
        }
    });
}

/// Forth and back by a day: what is limited goes on, and what is told is true.
#[test]
fn setting_the_wall_clock_changes_no_limit_and_no_duration() {
    in_process(|flavor| {
        side_by_side([86_400, -86_400], |day| {
            let Some(setup) = with_a_wall_clock(flavor) else {
                return;
            };
            let server = setup
                .option("forkptyrouter-max-time", "1h")
                .option("forkptyrouter-timeout", "30m")
                .option("forkptyrouter-detach", "10")
                .option("forkptyrouter-detach-time", "1h")
                .uwsgi();
            let began = Instant::now();
            let mut stays =
                AttachClient::connects(&server, "u", None, &[("fpty.take", "1")]).takes();
            stays.terminal().send("\n");
            stays.terminal().read_until("$ ");
            let left = AttachClient::begins(&server, &[("fpty.name", "left")]).takes().leaves();
            let mut relayed = server.connect("u");
            open(&relayed, &[]);
            relayed.read_until("$ ");
            wait_for(&server, "session-start", 3);
            set_wall_clock(&server, day);
            // Another one is there, and has seen no other clock.
            server.replace_gateway("kill");
            relayed.wait_for_end();
            // It looks each second, and lets nobody go.
            std::thread::sleep(Duration::from_millis(2500));
            stays.terminal().send("echo he''re\n");
            stays.terminal().read_until("here\r\n");
            stays.terminal().send("exit 3\n");
            assert_eq!(stays.ended().1, 3, "{day}");
            let mut back = AttachClient::comes(&server, &left, &[]).takes();
            back.terminal().send("exit 4\n");
            assert_eq!(back.ended().1, 4, "{day}");
            let most = began.elapsed().as_secs_f64();
            wait_until("all ends were told", || server.count_in_log("\"session-end\"") >= 3);
            let lines = crate::audit::lines::lines(&server.log());
            for end in of(&lines, "session-end") {
                let duration = end["duration"].as_f64().unwrap();
                assert!((0.0..=most).contains(&duration), "{day}: {end}");
            }
        });
    });
}

fn fpty(arguments: &[&str]) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.args(arguments);
    fpty
}

/// Asks for a command without a terminal.
#[track_caller]
fn command(server: &Server, line: &str) -> Wire {
    let mut client = server.connect("u");
    client.send(crate::harness::wire::header(1, 102));
    client.read_while("the answer", |bytes| bytes.len() >= 4);
    client.send(packet(TERMINAL, &variable("fpty.terminal", "0")));
    client.send(packet(105, format!("c{line}").as_bytes()));
    client.send(packet(TERMINAL, &[]));
    client
}

fn with_commands(flavor: &Flavor, rules: &str) -> Server {
    let value = format!("addr={{dir}}/u,allow_command=true,{rules}");
    Setup::new(flavor)
        .option("forkptyrouter-audit", "json")
        .option("forkpty-urouter2", &value)
        .start()
}

/// On standard error, a minute before.
#[test]
fn a_command_is_told_a_minute_before_its_limit() {
    in_process(|flavor| {
        side_by_side(["max_time=61", "idle_commands=61"], |rules| {
            let server = with_commands(flavor, rules);
            let mut sleeper = fpty(&["-T", &server.path("u"), "sleep 1000"]);
            let log = std::fs::File::create(server.path("said")).unwrap();
            let mut child = sleeper.stderr(log).spawn().unwrap();
            let said = || std::fs::read_to_string(server.path("said")).unwrap();
            wait_until("it is told", || said().contains("this session ends in a minute"));
            assert_eq!(said().lines().count(), 1, "{rules}: {}", said());
            assert_eq!(child.try_wait().unwrap(), None, "{rules}");
            child.kill().unwrap();
            child.wait().unwrap();
        });
    });
}

/// Be its streams the client's pipes: they are relayed then, and count.
#[test]
fn an_idle_command_ends_and_a_busy_one_goes_on() {
    in_process(|flavor| {
        let server = with_commands(flavor, "idle_commands=2");
        let began = Instant::now();
        let idle = Pipes::open(fpty(&["-T", &server.path("u"), "echo begun; exec sleep 1000"]));
        let busy = "for i in 1 2 3 4 5 6 7; do sleep 0.5; echo $i; done; exit 7";
        let busy = Pipes::open(fpty(&["-T", &server.path("u"), busy]));
        let ended = idle.finish();
        assert_eq!(ended.status.code(), Some(254), "{ended:?}");
        assert!(ended.stderr.contains("command ended: no traffic for 2 seconds"), "{ended:?}");
        assert_eq!(ended.stdout, b"begun\n");
        assert!(began.elapsed() >= Duration::from_secs(2));
        let ended = busy.finish();
        assert_eq!(
            (ended.status.code(), ended.stdout),
            (Some(7), b"1\n2\n3\n4\n5\n6\n7\n".to_vec())
        );
        let lines = wait_for(&server, "session-end", 2);
        let mut reasons: Vec<_> =
            of(&lines, "session-end").iter().map(|end| end["reason"].clone()).collect();
        reasons.sort_by_key(ToString::to_string);
        assert_eq!(reasons, ["exit", "idle"]);
    });
}

/// A client's pings are no traffic: over TCP it sends them by itself all the time.
#[test]
fn a_client_that_only_pings_is_idle() {
    in_process(|flavor| {
        let server = with_commands(flavor, "idle=2,idle_commands=2,handover=false");
        let terminal = server.connect("u");
        open(&terminal, &[]);
        side_by_side([terminal, command(&server, "exec sleep 1000")], |client| {
            let began = Instant::now();
            let mut client = client;
            let fd = client.fd().try_clone().unwrap();
            let asks = Wire::over(fd, "the same");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while began.elapsed() < Duration::from_secs(8) {
                        let sent = nix::unistd::write(asks.fd(), &packet(PING, &[]));
                        if sent.is_err() {
                            return;
                        }
                        std::thread::sleep(Duration::from_millis(200));
                    }
                });
                // Not the end of the connection: that lingers while pings come.
                client.read_until("no traffic for");
                assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
            });
        });
    });
}

/// A session without any input or output has as long as another.
#[test]
fn a_session_without_any_traffic_is_told_a_minute_before() {
    in_process(|flavor| {
        let setup = Setup::new(flavor).script("stty -echo; exec sleep 1000");
        let server = setup.option("forkptyrouter-timeout", "61").uwsgi();
        let mut client = AttachClient::connects(&server, "u", None, &[]);
        client.waits("a notice", |client| !client.notices.is_empty());
        assert!(client.notices[0].contains("ends in a minute"), "{:?}", client.notices);
        assert_eq!(client.end, None);
    });
}

/// A command whose client reads nothing ends at its limit all the same.
#[test]
fn a_command_whose_client_does_not_read_ends_at_its_limit() {
    in_process(|flavor| {
        let server = with_commands(flavor, "max_time=1");
        let client = command(&server, "exec cat /dev/zero");
        client.send(input("x"));
        wait_until("it runs", || server.programs().iter().any(|one| one.name == "cat"));
        wait_until("it has ended", || server.programs().iter().all(|one| one.name != "cat"));
        wait_for(&server, "session-end", 1);
    });
}

/// In a time namespace (time_namespaces(7)), too, which may be that of a container
/// that was moved here: the kernel's alarm and ours mean the same time.
#[test]
fn a_limit_is_kept_in_a_time_namespace() {
    let elsewhere = ["--time", "--boottime", "1000000", "--fork"];
    if !Command::new("unshare").args(elsewhere).arg("true").status().is_ok_and(|it| it.success()) {
        eprintln!("skipped: cannot have a time namespace");
        return;
    }
    on_one_server(|flavor| {
        let setup = Setup::bare(&flavor.name, Path::new("/usr/bin/unshare")).killed_at_end();
        let setup = elsewhere.into_iter().fold(setup, Setup::argument);
        let server = setup
            .argument("--kill-child")
            .argument(&flavor.binary.display().to_string())
            .plugin(&flavor.plugins, "forkptyrouter")
            .option("forkptyrouter-max-time", "11")
            .option("forkptyrouter-audit", "json")
            .raw();
        let began = Instant::now();
        let mut client = server.connect("s");
        client.read_until("$ ");
        client.wait_for_end();
        let took = began.elapsed();
        assert!((11_000..20_000).contains(&took.as_millis()), "{took:?}");
        let lines = wait_for(&server, "session-end", 1);
        let duration = of(&lines, "session-end")[0]["duration"].as_f64().unwrap();
        assert!((10.9..20.0).contains(&duration), "{duration}");
    });
}
