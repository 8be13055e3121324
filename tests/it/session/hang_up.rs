//! Sessions end by their client (SIGHUP), by their program and by the idle timeout, and
//! never by themselves.

use std::time::{Duration, Instant};

use crate::harness::{Server, Setup, Wire, in_process, on_one_server, side_by_side, wait_until};

/// A shell with a foreground job; the terminal is the client's.
#[track_caller]
fn busy_shell(address: &str, server: &Server) -> Wire {
    let mut client = Wire::connect(address);
    client.send("echo rea''dy; sleep 1000\n");
    client.read_until("ready\r\n");
    wait_until("the shell has its foreground job", || {
        server.session_processes().iter().any(|process| process.name == "sleep")
    });
    client
}

#[test]
fn a_closed_client_ends_shell_and_foreground_job() {
    on_one_server(|flavor| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap().to_string();
        let server = Setup::new(flavor)
            .inherit(listener)
            .option("forkpty-router", "fd://900")
            .option("forkpty-router", "{dir}/s")
            .start();
        for address in [server.path("s"), tcp] {
            let client = busy_shell(&address, &server);
            let bystander = Wire::connect(&server.path("s"));
            drop(client);
            wait_until(&format!("one session is left after {address} closed"), || {
                server.session_processes().len() == 1
            });
            drop(bystander);
            wait_until("none is left", || server.session_processes().is_empty());
        }
        assert_eq!(server.count_in_log("outlived"), 0, "nothing had to be killed");
    });
}

/// A connection that is torn down, with output unread on its way.
#[test]
fn a_reset_connection_ends_its_session() {
    on_one_server(|flavor| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap().to_string();
        let server =
            Setup::new(flavor).inherit(listener).option("forkpty-router", "fd://900").start();
        let client = busy_shell(&tcp, &server);
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(client.fd(), nix::sys::socket::sockopt::Linger, &at_once)
            .unwrap();
        drop(client);
        wait_until("shell and job are gone", || server.session_processes().is_empty());
    });
}

/// A stopped job gets its hang-up, and is woken up to take it.
#[test]
fn a_closed_client_ends_a_stopped_job() {
    in_process(|flavor| {
        let server = Setup::new(flavor).raw();
        let client = busy_shell(&server.path("s"), &server);
        client.send([26]);
        wait_until("the job is stopped", || {
            let all = server.session_processes();
            all.iter().any(|process| process.name == "sleep" && process.state == 'T')
        });
        drop(client);
        wait_until("both are gone", || server.session_processes().is_empty());
        assert_eq!(server.count_in_log("outlived"), 0, "nothing had to be killed");
    });
}

/// A client that dies while its terminal floods it, with input unread.
#[test]
fn a_client_closed_in_the_midst_of_output_ends_its_session() {
    in_process(|flavor| {
        let server = Setup::new(flavor).raw();
        for _ in 0..10 {
            let mut client = server.connect("s");
            client.send("yes\n");
            client.read_until("y\r\ny\r\n");
            client.send("unread\n");
            drop(client);
        }
        wait_until("all sessions end", || server.session_processes().is_empty());
    });
}

/// Over TCP a close comes after all that was sent before it, and the program
/// reads none of that.
#[test]
fn a_client_closed_after_unread_input_ends_its_session() {
    on_one_server(|flavor| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap().to_string();
        // Either with a server of its own.
        let setup = || Setup::new(flavor).script("stty raw -echo; echo ready; exec sleep 1000");
        let unix = setup().raw();
        let inherits = setup().inherit(listener).option("forkpty-router", "fd://900").start();
        side_by_side([(unix.path("s"), &unix), (tcp, &inherits)], |(address, server)| {
            // As much as waits in the gateway, and more than all buffers take.
            for amount in [30_000, 64_000_000] {
                let mut client = Wire::connect(&address);
                client.read_until("ready");
                let sent = client.flood(&vec![b'x'; amount], Duration::from_millis(300));
                assert_eq!(sent == amount, amount < 64_000_000, "{sent} bytes were taken");
                // It is there, and not let go for being silent.
                assert!(client.is_silent_for(Duration::from_millis(1500)));
                assert_eq!(server.session_processes().len(), 1, "{address}");
                drop(client);
                wait_until(&format!("{address} was left after {sent} bytes"), || {
                    server.session_processes().is_empty()
                });
            }
        });
    });
}

#[test]
fn a_shell_that_ignores_sighup_is_killed_after_the_grace() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script("trap '' HUP; echo ready; while :; do sleep 1000; done")
            .option("forkptyrouter-hangup-grace", "1")
            .raw();
        let mut client = server.connect("s");
        client.read_until("ready");
        let left = Instant::now();
        drop(client);
        wait_until("it and its job are killed", || server.session_processes().is_empty());
        assert!(left.elapsed() >= Duration::from_millis(900), "after {:?}", left.elapsed());
        assert_eq!(server.count_in_log("outlived"), 1);
    });
}

#[test]
fn a_background_job_does_not_hold_the_session() {
    in_process(|flavor| {
        let script = "(trap '' HUP; exec sleep 1000) & echo 'last words'";
        let server = Setup::new(flavor).script(script).raw();
        assert_eq!(server.connect("s").text_to_end(), "last words\r\n");
        wait_until("the session is over", || server.programs().is_empty());
    });
}

/// A program may close its terminal and work on; its end is the end.
#[test]
fn a_program_that_closed_its_terminal_is_waited_for() {
    in_process(|flavor| {
        let script = "echo here; exec 0<&- 1>&- 2>&-; sleep 0.5; : > {dir}/done";
        let server = Setup::new(flavor).script(script).raw();
        let output = server.connect("s").text_to_end();
        assert_eq!(output, "here\r\n");
        assert!(std::fs::exists(server.path("done")).unwrap(), "it was let finish");
    });
}

/// Nothing of its client is read any more, so the end of it is not, either.
#[test]
fn a_closed_client_ends_a_program_that_closed_its_terminal() {
    on_one_server(|flavor| {
        let script = "echo here; exec 0<&- 1>&- 2>&-; sleep 3; : > {dir}/done; sleep 1000";
        let ways = [(true, ""), (true, "unread\n"), (false, ""), (false, "unread\n")];
        side_by_side(ways, |(is_tcp, unread)| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let tcp = listener.local_addr().unwrap().to_string();
            let setup = Setup::new(flavor).script(script).inherit(listener);
            let server = setup.option("forkpty-router", "fd://900").raw();
            let address = if is_tcp { tcp } else { server.path("s") };
            let mut client = Wire::connect(&address);
            client.read_until("here\r\n");
            client.send(unread);
            // One that sends no more has not left.
            client.end_of_input();
            wait_until("the program works on", || {
                std::fs::remove_file(server.path("done")).is_ok()
            });
            drop(client);
            wait_until(&format!("{address} was left"), || server.session_processes().is_empty());
        });
    });
}

/// The C plugin ends them after a minute.
#[test]
fn an_idle_session_lives_for_hours() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script("stty -echo; echo ready; exec cat").raw();
        let mut client = server.connect("s");
        client.read_until("ready\r\n");
        for _ in 0..4 {
            server.advance(Duration::from_secs(3600));
            assert!(client.is_silent_for(Duration::from_millis(100)), "{}", client.text_to_end());
        }
        client.send("still here\n");
        client.read_until("still here\r\n");
    });
}

#[test]
fn the_idle_timeout_ends_a_session_and_says_so() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .script("stty -echo; echo ready; exec cat")
            .option("forkptyrouter-timeout", "1")
            .raw();
        let mut busy = server.connect("s");
        busy.read_until("ready\r\n");
        let mut idle = server.connect("s");
        idle.read_until("ready\r\n");
        let since = Instant::now();
        for _ in 0..8 {
            busy.send("busy\n");
            busy.read_until("busy\r\n");
            assert!(busy.is_silent_for(Duration::from_millis(200)), "traffic keeps it alive");
        }
        let told = idle.text_to_end();
        assert!(told.contains("no traffic for 1 seconds"), "{told:?}");
        assert!(since.elapsed() >= Duration::from_secs(1));
        let told = busy.text_to_end();
        assert!(told.contains("no traffic for 1 seconds"), "{told:?}");
        wait_until("their programs are gone", || server.session_processes().is_empty());
    });
}
