//! The list of open sessions in the statistics.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::connection::extended_mode::open;
use crate::harness::client::both;
use crate::harness::{Flavor, Server, Setup, in_process, process, wait_until};

#[track_caller]
fn sessions(server: &Server) -> Vec<Value> {
    let text = server.connect("stats").text_to_end();
    let json: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    json["sessions"].as_array().expect("a list").clone()
}

fn listed(flavor: &Flavor) -> Setup {
    both(Setup::new(flavor).option("forkptyrouter-stats", "{dir}/stats"))
}

#[test]
fn a_session_is_listed_while_it_is_open() {
    in_process(|flavor| {
        let server = listed(flavor)
            .script("stty raw -echo; printf ready; head -c 5 >/dev/null; printf ok; read x")
            .option("forkptyrouter-handover", "false")
            .start();
        assert_eq!(sessions(&server), [] as [Value; 0]);
        let mut client = server.connect("u");
        open(&client, &[("TERM", "foot")]);
        client.read_until("ready");
        let list = sessions(&server);
        let [session] = &list[..] else { panic!("{list:?}") };
        assert_eq!(session["peer"]["pid"], std::process::id());
        assert_eq!(
            (&session["socket"], &session["mode"]),
            (&json!(server.path("u")), &json!("extended"))
        );
        assert_eq!(session["command"], server.path("script"));
        assert_eq!((&session["rows"], &session["cols"]), (&json!(33), &json!(99)));
        assert_eq!((&session["term"], &session["handed_over"]), (&json!("foot"), &json!(false)));
        assert_eq!(session["recorded"], false);
        assert_eq!((&session["bytes_in"], &session["bytes_out"]), (&json!(0), &json!(5)));
        let pid = session["pid"].as_i64().unwrap() as i32;
        assert!(server.programs().iter().any(|program| program.pid == pid), "{session}");
        let tty = std::fs::read_link(format!("/proc/{pid}/fd/0")).unwrap();
        assert_eq!(session["tty"].as_str(), tty.to_str());
        assert!(session["started"].as_str().unwrap().starts_with("20"), "{session}");
        // Its size as it is now; a byte ends its idle time.
        client.resize(44, 111);
        wait_until("it has been idle for a moment", || {
            let session = &sessions(&server)[0];
            session["rows"] == 44 && session["idle"].as_f64().unwrap() > 0.3
        });
        client.input("12345");
        client.read_until("ok");
        let again = &sessions(&server)[0];
        assert!(again["idle"].as_f64().unwrap() < 0.3, "{again}");
        assert_eq!((&again["bytes_in"], &again["id"]), (&json!(5), &session["id"]));
        // A raw client beside it.
        let mut raw = server.connect("s");
        raw.read_until("ready");
        let list = sessions(&server);
        assert_eq!(list.len(), 2);
        let raw = list.iter().find(|session| session["mode"] == "raw").expect("one is");
        assert_eq!((&raw["term"], &raw["socket"]), (&Value::Null, &json!(server.path("s"))));
        drop((client, raw));
        wait_until("none is listed", || sessions(&server).len() <= 1);
    });
}

/// Whichever gateway answers lists the sessions of all; one that hangs is left out.
#[test]
fn sessions_of_several_gateways_are_one_list() {
    in_process(|flavor| {
        let server = listed(flavor).option("forkptyrouter-processes", "3").start();
        let mut clients: Vec<_> = (0..200).map(|_| server.connect("s")).collect();
        for client in &mut clients {
            client.shell("true");
        }
        let list = sessions(&server);
        let mut ids: Vec<_> = list.iter().map(|one| one["id"].to_string()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 200);
        let gateways = process::children(server.master());
        let of = |gateway: i32| {
            let programs: Vec<_> = process::children(gateway).iter().map(|one| one.pid).collect();
            list.iter()
                .filter(|one| programs.contains(&(one["pid"].as_i64().unwrap() as i32)))
                .count()
        };
        let shares: Vec<_> = gateways.iter().map(|gateway| of(gateway.pid)).collect();
        assert_eq!(shares.iter().sum::<usize>(), 200);
        // The first one answers, and another one hangs.
        let first = server.gateway();
        let other = gateways.iter().map(|one| one.pid).find(|pid| *pid != first).unwrap();
        let left = 200 - of(other);
        process::signal(other, Signal::SIGSTOP);
        let text = server.connect("stats").text_to_end();
        process::signal(other, Signal::SIGCONT);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["unheard"], 1);
        assert_eq!(json["sessions"].as_array().unwrap().len(), left);
        assert_eq!(json["active_sessions"], 200);
        // One that was killed is heard again when it is back.
        process::signal(other, Signal::SIGKILL);
        wait_until("its sessions are over", || sessions(&server).len() == left);
        wait_until("all answer again", || {
            let text = server.connect("stats").text_to_end();
            let json: Value = serde_json::from_str(&text).unwrap();
            json["unheard"].is_null()
        });
    });
}

/// A thousand, while readers stop, come and go: each list is whole, and nobody
/// waits for it.
#[test]
fn a_list_of_a_thousand_sessions_delays_nobody() {
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option("forkptyrouter-stats", "{dir}/stats")
            .option("forkptyrouter-command", "/bin/cat")
            .killed_at_end()
            .raw();
        const SESSIONS: usize = 1000;
        let clients: Vec<_> = (0..SESSIONS).map(|_| server.connect("s")).collect();
        wait_until("all are there", || sessions(&server).len() == SESSIONS);
        let stuck: Vec<_> = (0..20).map(|_| server.connect("stats")).collect();
        let mut other = server.connect("s");
        other.send("here\n");
        other.read_until("here");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..10 {
                    let list = sessions(&server);
                    let mut ids: Vec<_> = list.iter().map(|one| one["id"].to_string()).collect();
                    ids.sort();
                    ids.dedup();
                    assert_eq!(ids.len(), SESSIONS + 1);
                }
            });
            for number in 0..50 {
                let began = Instant::now();
                other.send(format!("<{number}>\n"));
                other.read_until(&format!("<{number}>"));
                let took = began.elapsed();
                assert!(took < Duration::from_millis(500), "{took:?}");
            }
        });
        drop((stuck, clients));
    });
}
