//! Content of a recording, its owner, and its place.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::connection::extended_mode::{open, to_the_end};
use crate::harness::client::both;
use crate::harness::process;
use crate::harness::recording::{Cast, dropping, ends, files, record, recorded, recorder, running};
use crate::harness::{
    Setup, assert_same, in_process, noise, on_every_server, on_one_server, sequence, wait_until,
};

#[test]
fn a_recording_has_the_bytes_of_the_connection() {
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
fn input_is_recorded_where_asked_for() {
    in_process(|flavor| {
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
fn the_recorded_user_does_not_own_the_file() {
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
    in_process(|flavor| {
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
    in_process(|flavor| {
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
fn a_reload_to_another_folder_needs_privileges_or_says_so() {
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
fn links_and_files_in_the_way_are_not_touched() {
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
fn a_recorded_terminal_is_not_handed_over() {
    in_process(|flavor| {
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
    in_process(|flavor| {
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
    in_process(|flavor| {
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
