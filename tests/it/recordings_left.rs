//! Recordings of sessions that are left and found again: one file, whoever was
//! there, and whatever became of the gateway meanwhile.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::client::both;
use crate::harness::leaver::{Leaver, comes_to_be_kept};
use crate::harness::wire::header;
use crate::harness::{
    Flavor, Server, Setup, assert_same, on_one_server, process, sequence, servers, side_by_side,
    wait_until,
};
use crate::recordings::{
    Cast, ends, files, find, record, recorded, recorder, running, wait_until_written,
};
use crate::slow_start::Lease;

/// A shell that shows nothing of itself.
const SHELL: &str = "stty raw -echo; printf ready; while read -r x; do eval \"$x\"; done";

#[track_caller]
fn server(flavor: &Flavor, options: &[(&str, &str)]) -> Server {
    let setup = recorded(flavor).script(SHELL).option("forkptyrouter-detach", "20");
    options.iter().fold(setup, |setup, (name, value)| setup.option(name, value)).start()
}

/// Begins, and has been given what is kept of the output, and no terminal.
#[track_caller]
fn seated(server: &Server, variables: &[(&str, &str)]) -> Leaver {
    let mut client = Leaver::begins(server, variables).takes();
    assert_eq!(client.offer, "r");
    client.sees("ready");
    client
}

#[track_caller]
fn back(server: &Server, which: &str) -> Leaver {
    // The one before may be lost without that being known.
    let mut client = Leaver::comes(server, which, &[]);
    wait_until("nobody is attached", || {
        client.waits("an answer", |client| client.end.is_some() || !client.offer.is_empty());
        let is_there = client.end.is_none();
        if !is_there {
            client = Leaver::comes(server, which, &[]);
        }
        is_there
    });
    let client = client.takes();
    assert_eq!(client.offer, "r", "what is recorded is not handed over");
    client
}

/// How much output there was, says a ring.
fn total(ring: &OwnedFd) -> u64 {
    let mut total = [0; 8];
    let file = fs::File::from(ring.try_clone().expect("a copy"));
    file.read_exact_at(&mut total, 16).expect("a ring");
    u64::from_le_bytes(total)
}

/// The one file, and what the audit says of it in the end.
#[track_caller]
fn the_file(server: &Server) -> Cast {
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
fn replace(server: &Server, way: &str) {
    if way == "keeper" {
        let killed = running(server, "fpty-supervisor");
        process::signal(killed, Signal::SIGKILL);
        let another = || find(server, "fpty-supervisor").is_some_and(|now| now.pid != killed);
        return wait_until("there is another one", another);
    }
    server.replace_gateway(way);
}

#[test]
fn one_file_has_what_came_while_nobody_was_there() {
    on_one_server(|flavor| {
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
fn one_that_is_stolen_and_watched_has_one_file() {
    on_one_server(|flavor| {
        let server = server(flavor, &[]);
        let mut first = seated(&server, &[("fpty.name", "job")]);
        first.types("printf one\n");
        first.sees("one");
        let mut watcher = Leaver::comes(&server, "job", &[("fpty.readonly", "1")]).takes();
        let mut thief = Leaver::comes(&server, "job", &[("fpty.steal", "1")]);
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

#[test]
fn a_killed_gateway_and_a_reload_leave_one_file() {
    on_one_server(|flavor| {
        side_by_side([&["kill"][..], &["reload"], &["kill", "keeper", "reload", "kill"]], |ways| {
            side_by_side([true, false], |left| {
                let server = server(flavor, &[("forkptyrouter-record-input", "true")]);
                let mut client = seated(&server, &[("fpty.name", "job")]);
                client.types("(sleep 1; printf la''ter)& printf one\n");
                client.sees("one");
                if left {
                    client.leaves();
                } else {
                    // It is relayed: what it has of that ends with the gateway.
                    wait_until_written(&server, "one");
                }
                ways.iter().for_each(|way| replace(&server, way));
                wait_until_written(&server, "later");
                let mut client = back(&server, "job");
                assert!(client.kept().ends_with("readyonelater"), "{}", client.kept());
                client.say(&[header(40, 100), header(120, 101)].concat());
                client.types("printf two\n");
                client.sees("two");
                // And once more, with somebody there.
                replace(&server, ways[0]);
                let mut client = back(&server, "job");
                client.types("exit 9\n");
                assert_eq!(client.ended(), (0, 9, String::new()));
                let cast = the_file(&server);
                assert_eq!(cast.all("o"), "readyonelatertwo", "{ways:?} {left}");
                assert_eq!((cast.all("x").as_str(), cast.total("dropped")), ("9", "0"));
                assert!(cast.all("r").contains("120x40"), "{}", cast.all("r"));
                let typed = "(sleep 1; printf la''ter)& printf one\nprintf two\nexit 9\n";
                assert_eq!(cast.all("i"), typed);
                // By one clock, whichever gateway looked at it.
                let at = |what: &str| {
                    cast.events.iter().find(|(.., text)| text.contains(what)).expect(what).0
                };
                let between = at("later") - at("one");
                assert!((0.9..20.0).contains(&between), "{between}");
                assert_eq!(server.count_in_log("is recorded in another file"), 0);
                assert_eq!(server.count_in_log("is not recorded"), 0);
            });
        });
    });
}

#[test]
fn a_program_that_ends_while_there_is_no_gateway_is_recorded_to_its_end() {
    on_one_server(|flavor| {
        let server = server(flavor, &[]);
        let mut client = seated(&server, &[]);
        client.types("sleep 0.5; printf last; exit 5\n");
        let program = server.programs()[0].pid;
        client.leaves();
        let gateway = server.gateway();
        process::signal(server.master(), Signal::SIGSTOP);
        process::signal(gateway, Signal::SIGKILL);
        wait_until("the program has ended", || {
            fs::read_to_string(format!("/proc/{program}/stat"))
                .map_or(true, |stat| stat.contains(") Z "))
        });
        process::signal(server.master(), Signal::SIGCONT);
        wait_until("the file has its last line", || {
            fs::read_to_string(&files(&server)[0]).unwrap().contains("sha256=")
        });
        let cast = Cast::read(&files(&server)[0]);
        assert_eq!((cast.all("o").as_str(), cast.all("x").as_str()), ("readylast", "5"));
        assert_eq!(files(&server).len(), 1);
    });
}

/// Ended while nobody is there: by itself, by an operator, by a limit.
#[test]
fn the_end_without_a_client_is_in_the_file() {
    on_one_server(|flavor| {
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
fn a_flood_without_a_client_is_recorded_whole_or_counted() {
    on_one_server(|flavor| {
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

/// Whoever is there again is shown what came while it had to wait for the recorder.
#[test]
fn a_flood_after_the_return_goes_on() {
    on_one_server(|flavor| {
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

/// The recorder is killed while nobody is there; and with it the gateway, so that
/// nobody knows any more what it had not written.
#[test]
fn a_recorder_killed_meanwhile_begins_the_next_file_or_ends_the_session() {
    on_one_server(|flavor| {
        side_by_side(["continue", "close"], |on_error| {
            side_by_side([false, true], |both| {
                let server = server(flavor, &[("forkptyrouter-record-on-error", on_error)]);
                let mut client = seated(&server, &[]);
                client.types("printf one\n");
                client.sees("one");
                let id = client.leaves();
                wait_until_written(&server, "one");
                let killed = running(&server, "fpty-recorder");
                let gateway = server.gateway();
                if both {
                    process::signal(server.master(), Signal::SIGSTOP);
                    process::signal(gateway, Signal::SIGKILL);
                }
                process::signal(killed, Signal::SIGKILL);
                wait_until("there is another recorder", || {
                    recorder(&server).is_some_and(|now| now.pid != killed)
                });
                process::signal(server.master(), Signal::SIGCONT);
                if on_error == "close" {
                    server.wait_for_log("is not recorded any more: the recorder was killed");
                    let all = || server.processes().into_iter().any(|one| one.name == "script");
                    wait_until("its program has ended", || !all());
                    assert_eq!(Leaver::comes(&server, &id, &[]).ended().0, 3);
                    return;
                }
                server.wait_for_log("is recorded in another file from here on");
                let mut client = back(&server, &id);
                client.types("printf two; exit 8\n");
                assert_eq!(client.ended().1, 8);
                wait_until("the second file is complete", || {
                    let files = files(&server);
                    files.len() == 2 && fs::read_to_string(&files[0]).unwrap().contains("sha256=")
                });
                // "-" comes before ".".
                let [second, first] = &files(&server)[..] else { panic!("{:?}", files(&server)) };
                assert!(second.to_str().unwrap().ends_with("-part2.cast"), "{second:?}");
                let cast = Cast::read(second);
                assert_eq!((cast.all("o").as_str(), cast.all("x").as_str()), ("two", "8"));
                assert!(fs::read_to_string(first).unwrap().contains("one"));
            });
        });
    });
}

#[test]
fn a_limit_that_is_reached_without_a_client_ends_the_recording_or_the_session() {
    on_one_server(|flavor| {
        for on_error in ["continue", "close"] {
            let options = [
                ("forkptyrouter-record-limit", "8192"),
                ("forkptyrouter-record-on-error", on_error),
            ];
            let server = server(flavor, &options);
            let mut client = seated(&server, &[]);
            client.types("sleep 0.3; seq 1 5000\n");
            let id = client.leaves();
            server.wait_for_log(
                "is not recorded any more: the recording is as long as it may become",
            );
            if on_error == "close" {
                wait_until("its program has ended", || server.programs().is_empty());
                assert!(the_file(&server).all("o").len() < 8192);
                assert_eq!(ends(&server)[0]["reason"], "limit");
                continue;
            }
            // It is not forgotten with the gateway that it is full.
            replace(&server, "kill");
            wait_until("that is said again", || {
                server.count_in_log("the recording is as long as it may become") == 2
            });
            let mut client = back(&server, &id);
            client.types("exit 2\n");
            assert_eq!(client.ended().1, 2);
            let cast = the_file(&server);
            assert!(cast.all("o").len() < 8192 && cast.total("dropped") != "0");
            assert_eq!(cast.all("x"), "2");
        }
    });
}

/// One of two gateways is killed: nothing ends that the other one has, nor what goes
/// on, and what cannot is complete.
#[test]
fn a_gateway_takes_up_its_own_recordings_alone() {
    on_one_server(|flavor| {
        let server = server(flavor, &[("forkptyrouter-processes", "2")]);
        let mut clients: Vec<Leaver> = (0..8).map(|_| seated(&server, &[])).collect();
        let cannot_be_left = server.connect("s");
        wait_until("all are written", || {
            let has = |path: &std::path::PathBuf| {
                fs::read_to_string(path).is_ok_and(|text| text.contains("ready"))
            };
            files(&server).len() == 9 && files(&server).iter().all(has)
        });
        drop(cannot_be_left);
        let complete = || {
            let texts = files(&server).into_iter().map(|path| fs::read_to_string(path).unwrap());
            texts.filter(|text| text.contains("sha256=")).count()
        };
        wait_until("the one that cannot be left is complete", || complete() == 1);
        replace(&server, "kill");
        let mut goes_on = 0;
        for client in &mut clients {
            client.types("printf more; exit 3\n");
            client.waits("its end, or the gateway's", |client| {
                client.end.is_some() || client.is_over()
            });
            goes_on += usize::from(
                client.end.as_ref().is_some_and(|(kind, value, _)| (*kind, *value) == (0, 3)),
            );
        }
        wait_until("those of the other gateway are complete", || complete() == 1 + goes_on);
        for path in files(&server) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains("sha256=") || !text.contains("more"), "{text}");
        }
        assert_eq!(files(&server).len(), 9);
    });
}

/// A reload changes the folder, or turns recordings off, while a session is left.
#[test]
fn another_folder_is_another_file_and_off_is_the_end_of_it() {
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
            let mut client = Leaver::comes(&server, "job", &[]).takes();
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

/// Whoever tells it: the next gateway, or the master at its end. Servers do not differ in
/// that.
#[test]
fn an_end_without_a_gateway_is_told_with_its_figures() {
    for way in ["kill", "reload", "both", "stop"] {
        let mut server = server(&servers::all()[0], &[]);
        let mut plain = server.connect("s");
        plain.read_until("ready");
        plain.send("printf one\n");
        plain.read_until("one");
        let mut client = seated(&server, &[]);
        client.types("printf two\n");
        client.sees("two");
        client.leaves();
        match way {
            "stop" => drop(server.stop()),
            "both" => {
                let gateway = server.gateway();
                process::signal(gateway, Signal::SIGSTOP);
                process::signal(running(&server, "fpty-supervisor"), Signal::SIGKILL);
                process::signal(gateway, Signal::SIGKILL);
            }
            way => server.replace_gateway(way),
        }
        // One that was left outlives its gateway alone.
        let goes_on = matches!(way, "kill" | "reload");
        let count = if goes_on { 1 } else { 2 };
        wait_until(&format!("{way}: they are told"), || ends(&server).len() == count);
        for end in ends(&server) {
            assert_eq!(end["reason"], "lost", "{way}");
            let cast = Cast::read(end["record"]["path"].as_str().expect("a path"));
            assert!(end["record"]["bytes"].is_u64(), "{way}: {end}");
            cast.check(&end["record"]);
            assert!(["readyone", "readytwo"].contains(&cast.all("o").as_str()), "{way}");
        }
    }
}

/// What a gateway had counted, and not told yet.
#[test]
fn what_was_missing_when_its_gateway_was_killed_is_counted() {
    let server = server(&servers::all()[0], &[]);
    let mut client = server.connect("s");
    client.read_until("ready");
    let recorder = running(&server, "fpty-recorder");
    process::signal(recorder, Signal::SIGSTOP);
    client.send("seq 1 1500000; printf do''ne\n");
    let shown = client.read_while("all of it", |seen| seen.ends_with(b"done")).len();
    server.replace_gateway("kill");
    process::signal(recorder, Signal::SIGCONT);
    wait_until("its end is told", || !ends(&server).is_empty());
    let record = &ends(&server)[0]["record"];
    let cast = Cast::read(record["path"].as_str().expect("a path"));
    cast.check(record);
    let dropped = record["dropped"].as_u64().expect("a number") as usize;
    assert_eq!(cast.all("o").len() + dropped, shown);
    assert!(dropped > 1_000_000, "{dropped}");
}

/// What is told to have begun is recorded, also where that was known at its end.
#[test]
fn one_that_ends_while_it_begins_has_its_file() {
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
