//! A client that reconnects when its connection breaks: over TCP and on UNIX sockets, after a
//! killed gateway and a reload.

use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::broken_connection::Breaker;
use crate::harness::client::{Finished, Mode, Pipes, client};
use crate::harness::person::Person;
use crate::harness::ports::free_address;
use crate::harness::{
    Flavor, Server, Setup, Wire, comes_true, in_process, on_one_server, process, servers,
    wait_until,
};

const SHELL: &str = "PS1='$ ' exec bash --norc --noprofile -i";

/// A session's line is long.
const SIZE: (u16, u16) = (24, 200);

const NO_SUCH: &str = "fpty: session refused: there is no such session\n";

/// A server at a TCP address and a UNIX socket whose sessions can be left, and that
/// hands no terminal over.
fn setup(flavor: &Flavor, script: &str) -> (Setup, String) {
    let address = free_address();
    let setup = Setup::new(flavor)
        .script(script)
        .option("forkptyrouter-detach", "9")
        .option("forkptyrouter-detach-user", "9")
        .option("forkptyrouter-handover", "false")
        .option("forkpty-urouter", &address)
        .option("forkpty-urouter", "{dir}/u");
    (setup, address)
}

fn fpty(arguments: &[&str]) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.args(arguments);
    fpty
}

fn asks(arguments: &[&str]) -> Finished {
    Pipes::reading(fpty(arguments), Stdio::null()).finish()
}

/// Leaves by `~d`; returns the word to come back with.
#[track_caller]
fn leaves(mut person: Person, address: &str) -> String {
    person.send("\r~d");
    assert_eq!(person.status(), 0);
    let shown = person.shown();
    let (_, rest) = shown.rsplit_once("(come back with: fpty -a ").expect("a way back");
    let (word, rest) = rest.split_once(' ').expect("a word");
    assert!(rest.starts_with(&format!("{address})")), "{rest:?}");
    word.to_owned()
}

#[track_caller]
fn wait_until_reconnected(person: &mut Person, round: usize) {
    // The screen is painted anew at once.
    let said = "; reconnecting (what is typed is dropped; ~. or Ctrl-C gives up)\r\n";
    wait_until("it says so", || {
        person.settles();
        person.shown().matches(said).count() > round
    });
    // What is typed before it is there again is for nobody.
    let word = person.shown().len();
    wait_until("it is there again", || {
        person.send(&format!("\x15echo ag''ain {word}\r"));
        comes_true(Duration::from_millis(500), || {
            person.settles();
            person.all_lines().contains(&format!("again {word}\n"))
        })
    });
}

/// Kills the gateway, or reloads the instance.
fn replaces_gateway(server: &Server, way: &str) {
    let gateway = server.gateway();
    match way {
        "kill" => process::signal(gateway, Signal::SIGKILL),
        "end" => process::signal(gateway, Signal::SIGTERM),
        _ => process::signal(server.master(), Signal::SIGHUP),
    }
    wait_until("there is another gateway", || server.gateway() != gateway);
}

#[test]
fn a_client_reconnects_after_a_killed_gateway_and_a_reload() {
    on_one_server(|flavor| {
        let (setup, tcp) = setup(flavor, SHELL);
        let server = setup.start();
        let mut people =
            [&server.path("u"), &tcp].map(|address| Person::runs(fpty(&[address]), SIZE));
        for person in &mut people {
            person.sees("$ ");
            person.send("echo fir''st\r");
            person.sees("first\n$ ");
        }
        for (round, way) in ["kill", "reload", "end"].into_iter().enumerate() {
            replaces_gateway(&server, way);
            for person in &mut people {
                wait_until_reconnected(person, round);
            }
        }
        for mut person in people {
            assert!(person.all_lines().contains("first\n"));
            person.send("exit 7\r");
            assert_eq!(person.status(), 7);
        }
    });
}

#[test]
fn a_client_reconnects_over_tcp_whether_the_gateway_saw_the_break_or_not() {
    in_process(|flavor| {
        let (setup, tcp) = setup(flavor, SHELL);
        let _server = setup.start();
        let line = Breaker::to(&tcp);
        let mut person = Person::runs(fpty(&[&line.address]), SIZE);
        person.sees("$ ");
        person.send("echo fir''st\r");
        person.sees("first\n$ ");
        for (round, tells_gateway) in [true, false, false].into_iter().enumerate() {
            line.breaks(tells_gateway);
            wait_until_reconnected(&mut person, round);
        }
        // A terminal of another size meanwhile.
        line.refuses(true);
        line.breaks(true);
        person.sees("reconnecting");
        person.resize((30, 150));
        line.refuses(false);
        wait_until_reconnected(&mut person, 3);
        person.send("stty size; exit 7\r");
        assert_eq!(person.status(), 7);
        person.sees("30 150\n");
    });
}

#[test]
fn a_secret_is_good_for_one_attach_and_an_id_for_none() {
    on_one_server(|flavor| {
        let (setup, tcp) = setup(flavor, SHELL);
        let _server = setup.start();
        let mut person = Person::runs(fpty(&["-n", "build", &tcp]), SIZE);
        person.sees("$ ");
        person.send("echo fir''st\r");
        person.sees("first\n$ ");
        let word = leaves(person, &tcp);
        let (id, secret) = word.split_once('+').expect("an id and a secret");
        assert_eq!((id.len(), secret.len()), (8, 32));
        let wrong = format!("{id}+{}", "0".repeat(32));
        let other = format!("zzzzzzzz+{secret}");
        for word in [id, &id[..4], "build", &wrong, &other, "zzzzzzzz"] {
            let ended = asks(&["-t", "-a", word, &tcp]);
            let said = (ended.status.code(), ended.stdout.as_slice(), ended.stderr.as_str());
            assert_eq!(said, (Some(255), &b""[..], NO_SUCH), "{word}");
        }
        // The same name begins another one.
        let mut another = Person::runs(fpty(&["-A", "build", &tcp]), SIZE);
        another.sees("$ ");
        another.send("exit 3\r");
        assert_eq!(another.status(), 3);
        let mut back = Person::runs(fpty(&["-a", &word, &tcp]), SIZE);
        back.sees("first\n");
        assert_eq!(asks(&["-t", "-a", &word, &tcp]).stderr, NO_SUCH, "it was used");
        let next = leaves(back, &tcp);
        assert_ne!(next, word);
        assert_eq!(asks(&["-t", "-a", &word, &tcp]).stderr, NO_SUCH);
        // The plugin's client.
        let mut back = client(flavor, Mode::Uwsgi, &tcp);
        back.args(["--pty-attach", &next]);
        let mut back = Person::runs(back, SIZE);
        back.sees("first\n");
        back.send("exit 7\r");
        assert_eq!(back.status(), 7);
    });
}

#[test]
fn a_client_reconnects_whichever_gateway_has_its_session() {
    in_process(|flavor| {
        let (setup, tcp) = setup(flavor, SHELL);
        let server = setup.option("forkptyrouter-processes", "4").start();
        let line = Breaker::to(&tcp);
        let mut person = Person::runs(fpty(&["-n", "build", &line.address]), SIZE);
        person.sees("$ ");
        person.send("echo fir''st\r");
        person.sees("first\n$ ");
        for round in 0..4 {
            line.breaks(round % 2 == 0);
            wait_until_reconnected(&mut person, round);
        }
        let mut word = leaves(person, &line.address);
        for _ in 0..6 {
            let id = word.split('+').next().expect("an id");
            let wrong = format!("{id}+{}", "0".repeat(32));
            for word in [id, "build", &wrong] {
                assert_eq!(asks(&["-t", "-a", word, &tcp]).stderr, NO_SUCH, "{word}");
            }
            let mut back = Person::runs(fpty(&["-a", &word, &tcp]), SIZE);
            back.sees("first\n");
            word = leaves(back, &tcp);
        }
        // All of them are gone, and there again.
        let mut back = Person::runs(fpty(&["-a", &word, &tcp]), SIZE);
        back.sees("first\n");
        for gateway in process::children(server.master()) {
            process::signal(gateway.pid, Signal::SIGKILL);
        }
        wait_until_reconnected(&mut back, 0);
        back.send("exit 7\r");
        assert_eq!(back.status(), 7);
    });
}

#[test]
fn the_secret_is_in_no_list_statistics_or_log() {
    in_process(|flavor| {
        let (setup, tcp) = setup(flavor, SHELL);
        let stats = free_address();
        let server = setup
            .option("forkptyrouter-audit", "json")
            .option("forkptyrouter-stats", &stats)
            .start();
        let mut person = Person::runs(fpty(&[&tcp]), SIZE);
        person.sees("$ ");
        let word = leaves(person, &tcp);
        let (id, secret) = word.split_once('+').expect("an id and a secret");
        let mut back = Person::runs(fpty(&["-a", &word, &tcp]), SIZE);
        back.sees("$ ");
        let next = leaves(back, &tcp);
        let next = next.split_once('+').expect("an id and a secret").1;
        let listed = asks(&["-l", "--json", &server.path("u")]);
        let mut all = String::from_utf8_lossy(&listed.stdout).into_owned();
        // root sees it, if the tests are root's; as nobody's.
        if nix::unistd::getuid().is_root() {
            assert!(all.contains(id) && all.contains("\"uid\":null"), "{all}");
        }
        all.push_str(&Wire::connect(&stats).text_to_end());
        wait_until("the audit", || server.count_in_log(id) > 2);
        all.push_str(&server.log());
        for secret in [secret, next] {
            assert!(!all.to_lowercase().contains(secret), "{all}");
            let bytes: Vec<String> = (0..16)
                .map(|at| u8::from_str_radix(&secret[2 * at..2 * at + 2], 16).unwrap().to_string())
                .collect();
            assert!(!all.replace(' ', "").contains(&bytes.join(",")), "{all}");
        }
    });
}

/// Switches this thread's network on or off.
fn network(is_on: bool) {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // SAFETY: plain bytes.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = if is_on { libc::IFF_UP as libc::c_short } else { 0 };
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// As a machine that was asleep, or that has another address now: nobody tells
/// either end.
#[test]
fn a_client_reconnects_after_a_silent_network() {
    if !nix::unistd::getuid().is_root() {
        return;
    }
    in_process(|flavor| {
        let alone = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network");
            network(true);
            let (setup, tcp) = setup(flavor, SHELL);
            let _server = setup.start();
            let mut person = Person::runs(fpty(&[&tcp]), SIZE);
            person.sees("$ ");
            person.send("echo fir''st\r");
            person.sees("first\n$ ");
            network(false);
            person.send("x");
            let is_lost = comes_true(Duration::from_secs(40), || {
                person.settles();
                person.all_lines().contains("lost: no answer for 10 seconds")
            });
            assert!(is_lost, "{}", person.all_lines());
            network(true);
            wait_until_reconnected(&mut person, 0);
            person.send("exit 7\r");
            assert_eq!(person.status(), 7);
        };
        // The namespace is the thread's, and its children's.
        std::thread::scope(|scope| scope.spawn(alone).join()).expect("a network");
    });
}
