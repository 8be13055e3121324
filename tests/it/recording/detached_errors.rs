//! Recordings of detached sessions, where gateways and recorders are killed.

use std::fs;

use nix::sys::signal::Signal;

use super::detached::{back, replace, seated, server, the_file};
use crate::harness::attach_client::AttachClient;
use crate::harness::recording::{Cast, ends, files, recorder, running, wait_until_written};
use crate::harness::wire::header;
use crate::harness::{in_process, on_one_server, process, servers, side_by_side, wait_until};

#[test]
fn a_recording_goes_on_over_a_killed_gateway_and_a_reload() {
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
    in_process(|flavor| {
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

/// The recorder is killed while nobody is there; and with it the gateway, so that
/// nobody knows any more what it had not written.
#[test]
fn a_recorder_killed_while_detached_begins_the_next_file_or_ends_the_session() {
    in_process(|flavor| {
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
                    assert_eq!(AttachClient::comes(&server, &id, &[]).ended().0, 3);
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
fn a_size_limit_reached_while_detached_ends_the_recording_or_the_session() {
    in_process(|flavor| {
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
fn a_killed_gateway_ends_no_recording_of_another() {
    in_process(|flavor| {
        let server = server(flavor, &[("forkptyrouter-processes", "2")]);
        let mut clients: Vec<AttachClient> = (0..8).map(|_| seated(&server, &[])).collect();
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

/// Either the next gateway reports the end, or the master at its own. Servers do not
/// differ in that.
#[test]
fn an_end_without_a_gateway_has_the_recordings_figures() {
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

/// Dropped bytes that a gateway had counted, and not reported yet.
#[test]
fn dropped_bytes_of_a_killed_gateway_are_counted() {
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
