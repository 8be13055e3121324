//! However the gateway, the server or a client ends, in whatever number: nobody outlives
//! them, and the next client is served at once.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::cost::{ECHO, Holdings, echo_session, echoes, wait_until_as_before};
use crate::harness::process::{self, Process};
use crate::harness::{Setup, Wire, in_process, on_every_server, on_one_server, wait_until};

/// A shell that ignores its hang-up, with a job that does, too.
const STUBBORN: &str = "trap '' HUP; echo ready; sleep 1000; sleep 1000";

/// Killed in the midst of everything, twice.
#[test]
fn a_gateway_killed_in_the_midst_of_traffic_leaves_nobody() {
    in_process(|flavor| {
        let server = Setup::new(flavor).raw();
        for _ in 0..2 {
            let gateway = server.gateway();
            let mut clients: Vec<Wire> = (0..30).map(|_| server.connect("s")).collect();
            for (number, client) in clients.iter_mut().enumerate() {
                client.send("echo rea''dy\n");
                client.read_until("ready\r\n");
                match number % 3 {
                    0 => client.send("yes\n"),
                    1 => client.send("sleep 1000 | cat\n"),
                    _ => {}
                }
            }
            process::signal(gateway, Signal::SIGKILL);
            wait_until("another gateway runs", || {
                server.gateway() != gateway && Process::of(server.gateway()).is_some()
            });
            // At once, whatever becomes of the others.
            assert_eq!(server.connect("s").shell("echo again"), "again\r\n");
            wait_until("all that is left is hung up", || server.session_processes().is_empty());
            drop(clients);
        }
    });
}

/// Neither a kill, nor a reload of either kind, nor a stop leaves somebody
/// behind who ignores the hang-up.
#[test]
fn ignoring_sighup_outlives_no_kill_reload_or_stop() {
    on_one_server(|flavor| {
        let mut server =
            Setup::new(flavor).script(STUBBORN).option("forkptyrouter-hangup-grace", "1").raw();
        for end in [Signal::SIGKILL, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT] {
            let gateway = server.gateway();
            let mut clients: Vec<Wire> = (0..5).map(|_| server.connect("s")).collect();
            for client in &mut clients {
                client.read_until("ready\r\n");
            }
            wait_until("each has its job", || server.session_processes().len() >= 10);
            let stubborn = server.session_processes();
            match end {
                Signal::SIGKILL => process::signal(gateway, end),
                Signal::SIGINT => assert!(server.stop().success()),
                _ => process::signal(server.master(), end),
            }
            wait_until(&format!("nobody is left after {end}"), || {
                stubborn.iter().all(|one| {
                    Process::of(one.pid).is_none_or(|now| now.is_zombie() || now.name != one.name)
                })
            });
            if end != Signal::SIGINT {
                wait_until("another gateway runs", || {
                    server.gateway() != gateway && Process::of(server.gateway()).is_some()
                });
            }
        }
        wait_until("nothing of the server is left", || server.processes().is_empty());
    });
}

/// SIGSTOP, of the shell itself: it is woken up to take its hang-up.
#[test]
fn a_closed_client_ends_a_stopped_shell() {
    in_process(|flavor| {
        let server = Setup::new(flavor).raw();
        let mut client = server.connect("s");
        client.shell("true");
        client.send("kill -STOP $$\n");
        wait_until("the shell is stopped", || {
            server.programs().iter().any(|program| program.state == 'T')
        });
        drop(client);
        wait_until("it is gone", || server.session_processes().is_empty());
        assert_eq!(server.count_in_log("outlived"), 0, "nothing had to be killed");
    });
}

/// Hundreds connect at once over TCP, and half of them are reset at once.
#[test]
fn a_storm_of_half_reset_connections_leaves_nobody() {
    on_one_server(|flavor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap().to_string();
        let server = Setup::new(flavor)
            .script(ECHO)
            .inherit(listener)
            .option("listen", "128")
            .option("forkpty-router", "fd://900")
            .raw();
        let gateway = server.gateway();
        server.idle_descriptors();
        let before = Holdings::of(gateway);
        let mut other = echo_session(&server, "s");
        let reset = libc::linger { l_onoff: 1, l_linger: 0 };
        let storm = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..10)
                .map(|_| {
                    scope.spawn(|| {
                        let mut stay = Vec::new();
                        for number in 0..50 {
                            let stream = OwnedFd::from(TcpStream::connect(&tcp).unwrap());
                            if number % 2 == 0 {
                                let linger = nix::sys::socket::sockopt::Linger;
                                nix::sys::socket::setsockopt(&stream, linger, &reset).unwrap();
                            } else {
                                stay.push(Wire::over(stream, &tcp));
                            }
                        }
                        stay
                    })
                })
                .collect();
            let took = echoes(&mut other, 50);
            assert!(took[48] < Duration::from_secs(1), "{took:?}");
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for mut client in storm {
            client.read_until("ready\n");
        }
        drop(other);
        wait_until_as_before(gateway, before);
        assert_eq!(server.gateway(), gateway, "the same gateway");
    });
}

/// A client whose machine vanished is noticed in the end.
#[test]
fn tcp_connections_have_keepalive() {
    on_one_server(|flavor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Setup::new(flavor)
            .script(ECHO)
            .inherit(listener)
            .option("forkpty-router", "fd://900")
            .start();
        let mut client = Wire::connect(&address.to_string());
        client.read_until("ready\n");
        // /proc/net/tcp: the timer is 02 where the kernel waits to probe.
        let ours = format!("0100007F:{:04X}", address.port());
        wait_until("the kernel waits to probe the connection", || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
            sockets.lines().any(|line| {
                let field: Vec<&str> = line.split_ascii_whitespace().collect();
                field.get(1) == Some(&ours.as_str())
                    && field.get(3) == Some(&"01")
                    && field.get(5).is_some_and(|timer| timer.starts_with("02:"))
            })
        });
        drop(server);
    });
}

/// A stop is quick, whoever is connected and whatever they do.
#[test]
fn a_stop_waits_for_nobody() {
    on_every_server(|flavor| {
        let mut server = Setup::new(flavor).raw();
        let clients: Vec<Wire> = (0..20).map(|_| server.connect("s")).collect();
        for client in &clients {
            client.send("yes\n");
        }
        let begin = Instant::now();
        server.stop();
        assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
        wait_until("nothing of the server is left", || server.processes().is_empty());
    });
}
