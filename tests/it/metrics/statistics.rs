//! The statistics server: a corerouter's JSON.

use serde_json::Value;

use crate::harness::{Server, Setup, Wire, in_process, on_every_server, wait_until};

/// Reads the statistics as `uwsgitop` does: connect, and read to the end.
#[track_caller]
fn statistics(address: &str) -> Value {
    parse(&Wire::connect(address).text_to_end())
}

#[track_caller]
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON: {error}: {text:?}"))
}

/// Asks as a browser does.
#[track_caller]
fn http(address: &str) -> Value {
    let mut client = Wire::connect(address);
    client.send("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let answer = client.text_to_end();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.") && head.contains(" 200 "), "{head:?}");
    assert!(head.contains("Content-Type: application/json"), "{head:?}");
    parse(body)
}

#[track_caller]
fn check(server: &Server, statistics: &Value, sockets: usize) {
    let keys: Vec<&str> = statistics.as_object().unwrap().keys().map(String::as_str).collect();
    for key in ["version", "pid", "uid", "gid", "cwd", "active_sessions", "forkptyrouter", "cheap"]
    {
        assert!(keys.contains(&key), "{key} is missing: {statistics}");
    }
    assert_eq!(statistics["pid"], server.gateway(), "{statistics}");
    assert_eq!(statistics["cwd"], server.path(""), "{statistics}");
    assert_eq!(statistics["uid"], nix::unistd::getuid().as_raw(), "{statistics}");
    assert_eq!(statistics["gid"], nix::unistd::getgid().as_raw(), "{statistics}");
    assert_eq!(statistics["cheap"], 0, "{statistics}");
    assert_eq!(statistics["forkptyrouter"].as_array().unwrap().len(), sockets, "{statistics}");
}

#[test]
fn the_json_is_valid_with_any_number_of_sockets() {
    on_every_server(|flavor| {
        for sockets in 1..=3 {
            let mut setup = Setup::new(flavor).option("forkptyrouter-stats", "{dir}/stats");
            for number in 0..sockets {
                setup = setup.option("forkpty-router", &format!("{{dir}}/{number}"));
            }
            let server = setup.start();
            let statistics = statistics(&server.path("stats"));
            check(&server, &statistics, sockets);
            assert_eq!(statistics["forkptyrouter"][0], server.path("0"));
            let version = statistics["version"].as_str().unwrap();
            assert!(version.starts_with(flavor.version()), "{version}");
        }
    });
}

#[test]
fn the_json_is_served_over_tcp_and_http() {
    on_every_server(|flavor| {
        for with_http in [false, true] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let mut setup =
                Setup::new(flavor).inherit(listener).option("forkptyrouter-stats", "fd://900");
            if with_http {
                setup = setup.switch("stats-http");
            }
            let server = setup.raw();
            let statistics = if with_http { http(&address) } else { statistics(&address) };
            check(&server, &statistics, 1);
        }
    });
}

#[test]
fn active_sessions_are_counted() {
    in_process(|flavor| {
        let server = Setup::new(flavor).option("forkptyrouter-stats", "{dir}/stats").raw();
        let active = || statistics(&server.path("stats"))["active_sessions"].as_u64().unwrap();
        assert_eq!(active(), 0);
        let mut clients: Vec<_> = (0..7).map(|_| server.connect("s")).collect();
        for client in &mut clients {
            client.shell("true");
        }
        assert_eq!(active(), 7);
        clients.truncate(3);
        wait_until("three are left", || active() == 3);
        drop(clients);
        wait_until("none is left", || active() == 0);
    });
}

/// With the C plugin it stops every session.
#[test]
fn a_silent_client_of_stats_http_blocks_nobody() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option("forkptyrouter-stats", "{dir}/stats")
            .switch("stats-http")
            .raw();
        let mut silent: Vec<_> = (0..5).map(|_| server.connect("stats")).collect();
        let half = server.connect("stats");
        half.send("GET");
        assert_eq!(server.connect("s").shell("echo served"), "served\r\n");
        check(&server, &http(&server.path("stats")), 1);
        // They are let go in the end.
        for client in &mut silent {
            assert_eq!(client.text_to_end(), "");
        }
    });
}

/// A client that disconnects before the answer, and many at once.
#[test]
fn clients_of_the_statistics_leave_nothing_open() {
    in_process(|flavor| {
        let server = Setup::new(flavor).option("forkptyrouter-stats", "{dir}/stats").raw();
        let gateway = server.gateway();
        let open = || crate::harness::process::descriptors(gateway).len();
        let before = server.idle_descriptors();
        for _ in 0..100 {
            drop(server.connect("stats"));
        }
        check(&server, &statistics(&server.path("stats")), 1);
        wait_until("all of them are closed", || open() == before);
    });
}
