//! Output that a killed recorder had not written: nothing of it is lost without a word.

use std::fs;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::connection::extended_mode::{open, to_the_end};
use crate::harness::attach_client::AttachClient;
use crate::harness::client::{Mode, fpty};
use crate::harness::recording::{Cast, ends, files, record, recorded, recorder, running};
use crate::harness::{
    DEADLINE, Server, assert_same, in_process, on_one_server, process, sequence, side_by_side,
    wait_until,
};

/// Recordings of clients that can detach: see `detached.rs`.
#[test]
fn a_session_that_could_be_handed_over_is_recorded_to_its_end() {
    in_process(|flavor| {
        for handover in ["true", "false"] {
            let server = recorded(flavor)
                // Long after its terminal would have been offered.
                .script("stty raw -echo; printf ready; sleep 0.3; seq 1 1000; exit 3")
                .option("forkptyrouter-detach", "5")
                .option("forkptyrouter-handover", handover)
                .start();
            for variables in [&[("fpty.take", "1")][..], &[]] {
                let count = ends(&server).len();
                let mut client = server.connect("u");
                open(&client, variables);
                // No offer among what was said.
                let said = to_the_end(&mut client);
                assert_eq!(said.ended, [(0, 3, String::new())]);
                assert!(said.notices.is_empty(), "{:?}", said.notices);
                let record = record(&server, count + 1);
                let cast = Cast::read(record["path"].as_str().expect("a path"));
                cast.check(&record);
                assert_eq!(cast.all("o").as_bytes(), said.output);
                assert_eq!((cast.total("dropped"), cast.all("x").as_str()), ("0", "3"));
            }
        }
    });
}

#[test]
fn a_command_without_a_terminal_is_refused_where_everything_is_recorded() {
    in_process(|flavor| {
        let other = "addr={dir}/skips,record=yes,record_commands=skip";
        let all = "addr={dir}/refuses,record=yes,record_on_error=continue,record_commands=refuse";
        let server = recorded(flavor)
            .script("echo configured")
            .option("forkptyrouter-allow-command", "true")
            .option("forkptyrouter-record-on-error", "close")
            .option("forkpty-urouter2", other)
            .option("forkpty-urouter2", all)
            .start();
        for (socket, runs) in [("u", false), ("skips", true), ("refuses", false)] {
            let mut fpty = fpty(Mode::Uwsgi, &server.path(socket));
            let done = fpty.args(["-T", "echo ran; exit 5"]).output().expect("fpty");
            let error = String::from_utf8_lossy(&done.stderr);
            let wanted: (Option<i32>, &[u8]) =
                if runs { (Some(5), b"ran\n") } else { (Some(255), b"") };
            assert_eq!((done.status.code(), &done.stdout[..]), wanted, "{socket}: {error}");
            assert_eq!(error.contains("forkptyrouter-record-commands"), !runs, "{error}");
        }
        // A client that was slow to say what it wants is refused once more, for that alone.
        let late = server.count_in_log("\"why\":\"the request came too late: ");
        assert_eq!(server.count_in_log("\"event\":\"refused\"") - late, 2);
    });
}

/// Recordings are turned on while sessions go on that are in none.
#[test]
fn sessions_from_before_recording_was_on_end_or_are_named() {
    on_one_server(|flavor| {
        for on_error in ["close", "continue"] {
            let server = crate::harness::client::both(crate::harness::Setup::new(flavor))
                .option("forkptyrouter-detach", "5")
                .option("forkptyrouter-record-on-error", on_error)
                .ini("\n")
                .start();
            let mut attached = AttachClient::begins(&server, &[]).takes();
            attached.terminal().send("\n");
            attached.terminal().read_until("$ ");
            let left = AttachClient::begins(&server, &[("fpty.name", "left")]).takes();
            left.leaves();
            let ini = format!("[uwsgi]\nforkptyrouter-record = {}\n", server.path("r"));
            fs::write(server.path("server.ini"), ini).expect("a file");
            process::signal(server.master(), Signal::SIGHUP);
            wait_until("it has reloaded", || server.count_in_log("sessions at once") == 2);
            if on_error == "continue" {
                assert_eq!(server.count_in_log("is not recorded: it began before recordings"), 2);
                continue;
            }
            assert_eq!(server.count_in_log("ends: it began before recordings did"), 2);
            let (_, _, why) = attached.ended();
            assert!(why.contains("it cannot be recorded: it began before"), "{why}");
            wait_until("their programs end", || server.programs().is_empty());
        }
    });
}

/// Output in a session's files, in their order, whether they were finished or not.
fn all_output(server: &Server) -> String {
    let mut output = String::new();
    let mut files = files(server);
    files.sort_by_key(|path| path.with_extension(""));
    for path in files {
        let text = fs::read_to_string(path).expect("a recording");
        assert!(text.is_empty() || text.ends_with('\n'), "whole lines");
        for line in text.lines().skip(1).filter(|line| !line.starts_with('#')) {
            let (_, kind, text): (f64, String, String) = serde_json::from_str(line).expect(line);
            if kind == "o" {
                output += &text;
            }
        }
    }
    output
}

fn kill_recorder(server: &Server, number: i32) {
    process::signal(number, Signal::SIGKILL);
    wait_until("there is another one", || recorder(server).is_some_and(|now| now.pid != number));
}

#[test]
fn the_next_recorder_writes_what_a_killed_one_had_not() {
    in_process(|flavor| {
        side_by_side(["continue", "close"], |on_error| {
            let server = recorded(flavor)
                .script("stty raw -echo; printf ready; read x; seq 1 40000; printf done; read y; exit 4")
                .option("forkptyrouter-record-on-error", on_error)
                .start();
            let mut client = server.connect("u");
            open(&client, &[]);
            client.read_until("ready");
            wait_until("that is written", || all_output(&server) == "ready");
            let stopped = running(&server, "fpty-recorder");
            process::signal(stopped, Signal::SIGSTOP);
            client.input("\n");
            client.read_until("done");
            kill_recorder(&server, stopped);
            server.wait_for_log("the recorder was killed");
            let status = if on_error == "close" { None } else { Some(4) };
            if status.is_some() {
                client.input("\n");
            }
            let said = to_the_end(&mut client);
            assert_eq!(said.ended[0].1 == 4, status == Some(4), "{:?}", said.ended);
            let record = record(&server, 1);
            let path = record["path"].as_str().expect("a path");
            assert!(path.ends_with("-part2.cast"), "{path}");
            let cast = Cast::read(path);
            cast.check(&record);
            assert_eq!(record["dropped"], 0, "{record}");
            let wanted = [b"ready".as_slice(), &sequence(40_000), b"done"].concat();
            assert_same(all_output(&server).as_bytes(), &wanted);
            assert_eq!(files(&server).len(), 2);
            // It begins when its first bytes came, not when the session did.
            assert!(cast.events[0].0 < 0.1, "{:?}", cast.events[0]);
        });
    });
}

/// Killed in the midst of writing: nothing is missing that is not counted, and
/// nothing is there twice.
#[test]
fn output_half_written_by_a_killed_recorder_is_there_once() {
    in_process(|flavor| {
        let server = recorded(flavor)
            .script("stty raw -echo; printf ready; read x; seq 1 1000000; exit 6")
            .start();
        let mut client = server.connect("s");
        client.read_until("ready");
        let running = running(&server, "fpty-recorder");
        client.send("\n");
        let size = || {
            files(&server)
                .iter()
                .map(|path| fs::metadata(path).map_or(0, |file| file.len()))
                .sum::<u64>()
        };
        let mut number = running;
        for _ in 0..3 {
            // There is much for it to write at once; and as soon as that can be
            // seen in the file, it is not done with it.
            process::signal(number, Signal::SIGSTOP);
            let most = client.seen().len() + 1_000_000;
            client.read_while("a megabyte", |seen| seen.len() > most);
            let before = size();
            process::signal(number, Signal::SIGCONT);
            let begin = Instant::now();
            while size() == before && begin.elapsed() < DEADLINE {
                std::thread::yield_now();
            }
            kill_recorder(&server, number);
            number = recorder(&server).expect("another one").pid;
        }
        let output = client.read_to_end();
        assert_same(&output, &[b"ready".as_slice(), &sequence(1_000_000)].concat());
        let record = record(&server, 1);
        let dropped = record["dropped"].as_u64().expect("a number");
        let there = all_output(&server);
        assert_eq!(there.len() as u64 + dropped, output.len() as u64, "{record}");
        if dropped == 0 {
            assert_same(there.as_bytes(), &output);
        }
        assert!(files(&server).len() > 1);
    });
}

/// An end whose last words no recorder took; and one that nobody writes.
#[test]
fn ends_that_wait_for_a_killed_recorder_are_told() {
    in_process(|flavor| {
        let server = recorded(flavor)
            .script("stty raw -echo; printf ready; read x; seq 1 2000; exit 7")
            .start();
        for keeper_lives in [true, false] {
            let mut client = server.connect("s");
            client.read_until("ready");
            let count = ends(&server).len();
            wait_until("that is written", || all_output(&server).ends_with("ready"));
            let stopped = running(&server, "fpty-recorder");
            process::signal(stopped, Signal::SIGSTOP);
            client.send("\n");
            client.read_to_end();
            if keeper_lives {
                kill_recorder(&server, stopped);
                let record = record(&server, count + 1);
                let cast = Cast::read(record["path"].as_str().expect("a path"));
                cast.check(&record);
                assert_eq!(cast.all("o").as_bytes(), sequence(2000));
                assert_eq!((cast.all("x").as_str(), cast.total("dropped")), ("7", "0"));
                continue;
            }
            let keeper = running(&server, "fpty-rec-keeper");
            process::signal(keeper, Signal::SIGKILL);
            wait_until("it is gone", || server.process_named("fpty-rec-keeper").is_none());
            process::signal(stopped, Signal::SIGKILL);
            let record = record(&server, count + 1);
            assert_eq!(record["sha256"], serde_json::Value::Null, "{record}");
            assert_eq!(record["dropped"], sequence(2000).len(), "{record}");
        }
    });
}

/// A user who may write where the folder is to be cannot lead root elsewhere.
#[test]
fn a_symbolic_link_of_another_user_ends_the_start() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    in_process(|flavor| {
        for mode in [0o755, 0o777] {
            let setup = crate::harness::client::both(crate::harness::Setup::new(flavor))
                .option("forkptyrouter-record", "{dir}/place/link/r")
                .option("forkptyrouter-audit", "json")
                .script("exit 3");
            for name in ["place", "elsewhere"] {
                fs::create_dir(setup.path(name)).expect("a folder");
            }
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(setup.path("place"), permissions).expect("mode");
            symlink("../elsewhere", setup.path("place/link")).expect("a link");
            if mode == 0o777 {
                let elsewhere = setup.path("elsewhere");
                let ended = setup.run();
                assert!(!ended.status.success());
                assert!(
                    ended.log.contains("/place/link/r: link on the way is a link"),
                    "{}",
                    ended.log
                );
                assert!(ended.log.contains("option forkptyrouter-record = "), "{}", ended.log);
                assert!(!fs::exists(format!("{elsewhere}/r")).unwrap_or(true));
                continue;
            }
            let server = setup.start();
            server.connect("s").read_to_end();
            record(&server, 1);
            let made = fs::read_dir(server.path("elsewhere/r")).expect("the folder");
            assert_eq!(made.count(), 1);
            let folder = fs::metadata(server.path("elsewhere/r")).expect("the folder");
            assert_eq!(folder.permissions().mode() & 0o7777, 0o700);
        }
    });
}
