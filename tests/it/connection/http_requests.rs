//! A web page that has a browser on this machine send HTTP requests to our sockets: it
//! types nothing, and reads nothing.

use std::net::TcpListener;
use std::time::Duration;

use crate::audit::lines::{audited, of, wait_for};
use crate::harness::pty_server::{shared, start};
use crate::harness::wire::{header, input};
use crate::harness::{Setup, Wire, in_process, on_every_server, on_one_server, wait_until};

/// Request that a form of a page may send.
fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /x HTTP/1.1\r\nHost: 127.0.0.1:9\r\nOrigin: http://evil.example\r\n\
         Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn an_http_request_is_not_typed_at_a_raw_socket() {
    on_one_server(|flavor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap().to_string();
        let server = audited(flavor)
            .inherit(listener)
            .option("forkpty-router", "fd://900")
            .option("forkptyrouter-command", "/bin/sh")
            .raw();
        let touched = server.path("touched");
        let request = post(&format!("\n\ntouch {touched}\n"));
        let mut count = 0;
        for address in [tcp.as_str(), &server.path("s")] {
            for pieces in [usize::MAX, 1, 3, 20] {
                let mut client = Wire::connect(address);
                for piece in request.as_bytes().chunks(pieces.min(request.len())) {
                    // It is let go in the middle.
                    client.flood(piece, Duration::from_millis(50));
                    if pieces < 20 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
                let said = client.text_to_end();
                assert!(said.contains("HTTP/1.0 403 Forbidden") || pieces < 20, "{said}");
                assert!(!said.contains("POST") && !said.contains("Host"), "{said}");
                count += 1;
            }
        }
        for request in ["GET / HTTP/1.1\r\n\r\n", "OPTIONS * HTTP/1.0\r\n", "BREW /x HTTP/1.1\r\n"]
        {
            let mut client = Wire::connect(&tcp);
            client.send(request);
            assert!(client.text_to_end().contains("403"));
            count += 1;
        }
        wait_until("all have ended", || server.programs().is_empty());
        assert!(!std::path::Path::new(&touched).exists());
        let lines = wait_for(&server, "refused", count);
        let refused = of(&lines, "refused");
        assert!(refused.iter().all(|line| line["reason"] == "denied"), "{refused:#?}");
        assert!(server.log().contains("is refused: it speaks HTTP"), "{}", server.log());
        wait_for(&server, "session-end", count);
    });
}

/// Input that comes more slowly than a person types is passed on as it comes, but for the
/// end of its line.
#[test]
fn a_slow_http_request_is_never_run() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script("stty raw -echo; echo ready; exec cat").raw();
        let mut client = server.connect("s");
        client.read_until("ready\n");
        client.send("GET /x");
        // After a second it may be a person's.
        client.read_until("GET /x");
        client.send(" HTTP/1.1\r\n");
        let rest = client.text_to_end();
        assert!(!rest.contains("HTTP/1.1"), "{rest}");
    });
}

#[test]
fn what_people_type_arrives_at_once_and_whole() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script("stty raw -echo; echo ready; exec cat").raw();
        for typed in ["ls\n", "GET x\n", "GET /x\r", "POST office\n", "\x1b[A", "g", "HTTP/1.1\n"] {
            let mut client = server.connect("s");
            client.read_until("ready\n");
            let begin = std::time::Instant::now();
            client.send(typed);
            client.read_until(typed);
            assert!(begin.elapsed() < Duration::from_millis(800), "{typed:?}");
            // From then on anything goes.
            client.send(post("x"));
            client.read_until("\r\n\r\nx");
        }
        // A word that could be a method waits for no more than a second, and
        // comes where its sender says no more.
        let mut client = server.connect("s");
        client.read_until("ready\n");
        client.send("P");
        client.read_until("P");
        client.send("OST");
        client.read_until("OST");
        let mut client = server.connect("s");
        client.read_until("ready\n");
        client.send("GE");
        client.end_of_input();
        client.read_until("GE");
    });
}

#[test]
fn an_http_request_is_no_packet() {
    in_process(|flavor| {
        let server = Setup::new(flavor).uwsgi();
        let touched = server.path("touched");
        for fill in 0..4 {
            let typed = input(format!("touch {touched}\n"));
            let body = [vec![b' '; fill], typed].concat();
            let request = [post("").into_bytes(), body].concat();
            for pieces in [usize::MAX, 1] {
                let mut client = server.connect("u");
                for piece in request.chunks(pieces.min(request.len())) {
                    client.flood(piece, Duration::from_millis(50));
                }
                assert!(client.text_to_end().contains("403"));
            }
        }
        // A piece of one is waited for as long as any packet.
        let mut client = server.connect("u");
        client.send("PO");
        assert!(client.text_to_end().contains("403"));
        let mut client = server.connect("u");
        client.send([header(24, 100), header(80, 101)].concat());
        client.input("echo he''re; exit\n");
        client.read_until("here");
        assert!(!std::path::Path::new(&touched).exists());
    });
}

#[test]
fn an_http_request_is_not_typed_at_a_pty_server() {
    on_every_server(|flavor| {
        let server =
            start(shared(flavor).option("pty-exec", "stty raw -echo; echo ready; exec cat"));
        let path = server.path("p");
        let mut person = Wire::connect(&path);
        person.read_until("ready");
        for pieces in [usize::MAX, 1] {
            let request = post("typed by a page");
            let mut client = Wire::connect(&path);
            for piece in request.as_bytes().chunks(pieces.min(request.len())) {
                client.flood(piece, Duration::from_millis(50));
            }
            client.text_to_end();
        }
        person.send("GET x\nmine");
        let said = person.read_until("mine");
        assert!(!said.contains("POST") && !said.contains("page"), "{said}");
        wait_until("it is logged", || server.log().contains("was refused: it speaks HTTP"));
        let other = Wire::connect(&path);
        other.send("GE");
        person.read_until("GE");
    });
}

#[test]
fn the_statistics_refuse_web_pages() {
    on_one_server(|flavor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap().to_string();
        let server = Setup::new(flavor)
            .inherit(listener)
            .option("forkptyrouter-stats", "fd://900")
            .switch("stats-http")
            .uwsgi();
        server.wait_for_log("sessions at once");
        let ask = |head: &str| {
            let mut client = Wire::connect(&tcp);
            client.send(head);
            client.text_to_end()
        };
        let ok = ask(&format!("GET / HTTP/1.1\r\nHost: {tcp}\r\nOrigin: http://evil\r\n\r\n"));
        assert!(ok.starts_with("HTTP/1.0 200 OK\r\n") && ok.contains("active_sessions"), "{ok}");
        assert!(!ok.to_lowercase().contains("access-control"), "{ok}");
        for (head, status) in [
            ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "403"),
            ("GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "403"),
            ("GET / HTTP/1.1\r\n\r\n", "400"),
            ("nonsense\r\n", "400"),
            (&post("x"), "405"),
            ("GET /metrics HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "200"),
            ("GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "200"),
        ] {
            let said = ask(head);
            assert!(said.starts_with(&format!("HTTP/1.0 {status} ")), "{head:?}: {said}");
            assert!(!said.contains("active_sessions"), "{said}");
            assert_eq!(said.contains("forkptyrouter_"), status == "200", "{said}");
        }
        let head = ask("HEAD /metrics HTTP/1.0\r\n\r\n");
        assert!(head.starts_with("HTTP/1.0 200 OK") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        // The whole head is read, in whatever pieces.
        let mut client = Wire::connect(&tcp);
        for byte in "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n".as_bytes() {
            client.send([*byte]);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(client.text_to_end().contains("403"));
    });
}
