//! Clients behind something that passes bytes alone: socat, `ssh -L`, a proxy. Whatever
//! would go by descriptor is relayed.

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::harness::client::{Pipes, both};
use crate::harness::person::Person;
use crate::harness::ports::free_address;
use crate::harness::proxy::{Line, Proxy};
use crate::harness::{
    Flavor, Server, Setup, in_process, sequence, servers, side_by_side, wait_until,
};

const SHELL: &str = "PS1='$ ' exec bash --norc --noprofile -i";

/// Options of the gateway that have to do with who has which descriptor.
const RELAYS: [&[(&str, &str)]; 4] = [
    &[],
    &[("forkptyrouter-handover", "false")],
    &[("forkptyrouter-timeout", "30")],
    &[("forkptyrouter-pass-stdio", "false")],
];

fn setup(flavor: &Flavor, options: &[(&str, &str)]) -> Setup {
    let setup = both(Setup::new(flavor).script(SHELL))
        .option("forkptyrouter-allow-command", "true")
        .option("forkptyrouter-detach", "9");
    options.iter().fold(setup, |setup, (name, value)| setup.option(name, value))
}

/// A real one.
struct Socat(Child);

impl Socat {
    fn starts(server: &Server, from: &str, to: &str) -> Self {
        let here = |text: &str| text.replace("{dir}", &server.path(""));
        let mut socat = Command::new("socat");
        socat.args([here(from), here(to)]).stdin(Stdio::null()).stderr(Stdio::null());
        let socat = Self(socat.spawn().expect("socat runs"));
        let path = here(from);
        let path = path.split([':', ',']).nth(1).unwrap().to_owned();
        wait_until("socat listens", || UnixStream::connect(&path).is_ok());
        socat
    }
}

impl Drop for Socat {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The client with options, and a command after the address.
fn run(address: &str, arguments: &[&str]) -> Command {
    let is_option = |word: &&&str| word.starts_with('-') || word.len() == 1;
    let options = arguments.iter().take_while(is_option).count();
    let mut client = Command::new(servers::fpty());
    client.args(&arguments[..options]).arg(address).args(&arguments[options..]);
    client
}

/// With everything that a client can ask for at this address.
#[track_caller]
fn works_at(address: &str, what: &str) {
    // Three streams.
    let mut client = Pipes::open(run(address, &["-T", "cat; echo err >&2; exit 5"]));
    let input = sequence(100_000);
    std::thread::scope(|scope| {
        let (stdin, input) = (client.stdin.take().unwrap(), &input);
        scope.spawn(move || {
            stdin.send(input);
            drop(stdin);
        });
        let finished = client.finish();
        assert_eq!(finished.status.code(), Some(5), "{what}: {finished:?}");
        assert!(finished.stdout == *input && finished.stderr == "err\n", "{what}");
    });
    // A terminal, and a person or a pipe.
    let finished = Pipes::open(run(address, &["-t", "stty size; exit 6"])).finish();
    assert_eq!(finished.status.code(), Some(6), "{what}: {finished:?}");
    let mut client = Pipes::open(run(address, &[]));
    client.send("exit 7\n");
    client.stdin = None;
    let finished = client.finish();
    assert_eq!(finished.status.code(), Some(7), "{what}: {finished:?}");
    let mut person = Person::runs(run(address, &[]), (30, 100));
    person.sees("$ ");
    // Later than the offer of its terminal.
    person.send("sleep .2; stty size\r");
    person.sees("30 100\n$ ");
    person.send("seq 1 20000\r");
    person.sees("20000\n$ ");
    person.send("exit 8\r");
    assert_eq!(person.status(), 8, "{what}");
    let listed = Pipes::open(run(address, &["-l"])).finish();
    assert_eq!(listed.status.code(), Some(0), "{what}: {listed:?}");
}

#[test]
fn sessions_and_commands_work_through_socat() {
    in_process(|flavor| {
        side_by_side(RELAYS, |options| {
            let server = setup(flavor, options).start();
            let (from, to) = ("UNIX-LISTEN:{dir}/proxy,fork", "UNIX-CONNECT:{dir}/u");
            let _socat = Socat::starts(&server, from, to);
            works_at(&server.path("proxy"), &format!("{options:?}"));
        });
    });
}

#[test]
fn sessions_and_commands_work_between_tcp_and_unix_sockets() {
    in_process(|flavor| {
        let address = free_address();
        let server = setup(flavor, &[]).option("forkpty-urouter", &address).start();
        let proxy = Proxy::of_tcp(&server.path("u"), Line::default());
        works_at(&proxy.address, "TCP to UNIX");
        let proxy = Proxy::to_tcp(&address, Line::default());
        works_at(&proxy.address, "UNIX to TCP");
    });
}

/// Leaves by `~d`.
#[track_caller]
fn leaves(mut person: Person) {
    person.send("~d");
    assert_eq!(person.status(), 0);
    assert!(person.shown().contains("detached: "), "{:?}", person.shown());
}

/// Comes to the session `x` at one address, after it was begun at another.
#[track_caller]
fn comes_back(begun: &str, at: &str, what: &str) {
    let mut person = Person::runs(run(begun, &["-n", "x"]), (24, 80));
    person.sees("$ ");
    person.send("sleep .2; seq 1 3000; echo o''ne\r");
    person.sees("one\n$ ");
    leaves(person);
    for round in 0..2 {
        let mut back = Person::runs(run(at, &["-a", "x"]), (30, 100));
        back.sees("one\n$ ");
        // Longer than it may take to answer.
        let a_while = if round == 0 { "2.5" } else { "0" };
        back.send(&format!("sleep {a_while}; stty size\r"));
        let mut watcher = Person::runs(run(at, &["-a", "x", "--read-only"]), (30, 100));
        watcher.sees("one\n$ ");
        back.sees("30 100\n$ ");
        watcher.sees("30 100\n$ ");
        watcher.send("~.");
        watcher.status();
        if round == 0 {
            leaves(back);
            continue;
        }
        let mut thief = Person::runs(run(at, &["-A", "x", "--steal"]), (30, 100));
        thief.sees("30 100\n$ ");
        assert_eq!(back.status(), 254, "{what}");
        leaves(thief);
    }
    // One that is killed, wherever it is seen from.
    let mut lost = Person::runs(run(at, &["-a", "x"]), (30, 100));
    lost.sees("30 100\n$ ");
    lost.vanishes();
    wait_until("nobody is attached", || {
        let listed = Pipes::open(run(at, &["-l", "--json"])).finish();
        !String::from_utf8_lossy(&listed.stdout).contains("\"attached\":true")
    });
    // A pipe, whose end the program is told of, too.
    let mut client = Pipes::open(run(at, &["-a", "x"]));
    client.send("sleep .3; exit 5\n");
    client.stdin = None;
    let finished = client.finish();
    assert_eq!(finished.status.code(), Some(5), "{what}: {finished:?}");
    // One that ends while nobody is there.
    let mut person = Person::runs(run(begun, &["-n", "y"]), (24, 80));
    person.sees("$ ");
    person.send("sleep .2; echo st''ays; sleep .3; exit 4\r");
    person.sees("stays\n");
    leaves(person);
    std::thread::sleep(std::time::Duration::from_millis(400));
    let mut back = Person::runs(run(at, &["-a", "y"]), (24, 80));
    back.sees("stays\n");
    assert_eq!(back.status(), 4, "{what}");
}

#[test]
fn attach_works_relayed_or_handed_over() {
    in_process(|flavor| {
        side_by_side(RELAYS, |options| {
            let server = setup(flavor, options).start();
            let address = server.path("u");
            comes_back(&address, &address, &format!("{options:?}"));
        });
    });
}

#[test]
fn attach_works_through_a_proxy() {
    in_process(|flavor| {
        let ways = [(0, true, true), (0, false, true), (0, true, false), (1, true, true)];
        side_by_side(ways, |(relays, begins_there, returns_there)| {
            let options = RELAYS[relays];
            let server = setup(flavor, options).start();
            let (from, to) = ("UNIX-LISTEN:{dir}/proxy,fork", "UNIX-CONNECT:{dir}/u");
            let _socat = Socat::starts(&server, from, to);
            let address = |is_there| server.path(if is_there { "proxy" } else { "u" });
            let (begun, at) = (address(begins_there), address(returns_there));
            comes_back(&begun, &at, &format!("{options:?} {begun} {at}"));
        });
    });
}

/// A pipe that has ended before anything was offered, often.
#[test]
fn attach_from_a_pipe_works_each_time() {
    in_process(|flavor| {
        side_by_side(RELAYS, |options| {
            let server = setup(flavor, options).start();
            for round in 0..12 {
                let mut person = Person::runs(run(&server.path("u"), &["-n", "z"]), (24, 80));
                person.sees("$ ");
                // Not within the handover.
                person.send("sleep .1; echo rea''dy\r");
                person.sees("ready\n$ ");
                leaves(person);
                let mut client = Pipes::open(run(&server.path("u"), &["-a", "z"]));
                client.send("sleep .1; exit 5\n");
                client.stdin = None;
                let finished = client.finish();
                assert_eq!(finished.status.code(), Some(5), "{options:?} {round} {finished:?}");
            }
        });
    });
}
