//! The client's exit status, and its one line on standard error that says how the session
//! ended and why, for scripts.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::harness::client::{
    Finished, MODES, Mode, Pipes, both, client, client_of, fpty, own_lines, wrapped,
};
use crate::harness::ports::{free_address, free_port};
use crate::harness::process;
use crate::harness::{DEADLINE, Setup, on_every_server, on_one_server};

/// Ended with this status and one line, which holds all of `words`.
#[track_caller]
fn assert_said(finished: &Finished, status: i32, words: &[&str]) {
    let lines = own_lines(&finished.stderr);
    assert_eq!((finished.status.code(), lines.len()), (Some(status), 1), "{finished:?}");
    for word in words {
        assert!(lines[0].contains(word), "{word:?} in {finished:?}");
    }
    assert!(!String::from_utf8_lossy(&finished.stdout).contains("[pty]"), "{finished:?}");
}

#[test]
fn the_status_is_the_programs_where_the_mode_tells_it() {
    on_one_server(|flavor| {
        let server = both(Setup::new(flavor).script("exit 3")).start();
        for (mode, status) in [(Mode::Raw, 0), (Mode::Uwsgi, 3)] {
            for stdin in [Stdio::null(), Stdio::piped()] {
                let finished = Pipes::reading(client_of(flavor, &server, mode), stdin).finish();
                assert_eq!(finished.status.code(), Some(status), "{mode:?} {finished:?}");
                assert_eq!(own_lines(&finished.stderr), [""; 0], "{mode:?}");
            }
        }
    });
}

#[test]
fn a_missing_server_is_one_line_and_status_255() {
    on_every_server(|flavor| {
        let setup = Setup::new(flavor);
        let missing = setup.path("missing");
        // A socket that nobody listens at any more.
        let stale = setup.path("stale");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        let file = setup.path("file");
        std::fs::write(&file, "").unwrap();
        let port = free_address();
        let long = format!("/tmp/{}", "x".repeat(200));
        for mode in MODES {
            for (address, why) in [
                (missing.as_str(), "No such file or directory"),
                (&stale, "Connection refused"),
                (&file, "Connection refused"),
                (&port, "Connection refused"),
                ("@no-such-name-of-forkpty", "Connection refused"),
                (&long, ""),
            ] {
                let finished = Pipes::open(client(flavor, mode, address)).finish();
                assert_said(&finished, 255, &[address, why]);
            }
        }
    });
}

/// As somebody else, at a socket that is not for them.
#[test]
fn a_denied_socket_is_one_line_and_status_255() {
    const SETPRIV: &str = "/usr/bin/setpriv";
    const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    if !nix::unistd::geteuid().is_root() || !Path::new(SETPRIV).exists() {
        eprintln!("skipped: needs root and {SETPRIV}");
        return;
    }
    on_every_server(|flavor| {
        let plugin = flavor.plugins.join("pty_plugin.so");
        let readable = [&plugin, &flavor.binary].iter().all(|path| {
            let test = ["test", "-r"];
            let mut command = Command::new(SETPRIV);
            command.args(NOBODY).args(test).arg(path);
            command.status().is_ok_and(|status| status.success())
        });
        if !readable {
            eprintln!("skipped: {} is not for everybody to read", plugin.display());
            return;
        }
        let server = both(Setup::new(flavor)).start();
        for mode in MODES {
            let path = server.path(mode.socket());
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let client = client_of(flavor, &server, mode);
            let mut command = Command::new(SETPRIV);
            command.args(NOBODY).arg(client.get_program()).args(client.get_args());
            let finished = Pipes::open(command).finish();
            assert_said(&finished, 255, &[&path, "Permission denied"]);
        }
    });
}

#[test]
fn a_killed_server_is_status_254() {
    on_one_server(|flavor| {
        for mode in MODES {
            // With the master, and the gateway alone, which comes back.
            for master_too in [false, true] {
                let server = both(Setup::new(flavor).script("echo ready; exec cat")).start();
                let mut client = Pipes::open(client_of(flavor, &server, mode));
                client.stdout.read_until("ready\r\n");
                let gateway = server.gateway();
                if master_too {
                    process::signal(server.master(), Signal::SIGKILL);
                }
                process::signal(gateway, Signal::SIGKILL);
                eprintln!("{mode:?}, the master, too: {master_too}");
                let finished = client.finish();
                let address = server.path(mode.socket());
                assert_said(&finished, 254, &["lost", &address]);
            }
        }
    });
}

/// A client in a PID namespace of its own, where the server has no number.
#[test]
fn a_killed_server_is_status_254_in_another_pid_namespace() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    on_one_server(|flavor| {
        let start = || both(Setup::new(flavor).script("echo ready; read x; exit")).start();
        let socket = Mode::Raw.socket();
        for killed in [true, false] {
            for is_fpty in [true, false] {
                let server = start();
                let path = server.path(socket);
                let client = match is_fpty {
                    true => fpty(Mode::Raw, &path),
                    false => client(flavor, Mode::Raw, &path),
                };
                let elsewhere = wrapped("exec unshare -pf --kill-child \"$@\"", &client);
                let mut pipes = Pipes::open(elsewhere);
                pipes.stdout.read_until("ready\r\n");
                if killed {
                    process::signal(server.gateway(), Signal::SIGKILL);
                    assert_said(&pipes.finish(), 254, &["the server is gone", &path]);
                } else {
                    pipes.send("on\n");
                    pipes.finish().text();
                }
            }
        }
    });
}

/// A gateway on another machine is gone, or resets the connection: whether the
/// client finds out when it reads or when it writes.
#[test]
fn a_tcp_reset_is_status_254() {
    on_one_server(|flavor| {
        for mode in MODES {
            for writes in [false, true] {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap().to_string();
                for client in [client(flavor, mode, &address), fpty(mode, &address)] {
                    let mut pipes = Pipes::open(client);
                    let (mut stream, _) = listener.accept().unwrap();
                    std::io::Write::write_all(&mut stream, b"ready\r\n").unwrap();
                    pipes.stdout.read_until("ready\r\n");
                    if writes {
                        // Its output is full, so that it only writes.
                        let flood = vec![b'x'; 8 << 20];
                        stream.set_write_timeout(Some(DEADLINE / 30)).unwrap();
                        let _ = std::io::Write::write_all(&mut stream, &flood);
                        pipes.send(vec![b'y'; 60_000]);
                    }
                    nix::sys::socket::setsockopt(
                        &stream,
                        nix::sys::socket::sockopt::Linger,
                        &libc::linger { l_onoff: 1, l_linger: 0 },
                    )
                    .unwrap();
                    drop(stream);
                    let finished = pipes.finish();
                    assert_said(&finished, 254, &["lost: Connection reset by peer", &address]);
                }
            }
        }
    });
}

/// By its name, and over TCP.
#[test]
fn abstract_and_tcp_addresses_work() {
    on_every_server(|flavor| {
        let port = free_port();
        let name = format!("@forkpty-test-{}-{}", std::process::id(), flavor.name);
        let server = Setup::new(flavor)
            .script("echo it is $((6 * 7))")
            .option("forkpty-router", &format!("127.0.0.1:{port}"))
            .option("forkpty-router", &name)
            .start();
        for address in [&format!("127.0.0.1:{port}"), &format!(":{port}"), &name] {
            let finished = Pipes::open(client(flavor, Mode::Raw, address)).finish();
            assert_eq!(finished.text(), "it is 42\r\n", "{address}");
        }
        drop(server);
    });
}

/// Both options: uwsgi mode wins, as with the C client.
#[test]
fn uwsgi_mode_wins() {
    on_every_server(|flavor| {
        let server = both(Setup::new(flavor).script("read x; echo \"<$x>\"")).start();
        let mut command = client_of(flavor, &server, Mode::Uwsgi);
        command.args(["--pty-connect", &server.path("nowhere")]);
        let client = Pipes::open(command);
        client.send("typed\n");
        assert!(client.finish().text().contains("<typed>\r\n"));
    });
}
