//! A client's machine vanishes, in the midst of output or of silence: no end of its
//! connection ever comes. The machine is a network namespace, whose link is cut.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::process::Process;
use crate::harness::servers::all;
use crate::harness::{Server, Setup, Wire, comes_true, wait_until};

/// The addresses of the pair of links; only these two know them.
const HERE: &str = "10.231.77.1";
const THERE: &str = "10.231.77.2";

/// Keepalive probes, and what is unanswered, end a session after two minutes.
const PATIENCE: Duration = Duration::from_secs(160);

/// Another machine.
struct Machine {
    name: String,
    link: String,
}

impl Machine {
    fn new() -> Self {
        let number = std::process::id();
        let machine = Self { name: format!("fptytest{number}"), link: format!("fpt{number}") };
        let (name, link) = (machine.name.as_str(), machine.link.as_str());
        ip(&["netns", "add", name]);
        ip(&["link", "add", link, "type", "veth", "peer", "name", "there", "netns", name]);
        ip(&["addr", "add", &format!("{HERE}/30"), "dev", link]);
        ip(&["link", "set", link, "up"]);
        ip(&["-n", name, "addr", "add", &format!("{THERE}/30"), "dev", "there"]);
        ip(&["-n", name, "link", "set", "there", "up"]);
        machine
    }

    /// A client there, which says one line, and reads as `reader` does.
    fn client(&self, address: &str, line: &str, reader: &str) -> Child {
        let script = format!("{{ echo '{line}'; sleep 1000; }} | socat - TCP:{address} | {reader}");
        Command::new("ip")
            .args(["netns", "exec", &self.name, "sh", "-c", &script])
            .stdout(Stdio::null())
            .spawn()
            .expect("ip runs")
    }

    fn vanish(&self) {
        ip(&["-n", &self.name, "link", "set", "there", "down"]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Whoever is still there ends first.
        let pids = Command::new("ip").args(["netns", "pids", &self.name]).output();
        let pids = pids.map(|pids| String::from_utf8_lossy(&pids.stdout).into_owned());
        for pid in pids.unwrap_or_default().lines().filter_map(|pid| pid.parse().ok()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        let _ = Command::new("ip").args(["link", "del", &self.link]).status();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status().expect("ip runs");
    assert!(done.success(), "ip {}", arguments.join(" "));
}

fn runs(server: &Server, name: &str) -> bool {
    server.session_processes().iter().any(|process: &Process| process.name == name)
}

#[test]
#[ignore = "soak: takes minutes"]
fn soak_a_vanished_machine_ends_its_sessions() {
    if !nix::unistd::getuid().is_root() {
        return eprintln!("skipped: needs root, to make a network of its own");
    }
    let machine = Machine::new();
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server =
        Setup::new(&all()[0]).inherit(listener).option("forkpty-router", "fd://900").start();
    // Silent; with a little output; with more than is read.
    let mut clients = [
        machine.client(&address, "exec sleep 1000", "cat"),
        machine.client(&address, "exec watch -n 1 date", "cat"),
        machine.client(&address, "exec yes", "sleep 1000"),
    ];
    // One that is there, and does not read for as long.
    let mut here = Wire::connect(&address);
    here.send("stty raw -echo; head -c 20000000 /dev/zero; exec tail -f /dev/null\n");
    let all_run = ["sleep", "watch", "yes", "head"];
    wait_until("all of them run", || all_run.iter().all(|name| runs(&server, name)));
    machine.vanish();
    let begin = Instant::now();
    for name in ["sleep", "watch", "yes"] {
        assert!(comes_true(PATIENCE, || !runs(&server, name)), "{name} still runs");
        eprintln!("{name} was gone after {:?}", begin.elapsed());
    }
    std::thread::sleep(PATIENCE.saturating_sub(begin.elapsed()));
    let zeros = |seen: &[u8]| seen.iter().filter(|byte| **byte == 0).count();
    here.read_while("all of its output", |seen| zeros(seen) == 20_000_000);
    for client in &mut clients {
        let _ = client.kill();
        let _ = client.wait();
    }
}
