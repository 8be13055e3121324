//! Half-closed connections, floods, odd use of sockets: other sessions do not notice.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::harness::cost::wait_until_as_before;
use crate::harness::cost::{ECHO, Holdings, RUN, echo_session, echoes, load, running};
use crate::harness::wire::{header, input};
use crate::harness::{Setup, Wire, in_process, noise, on_one_server, wait_until};

/// Bounds are generous: the machine may be busy with other things.
const QUICK: Duration = Duration::from_millis(500);

/// The kernel is asked whether half-closed peers on this machine are there
/// at all; hundreds of them must not keep it busy answering.
#[test]
fn hundreds_of_half_closed_connections_cost_next_to_nothing() {
    on_one_server(|flavor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap().to_string();
        let server = Setup::new(flavor)
            .script(ECHO)
            .inherit(listener)
            .option("forkpty-router", "fd://900")
            .raw();
        let mut other = echo_session(&server, "s");
        let mut half: Vec<Wire> = (0..200).map(|_| Wire::connect(&tcp)).collect();
        for client in &mut half {
            client.read_until("ready\n");
            client.end_of_input();
        }
        std::thread::sleep(Duration::from_secs(1));
        let used = load(server.gateway(), Duration::from_secs(1));
        assert!(used < 0.2, "{used} of a processor");
        let took = echoes(&mut other, 100);
        assert!(took[98] < QUICK, "{took:?}");
        drop(half);
        wait_until("those that closed are noticed", || server.programs().len() <= 2);
    });
}

/// A network breaks, and hundreds of programs ignore that their clients left:
/// they are killed together.
#[test]
fn many_programs_that_outlive_their_clients_are_killed_at_once() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script("trap '' HUP; stty raw -echo; echo ready; cat; sleep 1000")
            .option("forkptyrouter-hangup-grace", "1")
            .raw();
        let mut other = echo_session(&server, "s");
        let mut leaving: Vec<Wire> = (0..100).map(|_| server.connect("s")).collect();
        for client in &mut leaving {
            client.read_until("ready\n");
        }
        drop(leaving);
        let end = Instant::now() + Duration::from_secs(2);
        let mut slowest = Duration::ZERO;
        while Instant::now() < end {
            slowest = slowest.max(*echoes(&mut other, 1).last().unwrap());
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(slowest < Duration::from_millis(1500), "an echo took {slowest:?}");
        // The one that stays: its shell and its cat.
        wait_until("all of them are killed", || server.session_processes().len() == 2);
    });
}

/// Each time the terminal is opened again there is something to read; for a
/// client that does not read it must not pile up in the gateway.
#[test]
fn a_terminal_opened_again_and_again_piles_nothing_up() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script(
                "stty raw -echo; t=$(tty); echo ready; exec 0<&- 1>&- 2>&-
                while :; do setsid sh -c \"head -c 4000 /dev/zero >$t\"; sleep 0.02; done",
            )
            .raw();
        let gateway = server.gateway();
        let clients: Vec<Wire> = (0..3).map(|_| server.connect("s")).collect();
        std::thread::sleep(Duration::from_secs(1));
        let memory = Holdings::of(gateway).memory;
        std::thread::sleep(Duration::from_secs(1));
        let grown = Holdings::of(gateway).memory.saturating_sub(memory);
        assert!(grown < 1024, "the gateway grew by {grown} KiB");
        drop(clients);
        wait_until("they end", || server.programs().len() <= 1);
    });
}

/// A program without its terminal is as idle as one with it.
#[test]
fn a_closed_terminal_does_not_keep_an_idle_session_alive() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script("echo ready; exec 0<&- 1>&- 2>&-; exec sleep 1000")
            .option("forkptyrouter-timeout", "1")
            .raw();
        let told = server.connect("s").text_to_end();
        assert!(told.contains("no traffic for 1 seconds"), "{told:?}");
    });
}

/// Every packet is a system call or two of the gateway's.
#[test]
fn floods_of_small_packets_delay_nobody_for_long() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(RUN).option("forkpty-urouter", "{dir}/u").raw();
        let mut other = running(&server, "s", "cat");
        let resizes: Vec<u8> = (0..5000_u16)
            .flat_map(|number| [header(10 + number % 50, 100).to_vec(), input("x")].concat())
            .collect();
        let signals: Vec<u8> = (0..16_000).flat_map(|_| header(0, 28)).collect();
        std::thread::scope(|scope| {
            let server = &server;
            for flood in [&resizes, &signals] {
                scope.spawn(move || {
                    let mut hostile = server.connect("u");
                    hostile.read_until("ready\n");
                    hostile.input("exec cat >/dev/null\n");
                    let end = Instant::now() + Duration::from_secs(1);
                    while Instant::now() < end {
                        hostile.flood(flood, Duration::from_millis(200));
                    }
                });
            }
            let took = echoes(&mut other, 50);
            assert!(took[48] < QUICK, "{took:?}");
        });
    });
}

/// Descriptors that a client sends along are not taken; urgent bytes and a
/// reading half that was shut down are nothing special.
#[test]
fn passed_descriptors_urgent_bytes_and_half_closes_do_no_harm() {
    on_one_server(|flavor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap().to_string();
        let server = Setup::new(flavor)
            .script(ECHO)
            .inherit(listener)
            .option("forkpty-router", "fd://900")
            .raw();
        let gateway = server.gateway();
        server.idle_descriptors();
        let before = Holdings::of(gateway);
        {
            use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, send, sendmsg, shutdown};
            use std::os::fd::AsRawFd;
            let mut client = echo_session(&server, "s");
            let open: Vec<i32> = vec![client.fd().as_raw_fd(); 50];
            let bytes = [std::io::IoSlice::new(b"with descriptors;")];
            let rights = [ControlMessage::ScmRights(&open)];
            // Since Linux 6.16 they are refused; before, whoever sends them is let go.
            let sent =
                sendmsg::<()>(client.fd().as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None);
            match sent {
                Ok(_) => {
                    client.wait_for_end();
                    client = echo_session(&server, "s");
                }
                Err(errno) => assert_eq!(errno, nix::errno::Errno::EPERM),
            }
            assert!(Holdings::of(gateway).descriptors <= before.descriptors + 2);

            let mut urgent = Wire::over(OwnedFd::from(TcpStream::connect(&tcp).unwrap()), &tcp);
            urgent.read_until("ready\n");
            send(urgent.fd().as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
            urgent.send("after;");
            urgent.read_until("after;");

            let deaf = echo_session(&server, "s");
            shutdown(deaf.fd().as_raw_fd(), Shutdown::Read).unwrap();
            deaf.send(noise(3, 10_000));
            assert!(echoes(&mut client, 20)[18] < QUICK);
        }
        wait_until_as_before(gateway, before);
    });
}
