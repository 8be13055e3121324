//! Sessions that cannot be recorded, or not any more: no recorder, one that stands
//! still, a full disk, a limit.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::connection::extended_mode::{open, to_the_end};
use crate::harness::client::both;
use crate::harness::process;
use crate::harness::recording::{Cast, record, recorded, recorder, running, wait_until_written};
use crate::harness::{
    Setup, assert_same, in_process, on_every_server, on_one_server, sequence, wait_until,
};

#[test]
fn a_killed_recorder_is_replaced() {
    in_process(|flavor| {
        for on_error in ["continue", "close"] {
            let server = recorded(flavor)
                .script("stty raw -echo; printf ready; read x; printf second; read x; exit 4")
                .option("forkptyrouter-record-on-error", on_error)
                .start();
            let mut client = server.connect("u");
            open(&client, &[]);
            client.read_until("ready");
            wait_until_written(&server, "ready");
            let killed = running(&server, "fpty-recorder");
            process::signal(killed, Signal::SIGKILL);
            wait_until("there is another one", || {
                recorder(&server).is_some_and(|now| now.pid != killed)
            });
            server.wait_for_log("the recorder was killed");
            if on_error == "close" {
                let said = to_the_end(&mut client);
                let [(_, _, why)] = &said.ended[..] else { panic!("{said:?}") };
                assert!(why.contains("it cannot be recorded: the recorder was killed"), "{why}");
                assert_eq!(record(&server, 1)["sha256"], Value::Null);
            } else {
                server.wait_for_log("is recorded in another file from here on");
                client.input("\n");
                client.read_until("second");
                client.input("\n");
                assert_eq!(to_the_end(&mut client).ended, [(0, 4, String::new())]);
                let record = record(&server, 1);
                let path = record["path"].as_str().expect("a path");
                assert!(path.ends_with("-part2.cast"), "{path}");
                let cast = Cast::read(path);
                cast.check(&record);
                assert_eq!((cast.all("o"), cast.all("x")), ("second".into(), "4".into()));
            }
            // And the next session is recorded as ever.
            let mut client = server.connect("s");
            client.read_until("ready");
            drop(client);
            assert!(record(&server, 2)["sha256"].is_string());
        }
    });
}

#[test]
fn without_a_recorder_sessions_go_on_or_are_refused() {
    in_process(|flavor| {
        for on_error in ["continue", "close"] {
            let server = recorded(flavor)
                .script("stty raw -echo; printf ready; read x; printf second; exit 4")
                .option("forkptyrouter-record-on-error", on_error)
                .start();
            let mut client = server.connect("u");
            open(&client, &[]);
            client.read_until("ready");
            wait_until_written(&server, "ready");
            for name in ["fpty-rec-keeper", "fpty-recorder"] {
                process::signal(running(&server, name), Signal::SIGKILL);
                wait_until("it is gone", || server.process_named(name).is_none());
            }
            server.wait_for_log("is not recorded any more: the recorder was killed");
            if on_error == "close" {
                let said = to_the_end(&mut client);
                assert!(said.ended[0].2.contains("cannot be recorded"), "{said:?}");
                let refused = server.connect("s").text_to_end();
                assert!(refused.contains("refused: it cannot be recorded"), "{refused}");
                server.wait_for_log("\"event\":\"refused\"");
            } else {
                client.input("\n");
                assert_eq!(to_the_end(&mut client).ended, [(0, 4, String::new())]);
                let record = record(&server, 1);
                assert_eq!((&record["sha256"], &record["dropped"]), (&Value::Null, &json!(6)));
                let mut client = server.connect("s");
                client.read_until("ready");
                server.wait_for_log("is not recorded: there is no recorder");
            }
        }
    });
}

#[test]
fn a_limit_ends_the_recording_or_the_session() {
    in_process(|flavor| {
        for on_error in ["continue", "close"] {
            let server = recorded(flavor)
                .script("stty raw -echo; seq 1 5000; read x; seq 5001 6000; exit 5")
                .option("forkptyrouter-record-limit", "8192")
                .option("forkptyrouter-record-on-error", on_error)
                .start();
            let mut client = server.connect("u");
            open(&client, &[]);
            server.wait_for_log(
                "is not recorded any more: the recording is as long as it may become",
            );
            if on_error == "continue" {
                client.input("\n");
            }
            let said = to_the_end(&mut client);
            match on_error {
                "close" => {
                    assert_eq!(
                        said.ended[0].2,
                        "session ended: it cannot be recorded: the recording is as long as it may become"
                    );
                }
                _ => {
                    assert_eq!(said.ended, [(0, 5, String::new())]);
                    assert_same(&said.output, &sequence(6000));
                }
            }
            let record = record(&server, 1);
            assert!(record["bytes"].as_u64().expect("a number") <= 8192, "{record}");
            let cast = Cast::read(record["path"].as_str().expect("a path"));
            cast.check(&record);
            let there = cast.all("o").len() as u64;
            let dropped = record["dropped"].as_u64().expect("a number");
            if on_error == "continue" {
                assert_eq!(there + dropped, said.output.len() as u64);
            }
            assert!(there > 0 && dropped > 0);
        }
    });
}

/// A tmpfs of our own at `r`.
fn small_disk(setup: Setup) -> Option<Setup> {
    let place = setup.path("r");
    fs::create_dir(&place).expect("a folder");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k,mode=0700", "none", &place])
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: cannot mount a tmpfs");
        return None;
    }
    Some(setup)
}

struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0]).status();
    }
}

#[test]
fn a_full_disk_ends_the_recording_or_the_session() {
    on_one_server(|flavor| {
        for on_error in ["continue", "close"] {
            let Some(setup) = small_disk(recorded(flavor)) else { return };
            let _mounted = Mounted(setup.path("r"));
            let server = setup
                .script("stty raw -echo; printf ready; seq 1 100000; read x; printf more; exit 5")
                .option("forkptyrouter-record-on-error", on_error)
                .start();
            let mut client = server.connect("u");
            open(&client, &[]);
            if on_error == "continue" {
                client.read_while("all of it", |seen| seen.ends_with(b"100000\n"));
                client.input("\n");
            }
            let said = to_the_end(&mut client);
            server.wait_for_log("is not recorded any more: No space left on device");
            match on_error {
                "close" => assert!(said.ended[0].2.contains("No space left"), "{said:?}"),
                _ => assert_eq!(said.ended, [(0, 5, String::new())]),
            }
            let record = record(&server, 1);
            let path = record["path"].as_str().expect("a path");
            let text = fs::read_to_string(path).expect("a recording");
            assert_eq!(record["bytes"], text.len());
            // Whole lines, and what is there is the beginning.
            assert!(text.ends_with('\n') && text.len() > 100_000, "{}", text.len());
            let events = text.lines().skip(1).filter(|line| !line.starts_with('#'));
            let output: String = events
                .map(|line| serde_json::from_str::<(f64, String, String)>(line).expect(line).2)
                .collect();
            assert!(String::from_utf8_lossy(&said.output).starts_with(&output));
            if on_error == "continue" {
                let dropped = record["dropped"].as_u64().expect("a number");
                assert_eq!(output.len() as u64 + dropped, said.output.len() as u64);
            }
            // So it is with the next one.
            let mut client = server.connect("s");
            if on_error == "continue" {
                client.read_while("all of it", |seen| seen.ends_with(b"100000\n"));
            } else {
                client.text_to_end();
            }
            wait_until("it is told", || server.count_in_log("No space left on device") >= 2);
            drop(client);
        }
    });
}

#[test]
fn a_folder_that_cannot_be_used_ends_the_start() {
    on_every_server(|flavor| {
        let setup = recorded(flavor);
        fs::write(setup.path("r"), "a file").expect("a file");
        let ended = setup.run();
        assert!(!ended.status.success());
        assert!(ended.log.contains("option forkptyrouter-record = "), "{}", ended.log);
        assert!(ended.log.contains("/r: Not a directory"), "{}", ended.log);
        let setup = both(Setup::new(flavor)).option("forkptyrouter-record", "{dir}/a/b/c");
        assert!(setup.run().log.contains("/a/b/c: No such file or directory"));
    });
}

/// Without a recorder sessions go on, and missing bytes are counted.
#[test]
fn a_stopped_recorder_stops_no_session() {
    in_process(|flavor| {
        let server = recorded(flavor)
            .script("stty raw -echo; printf ready; read x; seq 1 2000000; exit 6")
            .start();
        let mut client = server.connect("s");
        client.read_until("ready");
        let stopped = running(&server, "fpty-recorder");
        process::signal(stopped, Signal::SIGSTOP);
        client.send("\n");
        client.read_while("all of it", |seen| seen.ends_with(b"2000000\n"));
        // Somebody else is served meanwhile, too.
        let mut other = server.connect("s");
        other.read_until("ready");
        process::signal(stopped, Signal::SIGCONT);
        let output = client.read_to_end();
        assert_same(&output, &[b"ready".as_slice(), &sequence(2_000_000)].concat());
        let record = record(&server, 1);
        let cast = Cast::read(record["path"].as_str().expect("a path"));
        cast.check(&record);
        let dropped = record["dropped"].as_u64().expect("a number");
        assert!(dropped > 1_000_000);
        assert_eq!(cast.all("o").len() as u64 + dropped, output.len() as u64);
        assert_eq!(cast.all("m"), format!("{dropped} bytes are missing"));
        assert_eq!(cast.all("x"), "6");
    });
}
