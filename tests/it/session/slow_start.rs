//! A program that takes long to execute (a file system that hangs, a virus scanner) delays
//! its own client alone.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::harness::cost::{ECHO, echo_session, echoes};
use crate::harness::{Flavor, Server, Setup, Wire, in_process, wait_until};

/// A lease (fcntl(2) F_SETLEASE): whoever opens the file, to execute it, waits
/// until it is given up.
pub struct Lease(File);

impl Lease {
    #[track_caller]
    pub fn take(path: &str) -> Self {
        // Of linux/fcntl.h.
        const F_SETSIG: libc::c_int = 10;
        let file = File::open(path).unwrap();
        // Not while a shell still has it open.
        wait_until(&format!("there is a lease on {path}"), || {
            // SAFETY: fcntl(2) with numbers. The holder is told by a signal, here
            // by one that is ignored.
            unsafe {
                libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) == 0
                    && libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0
            }
        });
        Self(file)
    }

    pub fn give_up(self) {
        drop(self.0);
    }
}

fn server(flavor: &Flavor, script: &str) -> Server {
    // One that hangs for longer is killed by the master.
    Setup::new(flavor)
        .script(script)
        .option("forkptyrouter-harakiri", "2")
        .option("forkpty-urouter", "{dir}/u")
        .raw()
}

/// Clients whose programs are about to be executed, for as long as the lease
/// is held.
#[track_caller]
fn waiting(server: &Server, count: usize) -> Vec<Wire> {
    let before = server.programs().len();
    let sockets = ["s", "u"].into_iter().cycle();
    let clients = sockets.take(count).map(|socket| server.connect(socket)).collect();
    wait_until("their processes are there", || server.programs().len() == before + count);
    clients
}

#[test]
fn a_slow_execution_delays_no_other_client() {
    in_process(|flavor| {
        let server = server(flavor, ECHO);
        let gateway = server.gateway();
        let mut other = echo_session(&server, "s");
        let lease = Lease::take(&server.path("script"));
        let mut clients = waiting(&server, 6);
        for _ in 0..30 {
            let took = echoes(&mut other, 10);
            assert!(took[9] < Duration::from_millis(500), "{took:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(clients[0].is_silent_for(Duration::ZERO), "it has been executed meanwhile");
        // One that does not wait for it takes nothing with it.
        drop(clients.pop());
        echoes(&mut other, 10);
        lease.give_up();
        for client in &mut clients {
            client.read_until("ready\n");
        }
        for client in clients.iter_mut().step_by(2) {
            echoes(client, 3);
        }
        assert_eq!(server.gateway(), gateway, "the same gateway");
    });
}

/// A program that cannot be executed at all is found out late.
#[test]
fn a_late_execution_failure_is_told() {
    in_process(|flavor| {
        let server = server(flavor, ECHO);
        let script = server.path("script");
        std::fs::write(&script, "no program at all\n").unwrap();
        let lease = Lease::take(&script);
        let clients = waiting(&server, 4);
        // What its terminal says to that is not for a client without a session.
        clients[0].send("input\n");
        clients[1].input("input\n");
        assert!(clients[0].is_silent_for(Duration::from_millis(300)));
        lease.give_up();
        for mut client in clients {
            let told = client.text_to_end();
            let said = format!("session refused: cannot execute {script}: Exec format error");
            assert!(told.contains(&said) && told.lines().count() == 1, "{told:?}");
        }
        // The client is told first.
        wait_until("each is logged", || server.count_in_log("Exec format error") == 4);
        wait_until("nothing is left of them", || server.programs().is_empty());
    });
}
