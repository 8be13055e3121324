//! Recordings: what is in them, whose they are, and what becomes of sessions
//! that cannot be recorded.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::extended::{open, to_the_end};
use crate::harness::client::both;
use crate::harness::process::{self, Process};
use crate::harness::{
    Flavor, Server, Setup, assert_same, noise, on_every_server, on_one_server, sequence, wait_until,
};

/// The audit's lines of ends that tell of a recording.
pub fn ends(server: &Server) -> Vec<Value> {
    let log = server.log();
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let lines = whole.lines().filter_map(|line| line.strip_prefix("forkptyrouter-audit: "));
    let parsed = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    parsed.filter(|line| line["event"] == "session-end").collect()
}

/// Waits for so many ends, and returns what the last one says of a recording.
#[track_caller]
pub fn record(server: &Server, count: usize) -> Value {
    wait_until("the audit tells the end", || ends(server).len() >= count);
    ends(server)[count - 1]["record"].clone()
}

/// A server that records in `r`.
pub fn recorded(flavor: &Flavor) -> Setup {
    both(Setup::new(flavor))
        .option("forkptyrouter-record", "{dir}/r")
        .option("forkptyrouter-audit", "json")
}

/// As [`recorded`], with sessions of nobody's where we may.
pub fn dropping(flavor: &Flavor) -> Option<Setup> {
    if !nix::unistd::getuid().is_root() {
        eprintln!("skipped: only root can drop privileges");
        return None;
    }
    let setup = recorded(flavor).option("uid", "nobody").option("gid", "nogroup");
    // Where the sockets are to be made.
    fs::set_permissions(setup.path(""), fs::Permissions::from_mode(0o777)).expect("mode");
    Some(setup)
}

/// A file as it is read back.
pub struct Cast {
    pub header: Value,
    pub events: Vec<(f64, String, String)>,
    pub last: String,
}

impl Cast {
    #[track_caller]
    pub fn read(path: impl AsRef<Path>) -> Self {
        let text = fs::read_to_string(path).expect("a recording");
        let mut lines: Vec<&str> = text.lines().collect();
        let last = lines.pop().expect("a last line").to_owned();
        let mut lines = lines.into_iter();
        let json = |line: &str| serde_json::from_str::<Value>(line).expect(line);
        let header = json(lines.next().expect("a header"));
        let mut at = 0.0;
        let events = lines
            .map(|line| {
                let (time, kind, text): (f64, String, String) =
                    serde_json::from_value(json(line)).expect(line);
                at = if header["version"] == 3 { at + time } else { time };
                (at, kind, text)
            })
            .collect();
        Self { header, events, last }
    }

    pub fn all(&self, kind: &str) -> String {
        self.events.iter().filter(|(_, is, _)| is == kind).map(|(.., text)| text.as_str()).collect()
    }

    pub fn total(&self, name: &str) -> &str {
        let (_, rest) = self.last.split_once(&format!("{name}=")).expect(name);
        rest.split([' ', '"']).next().expect("a value")
    }

    /// The hash is that of all before the last line, and the audit's.
    #[track_caller]
    pub fn check(&self, record: &Value) {
        let path = record["path"].as_str().expect("a path");
        let text = fs::read(path).expect("a recording");
        assert_eq!(record["bytes"], text.len());
        let head = format!("head -n -1 '{path}' | sha256sum");
        let sum = Command::new("sh").args(["-c", &head]).output().expect("sha256sum").stdout;
        let sum = String::from_utf8(sum).expect("text");
        assert_eq!(record["sha256"], self.total("sha256"));
        assert_eq!(sum.split(' ').next(), record["sha256"].as_str());
        assert_eq!(record["dropped"].to_string(), self.total("dropped"));
        assert_eq!(self.total("bytes"), (text.len() - self.last.len() - 1).to_string());
    }
}

pub fn files(server: &Server) -> Vec<PathBuf> {
    let entries = fs::read_dir(server.path("r")).expect("the folder");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// What is shown is written a moment later.
pub fn wait_until_written(server: &Server, what: &str) {
    let has_it = |file: &PathBuf| fs::read_to_string(file).is_ok_and(|text| text.contains(what));
    wait_until(&format!("{what} is in a file"), || files(server).iter().any(has_it));
}

/// A process of the recorder's, by its name.
pub fn find(server: &Server, name: &str) -> Option<Process> {
    server.processes().into_iter().find(|one| one.name == name && !one.is_zombie())
}

pub fn recorder(server: &Server) -> Option<Process> {
    find(server, "fpty-recorder")
}

/// Its number, as soon as it runs.
#[track_caller]
pub fn running(server: &Server, name: &str) -> i32 {
    wait_until(&format!("{name} runs"), || find(server, name).is_some());
    find(server, name).expect("it runs").pid
}

#[test]
fn a_recording_is_what_was_on_the_wire() {
    on_every_server(|flavor| {
        for format in ["v2", "v3"] {
            let server = recorded(flavor)
                .script("stty raw -echo; printf ready; cat \"$0.noise\"; seq 1 200000; read x; stty size; exit 7")
                .option("forkptyrouter-record-format", format)
                .start();
            // No UTF-8, split wherever reads end.
            fs::write(server.path("script.noise"), noise(7, 300_000)).expect("a file");
            let mut client = server.connect("u");
            open(&client, &[("TERM", "foot"), ("fpty.can_take", "1")]);
            client.read_while("all of it", |seen| seen.ends_with(b"200000\n"));
            client.resize(41, 131);
            client.input("\n");
            let said = to_the_end(&mut client);
            assert_eq!(said.ended, [(0, 7, String::new())]);
            let record = record(&server, 1);
            let cast = Cast::read(record["path"].as_str().expect("a path"));
            cast.check(&record);
            let wanted = String::from_utf8_lossy(&said.output).into_owned();
            assert_same(cast.all("o").as_bytes(), wanted.as_bytes());
            assert_eq!(cast.total("dropped"), "0");
            let chunks = said.output.utf8_chunks();
            let invalid: usize = chunks.map(|chunk| chunk.invalid().len()).sum();
            assert_eq!(cast.total("invalid"), invalid.to_string());
            assert!(invalid > 1000);
            assert_eq!((cast.all("r"), cast.all("x")), ("131x41".into(), "7".into()));
            assert_eq!(cast.all("i"), "");
            assert!(cast.events.windows(2).all(|pair| pair[0].0 <= pair[1].0));
            let (size, term) = match format {
                "v2" => (json!([99, 33]), &cast.header["env"]["TERM"]),
                _ => (json!([99, 33]), &cast.header["term"]["type"]),
            };
            let header = &cast.header;
            let (cols, rows) = match format {
                "v2" => (&header["width"], &header["height"]),
                _ => (&header["term"]["cols"], &header["term"]["rows"]),
            };
            assert_eq!((json!([cols, rows]), term), (size, &json!("foot")));
            assert!(header["command"].as_str().expect("a command").ends_with("/script"));
            if format == "v2" {
                played(&record, &said.output);
            }
        }
    });
}

/// asciinema shows what was on the wire.
#[track_caller]
fn played(record: &Value, output: &[u8]) {
    let path = record["path"].as_str().expect("a path");
    if !fs::exists("/usr/bin/asciinema").unwrap_or(false) {
        eprintln!("skipped: there is no asciinema");
        return;
    }
    // It wants a terminal, and is given one that does not change what it shows.
    let cat = format!("asciinema cat '{path}' >'{path}.shown'");
    let shown = Command::new("script")
        .args(["-q", "-e", "-c", &cat, "/dev/null"])
        .env("LC_ALL", "C.UTF-8")
        .output()
        .expect("script");
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stdout));
    let shown = fs::read(format!("{path}.shown")).expect("what it showed");
    assert_same(&shown, String::from_utf8_lossy(output).as_bytes());
}

#[test]
fn input_is_recorded_where_that_is_asked_for() {
    on_one_server(|flavor| {
        let script = "stty -echo; printf ready; read secret; printf thanks; exit 0";
        for input in ["true", "false"] {
            let server = recorded(flavor)
                .script(script)
                .option("forkptyrouter-record-input", input)
                .option("forkpty-router", "127.0.0.1:0")
                .start();
            let mut client = server.connect("s");
            client.read_until("ready");
            client.send("se\u{e9}cret\n");
            client.read_to_end();
            let cast = Cast::read(record(&server, 1)["path"].as_str().expect("a path"));
            assert_eq!(cast.all("o"), "readythanks");
            assert_eq!(cast.all("i"), if input == "true" { "se\u{e9}cret\n" } else { "" });
        }
    });
}

#[test]
fn who_is_recorded_does_not_own_the_file() {
    on_one_server(|flavor| {
        let Some(setup) = dropping(flavor) else { return };
        let server = setup
            .script(
                "id -un; cd \"${0%/script}\"; ls r; cat r/* r/x; echo x >>r/x; kill -9 $(pgrep -x fpty-recorder)
                 ls -l /proc/$PPID/fd; mv r s; rm -rf r; echo done",
            )
            .start();
        assert!(!server.log().contains("not protected"), "{}", server.log());
        let output = server.connect("s").text_to_end();
        assert!(output.starts_with("nobody\r\n") && output.ends_with("done\r\n"), "{output}");
        let record = record(&server, 1);
        let path = record["path"].as_str().expect("a path");
        // It was moved only where the folder that it is in is everybody's, as
        // here, and not written to.
        let path = match fs::exists(path) {
            Ok(true) => path.to_owned(),
            _ => path.replace("/r/", "/s/"),
        };
        let file = fs::metadata(&path).expect("the file");
        assert_eq!((file.uid(), file.mode() & 0o7777), (0, 0o600));
        let folder = fs::metadata(Path::new(&path).parent().expect("a folder")).expect("it");
        assert_eq!((folder.uid(), folder.mode() & 0o7777), (0, 0o700));
        assert_eq!(Cast::read(&path).all("o"), output);
        assert!(recorder(&server).is_some(), "the recorder lives");
        let name = path.rsplit('/').next().expect("a name");
        let [time, user, id] = name.split('-').collect::<Vec<_>>()[..] else { panic!("{name}") };
        assert!(time.len() == 16 && time.ends_with('Z') && &time[8..9] == "T", "{name}");
        assert_eq!(user, "root");
        assert_eq!(id, format!("{}.cast", ends(&server)[0]["id"].as_str().expect("an id")));
    });
}

#[test]
fn without_privileges_the_log_says_that_recordings_are_not_protected() {
    on_one_server(|flavor| {
        let server = recorded(flavor).script("exit 3").start();
        server.wait_for_log("recordings are not protected");
        server.connect("s").read_to_end();
        assert_eq!(Cast::read(record(&server, 1)["path"].as_str().expect("a path")).all("x"), "3");
        assert_eq!(server.count_in_log("not protected"), 1);
    });
}

#[test]
fn a_reload_keeps_the_recorder() {
    on_every_server(|flavor| {
        let Some(setup) = dropping(flavor) else { return };
        let server =
            setup.script("stty -echo; printf ready; read x; printf more; sleep 1000").start();
        let before = running(&server, "fpty-recorder");
        let mut client = server.connect("s");
        client.read_until("ready");
        client.send("\n");
        client.read_until("more");
        process::signal(server.master(), Signal::SIGTERM);
        wait_until("it has reloaded", || server.count_in_log("sessions at once") == 2);
        assert_eq!(recorder(&server).map(|one| one.pid), Some(before));
        // The last word of a gateway that was killed is there.
        wait_until("the file has its last line", || {
            files(&server)
                .iter()
                .any(|path| fs::read_to_string(path).expect("it").contains("sha256="))
        });
        assert_eq!(Cast::read(&files(&server)[0]).all("o"), "readymore");
        wait_until("the audit tells the end", || ends(&server).len() == 1);
        let lost = &ends(&server)[0]["record"];
        assert_eq!(lost["path"].as_str(), files(&server)[0].to_str());
        Cast::read(&files(&server)[0]).check(lost);
        let mut client = server.connect("s");
        client.read_until("ready");
        drop(client);
        let ends =
            || ends(&server).iter().filter(|end| end["record"]["sha256"].is_string()).count();
        wait_until("the new gateway records, too", || ends() == 2);
        assert_eq!(files(&server).len(), 2);
        assert!(files(&server).iter().all(|path| fs::metadata(path).expect("it").uid() == 0));
        assert_eq!(server.count_in_log("not protected"), 0);
    });
}

/// Sockets with rules of their own, one of whose sessions are somebody else's.
#[test]
fn each_socket_is_recorded_as_its_rules_say() {
    on_one_server(|flavor| {
        let root = nix::unistd::getuid().is_root();
        let uid = if root { ",uid=54321,gid=54321" } else { "" };
        let other = "addr={dir}/other,record={dir}/o,record_format=v2,record_input=yes";
        let server = Setup::new(flavor)
            .script("stty -echo; printf ready; read x; id -u")
            .option("forkptyrouter-audit", "json")
            .option("forkpty-router2", &format!("{other}{uid}"))
            .option("forkpty-router2", "addr={dir}/none,record=off")
            .start();
        for (count, socket) in [(1, "other"), (2, "none")] {
            let mut client = server.connect(socket);
            client.read_until("ready");
            client.send("x\n");
            client.read_to_end();
            let record = record(&server, count);
            if socket == "none" {
                assert_eq!(record, Value::Null);
                continue;
            }
            let path = record["path"].as_str().expect("a path");
            assert!(path.contains("/o/"), "{path}");
            let cast = Cast::read(path);
            cast.check(&record);
            assert_eq!((&cast.header["version"], cast.all("i").as_str()), (&json!(2), "x\n"));
        }
        server.wait_for_log("sessions at once");
        assert_eq!(server.count_in_log("not protected"), usize::from(!root));
    });
}

/// The folder is changed in the configuration, and the server reloaded.
#[test]
fn another_folder_takes_privileges_and_else_a_line_in_the_log() {
    on_every_server(|flavor| {
        for drops in [false, true] {
            let mut setup = both(Setup::new(flavor))
                .script("exit 3")
                .option("forkptyrouter-audit", "json")
                .ini("forkptyrouter-record = {dir}/r\n");
            if drops {
                if !nix::unistd::getuid().is_root() {
                    return;
                }
                setup = setup.option("uid", "nobody").option("gid", "nogroup");
                let everybody = fs::Permissions::from_mode(0o777);
                fs::set_permissions(setup.path(""), everybody).expect("mode");
            }
            let server = setup.start();
            server.connect("s").read_to_end();
            record(&server, 1);
            let ini = format!("[uwsgi]\nforkptyrouter-record = {}\n", server.path("other"));
            fs::write(server.path("server.ini"), ini).expect("a file");
            process::signal(server.master(), Signal::SIGTERM);
            wait_until("it has reloaded", || server.count_in_log("sessions at once") == 2);
            server.connect("s").read_to_end();
            let record = record(&server, 2);
            assert!(record["sha256"].is_string(), "{record}");
            let path = record["path"].as_str().expect("a path");
            assert!(fs::exists(path).expect("a folder"), "{path}");
            assert_eq!(path.contains("/other/"), !drops, "{path}");
            assert_eq!(server.count_in_log("recordings still go to"), usize::from(drops));
            wait_until("the other recorder has ended", || {
                server.processes().iter().filter(|one| one.name == "fpty-recorder").count() == 1
            });
        }
    });
}

#[test]
fn a_recorder_that_was_killed_is_replaced() {
    on_one_server(|flavor| {
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
fn without_any_recorder_sessions_go_on_or_do_not_begin() {
    on_one_server(|flavor| {
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
                wait_until("it is gone", || find(&server, name).is_none());
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
    on_one_server(|flavor| {
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
fn what_is_laid_in_the_way_is_not_touched() {
    on_one_server(|flavor| {
        let Some(setup) = dropping(flavor) else { return };
        let server = setup.script("printf hello").start();
        // The folder's name means something else from here on.
        fs::rename(server.path("r"), server.path("moved")).expect("moved");
        fs::create_dir(server.path("victim")).expect("a folder");
        std::os::unix::fs::symlink(server.path("victim"), server.path("r")).expect("a link");
        server.connect("s").read_to_end();
        assert!(record(&server, 1)["sha256"].is_string());
        assert_eq!(fs::read_dir(server.path("victim")).expect("it").count(), 0);
        assert_eq!(fs::read_dir(server.path("moved")).expect("it").count(), 1);
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

/// Nobody writes the files: sessions go on, and what is missing is counted.
#[test]
fn a_recorder_that_stands_still_stops_no_session() {
    on_one_server(|flavor| {
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

#[test]
fn a_recorded_terminal_is_not_handed_over_and_the_statistics_know() {
    on_one_server(|flavor| {
        let server = recorded(flavor)
            .script("printf ready; read x")
            .option("forkptyrouter-stats", "{dir}/stats")
            .start();
        let mut client = server.connect("u");
        open(&client, &[("fpty.can_take", "1")]);
        client.read_until("ready");
        let stats: Value =
            serde_json::from_slice(&server.connect("stats").read_to_end()).expect("JSON");
        assert_eq!(stats["sessions"][0]["recorded"], true);
        client.input("\n");
        // No offer among what was said.
        to_the_end(&mut client);
    });
}

/// More than there is room for on its way: nothing is missing.
#[test]
fn a_flood_is_recorded_whole() {
    on_one_server(|flavor| {
        let server = recorded(flavor).script("stty raw -echo; seq 1 2000000").start();
        let output = server.connect("s").read_to_end();
        assert_same(&output, &sequence(2_000_000));
        let record = record(&server, 1);
        assert_eq!(record["dropped"], 0, "{record}");
        let cast = Cast::read(record["path"].as_str().expect("a path"));
        cast.check(&record);
        assert_same(cast.all("o").as_bytes(), &output);
    });
}

#[test]
fn each_of_many_short_sessions_has_a_recording() {
    on_one_server(|flavor| {
        let server = recorded(flavor)
            .script("echo $$; exit 3")
            .option("forkptyrouter-processes", "3")
            .start();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        server.connect("s").read_to_end();
                    }
                });
            }
        });
        wait_until("the audit tells all ends", || ends(&server).len() == 400);
        assert_eq!(files(&server).len(), 400);
        for end in ends(&server) {
            let record = &end["record"];
            let cast = Cast::read(record["path"].as_str().expect("a path"));
            assert_eq!(cast.all("o"), format!("{}\r\n", end["pid"]));
            assert_eq!((cast.all("x").as_str(), cast.total("dropped")), ("3", "0"));
            assert_eq!(record["sha256"], cast.total("sha256"));
        }
        // Where its program cannot be executed there is none.
        fs::remove_file(server.path("script")).expect("removed");
        assert!(server.connect("s").text_to_end().contains("refused"));
        assert_eq!(files(&server).len(), 400);
    });
}

#[test]
fn the_recorder_ends_with_the_server() {
    on_every_server(|flavor| {
        let mut server = recorded(flavor).script("printf ready; sleep 1000").start();
        let mut client = server.connect("s");
        client.read_until("ready");
        server.stop();
        wait_until("nothing is left", || {
            server.processes().iter().all(|one| !one.name.starts_with("fpty-rec"))
        });
        assert!(Cast::read(&files(&server)[0]).last.contains("sha256="));
    });
}
