//! Ends are ends: of a terminal that its client has, too, and whatever became of
//! the gateway that gave it away.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::leaver::Leaver;
use crate::harness::process::{self, Process};
use crate::harness::{Server, Setup, Wire, on_every_server, servers, users, wait_until};

/// A client that has its terminal, and cannot leave the session.
#[track_caller]
fn seated(server: &Server) -> Leaver {
    let mut client = Leaver::connects(server, "u", None, &[("fpty.take", "1")]).takes();
    client.terminal().send("\n");
    client.terminal().read_until("$ ");
    client
}

/// Begins something at the terminal that is in no session of ours: its process.
#[track_caller]
fn begins_elsewhere(client: &mut Leaver) -> i32 {
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

/// Whoever keeps it reads nothing more, and what is typed reaches nobody.
#[track_caller]
fn is_dead(terminal: &Wire) {
    use nix::errno::Errno;
    wait_until("the terminal is dead", || {
        nix::unistd::write(terminal.fd(), b"more\n") == Err(Errno::EIO)
            && matches!(nix::unistd::read(terminal.fd(), &mut [0; 4096]), Ok(0) | Err(Errno::EIO))
    });
}

/// The client ignores that its session has ended.
#[test]
fn who_keeps_the_terminal_has_nothing_of_it() {
    on_every_server(|flavor| {
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
                is_dead(client.terminal());
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
fn without_the_right_to_hang_it_up_its_users_end() {
    if !users::can_be_others() {
        return;
    }
    on_every_server(|flavor| {
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
