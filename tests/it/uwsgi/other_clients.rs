//! Clients of others: the C client, socat, a small script. And the C router itself, where
//! it is right, to know that our own client speaks as it should.

use std::path::Path;
use std::process::Command;

use crate::harness::servers::{C_BINARY, C_PLUGINS};
use crate::harness::terminal::Terminal;
use crate::harness::{Server, Setup, on_every_server, wait_until};

/// Skips a case, aloud, where the machine lacks what it compares with.
fn has(path: &str) -> bool {
    let there = Path::new(path).exists();
    if !there {
        eprintln!("skipped: there is no {path}");
    }
    there
}

/// Debian's C client on a terminal of its own.
fn c_client(option: &str, server: &Server, socket: &str) -> Terminal {
    let mut command = Command::new(C_BINARY);
    command
        .args(["--plugins-dir", C_PLUGINS, "--plugin", "pty", option, &server.path(socket)])
        .env("TERM", "xterm");
    Terminal::run(command, 33, 111)
}

#[test]
fn the_c_client_works_in_raw_mode() {
    if !has(C_BINARY) || !has(&format!("{C_PLUGINS}/pty_plugin.so")) {
        return;
    }
    on_every_server(|flavor| {
        let server = Setup::new(flavor).raw();
        let mut terminal = c_client("--pty-connect", &server, "s");
        terminal.wire.read_until("$ ");
        wait_until("the client's terminal is raw", || terminal.is_raw());
        assert_eq!(terminal.wire.shell("echo $((6 * 7))"), "42\r\n");
        terminal.wire.send("exit\n");
        terminal.wait();
        wait_until("the session is over", || server.session_processes().is_empty());
    });
}

#[test]
fn the_c_client_tells_its_size_in_uwsgi_mode() {
    if !has(C_BINARY) || !has(&format!("{C_PLUGINS}/pty_plugin.so")) {
        return;
    }
    on_every_server(|flavor| {
        let server = Setup::new(flavor).uwsgi();
        let mut terminal = c_client("--pty-uconnect", &server, "u");
        terminal.wire.read_until("$ ");
        wait_until("the client's terminal is raw", || terminal.is_raw());
        wait_until("its size arrived", || terminal.wire.shell("stty size") == "33 111\r\n");
        terminal.resize(44, 122);
        wait_until("its new size arrived", || terminal.wire.shell("stty size") == "44 122\r\n");
        terminal.wire.send("exit\n");
        terminal.wait();
        wait_until("the session is over", || server.session_processes().is_empty());
    });
}

#[test]
fn socat_works_on_a_terminal_and_in_a_pipe() {
    if !has("/usr/bin/socat") {
        return;
    }
    on_every_server(|flavor| {
        let server = Setup::new(flavor).raw();
        let mut command = Command::new("/usr/bin/socat");
        command.args(["-,raw,echo=0", &format!("UNIX-CONNECT:{}", server.path("s"))]);
        let mut terminal = Terminal::run(command, 24, 80);
        terminal.wire.read_until("$ ");
        assert_eq!(terminal.wire.shell("echo $((6 * 7))"), "42\r\n");
        terminal.wire.send("exit\n");
        assert!(terminal.wait().success());

        let piped = format!(
            "printf 'echo fi''nal\\nexit\\n' | socat -t 10 - UNIX-CONNECT:{}",
            server.path("s")
        );
        let output = Command::new("/bin/sh").args(["-c", &piped]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("final"), "{text:?}");
    });
}

/// Client of uWSGI's documentation: a dozen lines that copy bytes between a raw terminal
/// and the socket.
#[test]
fn a_small_script_works_as_client() {
    const CLIENT: &str = "
import os, select, socket, sys, termios, tty
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
before = termios.tcgetattr(0)
tty.setraw(0)
try:
    while True:
        ready, _, _ = select.select([0, s], [], [])
        if 0 in ready:
            s.send(os.read(0, 4096))
        if s in ready:
            data = s.recv(4096)
            if not data:
                break
            os.write(1, data)
finally:
    termios.tcsetattr(0, termios.TCSADRAIN, before)
";
    let python = ["/usr/bin/python3", "/usr/local/bin/python3"];
    let Some(python) = python.into_iter().find(|path| has(path)) else {
        return;
    };
    on_every_server(|flavor| {
        let server = Setup::new(flavor).file("client.py", CLIENT).raw();
        let mut command = Command::new(python);
        command.args([server.path("client.py"), server.path("s")]);
        let mut terminal = Terminal::run(command, 24, 80);
        terminal.wire.read_until("$ ");
        assert_eq!(terminal.wire.shell("echo $((6 * 7))"), "42\r\n");
        terminal.wire.send("exit\n");
        assert!(terminal.wait().success());
    });
}

/// The C router understands packets of the tests' own client.
#[test]
fn the_c_router_understands_the_tests_client() {
    if !has(C_BINARY) || !has(&format!("{C_PLUGINS}/forkptyrouter_plugin.so")) {
        return;
    }
    let server = Setup::c_router().switch("master").option("forkpty-router", "{dir}/s").start();
    assert_eq!(server.connect("s").shell("echo $((6 * 7))"), "42\r\n");
    drop(server);

    let script = "trap 'echo got-USR2.' USR2; trap 'stty size' WINCH
        stty -echo; stty size; sleep 1000 & while :; do wait; done";
    let server = Setup::c_router()
        .switch("master")
        .script(script)
        .option("forkptyrouter-rows", "30")
        .option("forkptyrouter-cols", "132")
        .option("forkpty-urouter", "{dir}/u")
        .start();
    let mut client = server.connect("u");
    client.read_until("30 132\r\n");
    // It takes one packet at a time only.
    client.send(crate::harness::wire::header(50, 100));
    client.read_until("50 132\r\n");
    client.send(crate::harness::wire::header(200, 101));
    client.read_until("50 200\r\n");
    client.send(crate::harness::wire::header(0, 200));
    client.send(crate::harness::wire::header(0, 12));
    drop(server);

    let server = Setup::c_router().switch("master").option("forkpty-urouter", "{dir}/u").start();
    let mut client = server.connect("u");
    client.input("echo 'o''k'\n");
    client.read_until("ok\r\n");
}
