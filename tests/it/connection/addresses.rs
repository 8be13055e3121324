//! Every kind of address that the server knows.

use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use crate::harness::client::{Mode, Pipes, client};
use crate::harness::ports::{free_address, free_port};
use crate::harness::pty_server::shared;
use crate::harness::{
    Setup, Wire, executable, on_every_server, on_every_server_in_turn, wait_until,
};

#[track_caller]
fn serves(address: &str) {
    assert_eq!(Wire::connect(address).shell("echo $((6 * 7))"), "42\r\n", "on {address}");
}

#[test]
fn unix_sockets_have_the_mode_asked_for() {
    on_every_server(|flavor| {
        for (option, mode) in [("chmod-socket", 0o666), ("chmod-socket=600", 0o600)] {
            let server = Setup::new(flavor).switch(option).raw();
            serves(&server.path("s"));
            let real = std::fs::metadata(server.path("s")).unwrap().permissions().mode() & 0o777;
            assert_eq!(real, mode, "{option}: {real:o}");
        }
    });
}

#[test]
fn serves_at_an_abstract_socket() {
    on_every_server(|flavor| {
        let setup = Setup::new(flavor);
        let address = format!("@{}", setup.path("abstract"));
        let server = setup.option("forkpty-router", &address).start();
        serves(&address);
        assert!(!std::fs::exists(server.path("abstract")).unwrap(), "no file");
    });
}

#[test]
fn serves_at_tcp_with_and_without_a_host() {
    on_every_server(|flavor| {
        let (one, two) = (free_port(), free_port());
        let server = Setup::new(flavor)
            .option("forkpty-router", &format!("127.0.0.1:{one}"))
            .option("forkpty-router", &format!(":{two}"))
            .start();
        serves(&format!("127.0.0.1:{one}"));
        serves(&format!("127.0.0.1:{two}"));
        drop(server);
    });
}

/// A client that waits for the prompt sends nothing: accept must not wait.
#[test]
fn a_tcp_client_that_sends_nothing_gets_the_prompt() {
    on_every_server(|flavor| {
        let address = free_address();
        let server = Setup::new(flavor).option("forkpty-router", &address).start();
        Wire::connect(&address).read_until("$ ");
        drop(server);
    });
}

#[test]
fn serves_at_an_inherited_socket() {
    on_every_server(|flavor| {
        let setup = Setup::new(flavor);
        let listener = UnixListener::bind(setup.path("inherited")).unwrap();
        let server = setup.inherit(listener).option("forkpty-router", "fd://900").start();
        serves(&server.path("inherited"));

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let setup = Setup::new(flavor).inherit(listener);
        let server = setup.option("forkpty-router", "fd://900").start();
        serves(&address);
        drop(server);
    });
}

#[test]
fn serves_at_a_shared_socket() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor)
            .option("shared-socket", "{dir}/shared")
            .option("forkpty-router", "=0")
            .start();
        serves(&server.path("shared"));
    });
}

/// Raw and uwsgi mode side by side: each socket keeps its own.
#[test]
fn raw_and_uwsgi_sockets_keep_their_mode_side_by_side() {
    on_every_server(|flavor| {
        let address = free_address();
        let server = Setup::new(flavor)
            .option("forkpty-router", "{dir}/r1")
            .option("forkpty-urouter", "{dir}/u1")
            .option("forkpty-router", &address)
            .option("forkpty-urouter", "{dir}/u2")
            .start();
        serves(&server.path("r1"));
        serves(&address);
        for socket in ["u1", "u2"] {
            let mut client = server.connect(socket);
            client.resize(11, 22);
            client.input("stty size\n");
            client.read_until("11 22\r\n");
        }
    });
}

/// A zerg server binds, and hands its sockets out to whoever attaches.
#[test]
fn serves_at_the_sockets_of_a_zerg_server() {
    on_every_server(|flavor| {
        let mut setup = Setup::bare(&format!("{}, zerg", flavor.name), &flavor.binary);
        if flavor.is_debian() {
            setup =
                setup.plugin(std::path::Path::new(crate::harness::servers::C_PLUGINS), "zergpool");
        }
        let port = free_port();
        let pool = setup
            .switch("master")
            .option("zerg-pool", &format!("{{dir}}/zerg:{{dir}}/pooled,127.0.0.1:{port}"))
            .launch();
        wait_until("the zerg server listens", || {
            std::os::unix::net::UnixStream::connect(pool.path("zerg")).is_ok()
        });
        let server = Setup::new(flavor).option("forkptyrouter-zerg", &pool.path("zerg")).start();
        serves(&pool.path("pooled"));
        serves(&format!("127.0.0.1:{port}"));
        drop(server);
    });
}

#[test]
fn a_missing_zerg_server_ends_the_start() {
    on_every_server(|flavor| {
        let ended = Setup::new(flavor).option("forkptyrouter-zerg", "{dir}/zerg").run();
        assert!(!ended.status.success(), "{ended:?}");
        assert!(ended.log.contains("cannot connect"), "{}", ended.log);
    });
}

/// Names are bytes: another socket, or another program, is none.
#[test]
fn paths_that_are_not_utf_8_are_served() {
    // Latin-1, and a blank of it; half of a character, and one that is not any.
    const NAMES: [&[u8]; 2] = [b"caf\xe9\xa0", b"\xff \xe2\x82"];
    on_every_server(|flavor| {
        for name in NAMES {
            let named = |kind: &str| [kind.as_bytes(), name].concat();
            let setup = Setup::new(flavor);
            let program = setup.bytes_path(&named("program"));
            executable::write(&program, "#!/bin/sh\necho ready\nread x\nexit 7\n");
            // A command with a blank goes through the shell.
            let link = setup.bytes_path(&[b"program", &name[..1]].concat());
            std::os::unix::fs::symlink(&program, &link).unwrap();
            let [raw, uwsgi, stats] = ["r", "u", "s"].map(|kind| setup.bytes_path(&named(kind)));
            let server = setup
                .bytes_option("forkpty-router", &named("r"))
                .bytes_option("forkpty-urouter", &named("u"))
                .bytes_option("forkptyrouter-stats", &named("s"))
                .bytes_option("forkptyrouter-command", link.file_name().unwrap().as_bytes())
                .start();
            for path in [&raw, &uwsgi, &stats] {
                assert!(std::fs::symlink_metadata(path).unwrap().file_type().is_socket());
            }
            let connect = |path| {
                let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                Wire::over(stream.into(), "a name of bytes")
            };
            let mut wire = connect(&raw);
            wire.send("\n");
            assert!(wire.text_to_end().contains("ready"));
            for (mode, path) in [(Mode::Raw, &raw), (Mode::Uwsgi, &uwsgi)] {
                let mut client = Pipes::open(client(flavor, mode, path));
                client.stdout.read_until("ready");
                client.send("\n");
                client.finish();
            }
            // JSON is text.
            let told = connect(&stats).text_to_end();
            let shown = String::from_utf8_lossy(&named("/r")).into_owned();
            assert!(told.contains(&shown), "{told}");
            server.wait_for_log(&format!("{shown} fd "));
        }
    });
}

/// Paths of the shared terminal that are not UTF-8.
#[test]
fn pty_server_paths_that_are_not_utf_8_are_served() {
    on_every_server(|flavor| {
        let setup = shared(flavor).bytes_option("pty-socket", b"p\xff");
        let path = setup.bytes_path(b"p\xff");
        let program = setup.bytes_path(b"program\xe9");
        executable::write(&program, "#!/bin/sh\necho ready\nexec cat\n");
        let server =
            crate::harness::pty_server::start(setup.bytes_option("pty-exec", b"program\xe9"));
        let mut client = Pipes::open(client(flavor, Mode::Raw, &path));
        client.stdout.read_until("ready\r\n");
        client.send("typed\n");
        client.stdout.read_until("typed\r\n");
        drop(server);
    });
}

/// IPv6 as the server writes it, where the machine has it.
#[test]
fn serves_at_tcp_over_ipv6() {
    let Ok(port) = TcpListener::bind("[::1]:0").map(|listener| listener.local_addr()) else {
        return;
    };
    let address = port.unwrap().to_string();
    on_every_server_in_turn(|flavor| {
        let server = Setup::new(flavor).option("forkpty-router", &address).start();
        assert!(TcpStream::connect(&address).is_ok());
        serves(&address);
        drop(server);
    });
}
