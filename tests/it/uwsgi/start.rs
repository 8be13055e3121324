//! How a server with the plugin starts, and what it says when it cannot.

use std::fs;

use crate::harness::{Setup, on_every_server};

/// `uwsgi --plugin ./libforkptyrouter.so --forkpty-router SOCK` in the folder
/// of the library, without a master: the plugin asks for one.
#[test]
fn the_documented_command_serves() {
    on_every_server(|flavor| {
        let server = Setup::bare(&flavor.name, &flavor.binary)
            .current_dir(&flavor.plugins)
            .option("plugin", "./libforkptyrouter.so")
            .raw();
        let output = server.connect("s").shell("echo $((6 * 7))");
        assert_eq!(output, "42\r\n");
    });
}

#[test]
fn an_ini_with_plugins_dir_and_plugin_serves() {
    on_every_server(|flavor| {
        let server = Setup::bare(&flavor.name, &flavor.binary)
            .ini(&format!(
                "strict = true\nplugins-dir = {}\nplugin = forkptyrouter\n\
                 forkpty-router = {{dir}}/s\nmaster = true",
                flavor.plugins.display()
            ))
            .start();
        let output = server.connect("s").shell("echo $((6 * 7))");
        assert_eq!(output, "42\r\n");
    });
}

/// Every name that the C plugin has, in one strict ini.
#[test]
fn every_option_is_accepted() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor)
            .ini(
                "strict = true
                master = true
                forkptyrouter = {dir}/1
                forkpty-router = {dir}/2
                forkptyurouter = {dir}/3
                forkpty-urouter = {dir}/4
                forkptyrouter-command = /bin/false
                forkpty-router-command = /bin/false
                forkptyrouter-cmd = /bin/false
                forkpty-router-cmd = /bin/sh
                forkptyrouter-rows = 30
                forkptyrouter-cols = 100
                forkptyrouter-processes = 1
                forkptyrouter-workers = 2
                forkptyrouter-fallback = 127.0.0.1:1
                forkptyrouter-events = 8
                forkptyrouter-cheap = true
                forkptyrouter-timeout = 600
                forkptyrouter-stats = {dir}/x
                forkptyrouter-stats-server = {dir}/y
                forkptyrouter-ss = {dir}/stats
                forkptyrouter-harakiri = 60
                forkptyrouter-hangup-grace = 5",
            )
            .start();
        server.wait_for_log("spawned uWSGI forkptyrouter 2 (pid: ");
        for socket in ["1", "2"] {
            let output = server.connect(socket).shell("stty size");
            assert_eq!(output, "30 100\r\n");
        }
        for socket in ["3", "4"] {
            let mut client = server.connect(socket);
            client.input("stty size\n");
            client.read_until("30 100\r\n");
        }
        for option in ["forkptyrouter-cheap", "forkptyrouter-fallback"] {
            assert_eq!(server.count_in_log(option), 1, "one line about {option}");
        }
    });
}

#[test]
fn an_invalid_value_ends_the_start_with_option_and_value() {
    on_every_server(|flavor| {
        for (option, value) in [
            ("forkptyrouter-rows", "abc"),
            ("forkptyrouter-rows", "70000"),
            ("forkptyrouter-cols", "-1"),
            ("forkptyrouter-processes", "many"),
            ("forkptyrouter-events", "1.5"),
            ("forkptyrouter-timeout", "soon"),
            ("forkptyrouter-harakiri", "99999999999"),
            ("forkptyrouter-hangup-grace", "10x"),
        ] {
            let ended =
                Setup::new(flavor).option("forkpty-router", "{dir}/s").option(option, value).run();
            assert!(!ended.status.success(), "{option} = {value}: {ended:?}");
            let named = |line: &str| line.contains(option) && line.contains(value);
            assert_eq!(ended.log.lines().filter(|line| named(line)).count(), 1, "{}", ended.log);
        }
    });
}

/// A library built for another server reads the wrong fields: it must refuse.
#[test]
fn the_library_of_another_server_is_refused() {
    on_every_server(|flavor| {
        let Some(other) = flavor.other() else {
            return;
        };
        let refused = |log: &str| {
            let named =
                |line: &&str| line.contains(flavor.version()) && line.contains(other.version());
            let lines: Vec<&str> = log.lines().filter(|line| line.contains("built for")).collect();
            assert_eq!(lines.len(), 1, "one message: {log}");
            assert!(lines.iter().all(named), "both versions: {log}");
            assert!(!log.contains("segfault") && !log.contains("Segmentation"), "{log}");
        };
        let setup = || Setup::bare(&flavor.name, &flavor.binary);
        // The rest of the server works on.
        let server = setup()
            .plugin(&other.plugins, "forkptyrouter")
            .switch("master")
            .option("socket", "{dir}/other")
            .launch();
        server.wait_for_log("spawned uWSGI master process");
        refused(&server.log());
        drop(server);

        let ended = setup()
            .option("plugins-dir", &other.plugins.display().to_string())
            .option("need-plugin", "forkptyrouter")
            .run();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        refused(&ended.log);
    });
}

#[test]
fn an_address_that_cannot_be_bound_is_named() {
    on_every_server(|flavor| {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for (address, why) in [
            ("{dir}/missing/s".to_owned(), "No such file"),
            (format!("{{dir}}/{}", "x".repeat(120)), "at most"),
            ("127.0.0.1:notaport".to_owned(), "not a port"),
            ("=7".to_owned(), "no shared socket"),
            ("fd://77".to_owned(), "not a listening socket"),
            (taken.local_addr().unwrap().to_string(), "same address"),
        ] {
            let setup = Setup::new(flavor);
            let named = address.replace("{dir}", &setup.path(""));
            let ended = setup.option("forkpty-router", &address).run();
            assert!(!ended.status.success(), "{address}: {ended:?}");
            let says = |line: &str| line.contains(&named) && line.contains(why);
            assert!(ended.log.lines().any(says), "{named} and {why:?}: {}", ended.log);
        }
    });
}

/// The server itself unlinks whatever has the socket's name.
#[test]
fn a_file_in_the_way_is_not_deleted() {
    on_every_server(|flavor| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("precious");
        fs::write(&file, "data").unwrap();
        let name = file.display().to_string();
        let ended = Setup::new(flavor).option("forkpty-router", &name).run();
        assert!(!ended.status.success(), "{ended:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "data");
        assert!(ended.log.contains(&format!("{name}: it exists and is not a socket")), "{ended:?}");
    });
}

/// A socket that a crashed server left is no obstacle.
#[test]
fn a_stale_socket_is_replaced() {
    on_every_server(|flavor| {
        let setup = Setup::new(flavor);
        drop(std::os::unix::net::UnixListener::bind(setup.path("s")).unwrap());
        let server = setup.raw();
        server.connect("s").shell("true");
    });
}
