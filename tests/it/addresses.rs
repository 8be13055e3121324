//! Every kind of address that the server knows.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use crate::harness::{Setup, Wire, on_every_server, wait_until};

/// A port that nobody listens on now; somebody may take it before we do, so
/// a case that needs one asks for it as late as it can.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

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
fn an_abstract_socket() {
    on_every_server(|flavor| {
        let setup = Setup::new(flavor);
        let address = format!("@{}", setup.path("abstract"));
        let server = setup.option("forkpty-router", &address).start();
        serves(&address);
        assert!(!std::fs::exists(server.path("abstract")).unwrap(), "no file");
    });
}

#[test]
fn tcp_with_and_without_a_host() {
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
fn a_tcp_client_reads_the_prompt_first() {
    on_every_server(|flavor| {
        let address = format!("127.0.0.1:{}", free_port());
        let server = Setup::new(flavor).option("forkpty-router", &address).start();
        Wire::connect(&address).read_until("$ ");
        drop(server);
    });
}

#[test]
fn an_inherited_socket() {
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
fn a_shared_socket() {
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
fn several_sockets_each_with_its_mode() {
    on_every_server(|flavor| {
        let address = format!("127.0.0.1:{}", free_port());
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
fn sockets_of_a_zerg_server() {
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
fn a_zerg_server_that_is_not_there_ends_the_start() {
    on_every_server(|flavor| {
        let ended = Setup::new(flavor).option("forkptyrouter-zerg", "{dir}/zerg").run();
        assert!(!ended.status.success(), "{ended:?}");
        assert!(ended.log.contains("cannot connect"), "{}", ended.log);
    });
}

/// IPv6 as the server writes it, where the machine has it.
#[test]
fn tcp_over_ipv6() {
    let Ok(port) = TcpListener::bind("[::1]:0").map(|listener| listener.local_addr()) else {
        return;
    };
    let address = port.unwrap().to_string();
    on_every_server(|flavor| {
        let server = Setup::new(flavor).option("forkpty-router", &address).start();
        assert!(TcpStream::connect(&address).is_ok());
        serves(&address);
        drop(server);
    });
}
