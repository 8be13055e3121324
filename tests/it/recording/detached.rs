//! Recordings of detached sessions: one file, whoever was attached.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::attach_client::{AttachClient, comes_to_be_kept};
use crate::harness::client::both;
use crate::harness::recording::{Cast, ends, files, record, recorded, running, wait_until_written};
use crate::harness::wire::header;
use crate::harness::{
    Flavor, Server, Setup, assert_same, in_process, on_one_server, process, sequence, servers,
    side_by_side, wait_until,
};
use crate::session::slow_start::Lease;

/// A shell that shows nothing of itself.
const SHELL: &str = "stty raw -echo; printf ready; while read -r x; do eval \"$x\"; done";

#[track_caller]
pub(super) fn server(flavor: &Flavor, options: &[(&str, &str)]) -> Server {
    let setup = recorded(flavor).script(SHELL).option("forkptyrouter-detach", "20");
    options.iter().fold(setup, |setup, (name, value)| setup.option(name, value)).start()
}

/// Begins, and has been given what is kept of the output, and no terminal.
#[track_caller]
pub(super) fn seated(server: &Server, variables: &[(&str, &str)]) -> AttachClient {
    let mut client = AttachClient::begins(server, variables).takes();
    assert_eq!(client.offer, "r");
    client.sees("ready");
    client
}

#[track_caller]
pub(super) fn back(server: &Server, which: &str) -> AttachClient {
    // The one before may be lost without that being known.
    let mut client = AttachClient::comes(server, which, &[]);
    wait_until("nobody is attached", || {
        client.gets_an_answer();
        let is_there = client.end.is_none();
        if !is_there {
            client = AttachClient::comes(server, which, &[]);
        }
        is_there
    });
    let client = client.takes();
    assert_eq!(client.offer, "r", "what is recorded is not handed over");
    client
}

/// How much output there was, says a ring.
pub(super) fn total(ring: &OwnedFd) -> u64 {
    let mut total = [0; 8];
    let file = fs::File::from(ring.try_clone().expect("a copy"));
    file.read_exact_at(&mut total, 16).expect("a ring");
    u64::from_le_bytes(total)
}

/// The one file, and what the audit says of it in the end.
#[track_caller]
pub(super) fn the_file(server: &Server) -> Cast {
    wait_until("the audit tells the end", || !ends(server).is_empty());
    let told = ends(server);
    assert_eq!(told.len(), 1, "{told:?}");
    let files = files(server);
    assert_eq!(files.len(), 1, "{files:?}");
    let record = &told[0]["record"];
    assert_eq!(record["path"].as_str(), files[0].to_str());
    let cast = Cast::read(&files[0]);
    cast.check(record);
    assert!(cast.events.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{:?}", cast.events);
    cast
}

/// Kills the gateway, or reloads the instance; or kills what keeps its sessions.
#[track_caller]
pub(super) fn replace(server: &Server, way: &str) {
    if way == "keeper" {
        let killed = running(server, "fpty-supervisor");
        process::signal(killed, Signal::SIGKILL);
        // What is not there yet when the gateway is killed, too, is lost.
        return wait_until("there is another one, which has the sessions", || {
            server.supervisor().is_some_and(|now| now != killed)
                && server.supervised_terminals() > 0
        });
    }
    server.replace_gateway(way);
}

#[test]
fn a_recording_has_the_output_of_a_detached_session() {
    in_process(|flavor| {
        for input in ["false", "true"] {
            let server = server(flavor, &[("forkptyrouter-record-input", input)]);
            let mut client = seated(&server, &[]);
            client.types("(sleep 0.3; printf la''ter)& printf one\n");
            client.sees("one");
            let ring = client.ring.as_ref().unwrap().try_clone().unwrap();
            let id = client.leaves();
            comes_to_be_kept(&ring, "later");
            // A complete file has a last line.
            wait_until_written(&server, "later");
            assert!(!fs::read_to_string(&files(&server)[0]).unwrap().contains("sha256="));
            let mut client = back(&server, &id);
            assert!(client.kept().ends_with("readyonelater"), "{}", client.kept());
            client.say(&[header(40, 100), header(120, 101)].concat());
            client.types("printf two\n");
            client.sees("two");
            // Lost instead of left.
            drop(client);
            let mut client = back(&server, &id);
            client.types("printf three; exit 7\n");
            assert_eq!(client.ended(), (0, 7, String::new()));
            let cast = the_file(&server);
            assert_eq!(cast.all("o"), "readyonelatertwothree");
            assert_eq!((cast.all("x").as_str(), cast.total("dropped")), ("7", "0"));
            assert!(cast.all("r").contains("120x40"), "{}", cast.all("r"));
            let typed =
                "(sleep 0.3; printf la''ter)& printf one\nprintf two\nprintf three; exit 7\n";
            assert_eq!(cast.all("i"), if input == "true" { typed } else { "" });
        }
    });
}

#[test]
fn a_stolen_and_viewed_session_has_one_recording() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let mut first = seated(&server, &[("fpty.name", "job")]);
        first.types("printf one\n");
        first.sees("one");
        let mut watcher = AttachClient::comes(&server, "job", &[("fpty.readonly", "1")]).takes();
        let mut thief = AttachClient::comes(&server, "job", &[("fpty.steal", "1")]);
        assert!(first.ended().2.contains("has taken the session"));
        drop(first);
        thief = thief.takes();
        assert_eq!(thief.offer, "r");
        thief.types("printf two; exit 3\n");
        watcher.sees("two");
        assert_eq!(thief.ended(), (0, 3, String::new()));
        assert_eq!(watcher.ended(), (0, 3, String::new()));
        let cast = the_file(&server);
        assert_eq!((cast.all("o").as_str(), cast.all("x").as_str()), ("readyonetwo", "3"));
    });
}

/// Ended while nobody is there: by itself, by an operator, by a limit.
#[test]
fn the_end_of_a_detached_session_is_in_its_recording() {
    in_process(|flavor| {
        side_by_side(["exit", "signal", "operator", "time"], |way| {
            let options: &[_] =
                if way == "time" { &[("forkptyrouter-detach-time", "1")] } else { &[] };
            let server = server(flavor, options);
            let mut client = seated(&server, &[]);
            match way {
                "exit" => client.types("sleep 0.3; printf last; exit 6\n"),
                "signal" => client.types("sleep 0.3; printf last; kill -9 $$\n"),
                _ => client.types("printf last\n"),
            }
            let id = client.leaves();
            if way == "operator" {
                wait_until_written(&server, "last");
                let killed =
                    Command::new(servers::fpty()).args(["--kill", &id, &server.path("u")]).status();
                assert!(killed.expect("fpty").success());
            }
            wait_until("the file has its last line", || {
                fs::read_to_string(&files(&server)[0]).unwrap().contains("sha256=")
            });
            let cast = the_file(&server);
            assert_eq!(cast.all("o"), "readylast", "{way}");
            assert_eq!(ends(&server)[0]["reason"], if way == "time" { "limit" } else { way });
            let status = match way {
                "exit" => "6",
                "signal" => "137",
                _ => "",
            };
            assert_eq!(cast.all("x"), status, "{way}");
            wait_until("nothing runs", || server.programs().is_empty());
        });
    });
}

/// A flood without a client waits for the recorder where there is no room, and goes
/// on without it where the recorder stands still: what is missing is counted.
#[test]
fn a_detached_flood_is_recorded_whole_or_counted() {
    in_process(|flavor| {
        side_by_side([false, true], |stops| {
            let server = server(flavor, &[]);
            let mut client = seated(&server, &[]);
            client.types("sleep 0.3; seq 1 2000000; exit 4\n");
            let ring = client.ring.as_ref().unwrap().try_clone().unwrap();
            client.leaves();
            wait_until_written(&server, "ready");
            let recorder = running(&server, "fpty-recorder");
            if stops {
                process::signal(recorder, Signal::SIGSTOP);
                // Nothing else would make a flood pause.
                wait_until("it waits for room", || {
                    let before = total(&ring);
                    std::thread::sleep(Duration::from_millis(100));
                    before > 1_000_000 && before < 13_000_000 && total(&ring) == before
                });
            }
            wait_until("the program has ended", || server.programs().is_empty());
            process::signal(recorder, Signal::SIGCONT);
            wait_until("the file has its last line", || {
                fs::read_to_string(&files(&server)[0]).unwrap().contains("sha256=")
            });
            let cast = Cast::read(&files(&server)[0]);
            let whole = [b"ready".as_slice(), &sequence(2_000_000)].concat();
            let there = cast.all("o");
            let dropped: usize = cast.total("dropped").parse().expect("a number");
            assert_eq!(there.len() + dropped, whole.len());
            assert_eq!(dropped > 0, stops, "{dropped}");
            if !stops {
                assert_same(there.as_bytes(), &whole);
            }
            assert_eq!(cast.all("x"), "4");
        });
    });
}

/// A client that attaches again is shown output that came while it had to wait for
/// the recorder.
#[test]
fn a_flood_after_the_attach_goes_on() {
    in_process(|flavor| {
        let server = server(flavor, &[]);
        let id = seated(&server, &[]).leaves();
        let mut client = back(&server, &id);
        wait_until_written(&server, "ready");
        let recorder = running(&server, "fpty-recorder");
        process::signal(recorder, Signal::SIGSTOP);
        client.types("seq 1 1000000; printf do''ne; exit 4\n");
        client.sees("done");
        assert_eq!(client.ended().1, 4);
        process::signal(recorder, Signal::SIGCONT);
        let cast = the_file(&server);
        let whole = "ready".len() + sequence(1_000_000).len() + "done".len();
        let dropped: usize = cast.total("dropped").parse().expect("a number");
        assert_eq!(cast.all("o").len() + dropped, whole);
    });
}

/// A reload changes the folder, or turns recordings off, while a session is left.
#[test]
fn a_reload_to_another_folder_begins_another_file() {
    on_one_server(|flavor| {
        for (folder, on_error) in [("other", "close"), ("off", "close")] {
            let server = both(Setup::new(flavor))
                .script(SHELL)
                .option("forkptyrouter-audit", "json")
                .option("forkptyrouter-detach", "20")
                .option("forkptyrouter-record-on-error", on_error)
                .ini("forkptyrouter-record = {dir}/r\n")
                .start();
            let client = seated(&server, &[("fpty.name", "job")]);
            client.leaves();
            wait_until_written(&server, "ready");
            let ini = match folder {
                "off" => String::from("[uwsgi]\n"),
                _ => format!("[uwsgi]\nforkptyrouter-record = {}\n", server.path(folder)),
            };
            fs::write(server.path("server.ini"), ini).expect("a file");
            replace(&server, "reload");
            wait_until("the first file is complete", || {
                fs::read_to_string(&files(&server)[0]).unwrap().contains("sha256=")
            });
            let mut client = AttachClient::comes(&server, "job", &[]).takes();
            let hands_over = client.offer == "mpr";
            match hands_over {
                true => client.terminal().send("printf more; exit 4\n"),
                false => client.types("printf more; exit 4\n"),
            }
            assert_eq!(client.ended(), (0, 4, String::new()));
            assert_eq!(hands_over, folder == "off");
            assert_eq!(Cast::read(&files(&server)[0]).all("o"), "ready");
            if folder == "other" {
                server.wait_for_log("is recorded in another file from here on");
                let told = record(&server, 1);
                let path = told["path"].as_str().expect("a path");
                assert!(path.contains("/other/") && path.ends_with("-part2.cast"), "{path}");
                let cast = Cast::read(path);
                assert_eq!((cast.all("o").as_str(), cast.all("x").as_str()), ("more", "4"));
            }
        }
    });
}

/// A session whose start is logged is recorded, also where the start was known at its
/// end.
#[test]
fn a_session_that_ends_as_it_begins_has_its_recording() {
    let server = server(&servers::all()[0], &[("forkptyrouter-hangup-grace", "1")]);
    let lease = Lease::take(&server.path("script"));
    let client = server.connect("s");
    wait_until("its process is there", || !server.programs().is_empty());
    drop(client);
    wait_until("its end is told", || !ends(&server).is_empty());
    lease.give_up();
    let record = &ends(&server)[0]["record"];
    Cast::read(record["path"].as_str().expect("a path")).check(record);
}
