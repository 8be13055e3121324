//! Shares of users: everybody has a share of each limit, and a refused client takes
//! nothing.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::audit::lines::{audited, lines, of};
use crate::connection::extended_mode::{open, to_the_end};
use crate::harness::attach_client::AttachClient;
use crate::harness::users::{can_be_others, connecting_as};
use crate::harness::wire::header;
use crate::harness::{Flavor, Setup, Wire, in_process, side_by_side, wait_until};

const ONE: u32 = 48_001;
const OTHER: u32 = 48_002;

fn ruled(flavor: &Flavor, rules: &str) -> Setup {
    Setup::new(flavor).option("forkpty-urouter2", &format!("addr={{dir}}/u,chmod=666,{rules}"))
}

#[test]
fn refused_clients_do_not_use_up_the_rate() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        let server = ruled(flavor, &format!("allow_user={ONE},rate=1")).start();
        let path = server.path("u");
        for _ in 0..50 {
            connecting_as(OTHER, || Wire::connect(&path)).text_to_end();
        }
        let begin = Instant::now();
        let mut client = connecting_as(ONE, || Wire::connect(&path));
        open(&client, &[]);
        client.input("exit 7\n");
        assert_eq!(to_the_end(&mut client).ended[0].1, 7);
        // Fifty would have been as many seconds.
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    });
}

#[test]
fn a_storm_of_refusals_is_counted_in_the_audit() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        side_by_side(["json", "keyval"], |format| {
            let rules = format!("addr={{dir}}/u,chmod=666,allow_user={ONE},audit={format}");
            let server = Setup::new(flavor).option("forkpty-urouter2", &rules).start();
            let path = server.path("u");
            const STORM: u64 = 3000;
            for _ in 0..STORM {
                connecting_as(OTHER, || Wire::connect(&path)).text_to_end();
            }
            // Somebody else has a line all the same.
            connecting_as(OTHER + 1, || Wire::connect(&path)).text_to_end();
            let all = || {
                let log = server.log();
                let of_keyval = log.lines().filter(|line| line.contains("event=\"refused\""));
                let count = |line: &str| {
                    let count = line.split_once(" count=").map(|(_, count)| count.parse());
                    count.map_or(1, |count| count.expect("a number"))
                };
                let in_keyval: Vec<u64> = of_keyval.map(count).collect();
                let in_json: Vec<u64> = match format {
                    "json" => of(&lines(&log), "refused")
                        .iter()
                        .map(|line| line["count"].as_u64().unwrap_or(1))
                        .collect(),
                    _ => Vec::new(),
                };
                [in_keyval, in_json].concat()
            };
            wait_until("all are told of", || all().iter().sum::<u64>() == STORM + 1);
            assert!((all().len() as u64) < STORM / 4, "{} lines", all().len());
            let uid = format!("{}", OTHER + 1);
            assert_eq!(server.count_in_log("refused\"").min(1), 1);
            assert!(
                server.log().lines().any(|line| line.contains("audit: ") && line.contains(&uid))
            );
        });
    });
}

#[test]
fn one_user_cannot_take_all_detached_sessions() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        let server = ruled(flavor, "detach=4").start();
        let begins = |uid| connecting_as(uid, || AttachClient::begins(&server, &[])).takes();
        begins(ONE).leaves();
        begins(ONE).leaves();
        assert!(begins(ONE).stays().contains("2 sessions of yours"), "{}", server.log());
        begins(OTHER).leaves();
        begins(OTHER).leaves();
        assert!(begins(0).stays().contains("4 sessions are without a client"));
        // A share of its own.
        let server = ruled(flavor, "detach=4,detach_user=3").start();
        let begins = |uid| connecting_as(uid, || AttachClient::begins(&server, &[])).takes();
        (0..3).for_each(|_| drop(begins(ONE).leaves()));
        assert!(begins(ONE).stays().contains("3 sessions of yours"));
        // root may have what there is.
        let server = ruled(flavor, "detach=2").start();
        (0..2).for_each(|_| drop(AttachClient::begins(&server, &[]).takes().leaves()));
    });
}

#[test]
fn ended_sessions_of_one_user_do_not_displace_anothers() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        let script = "trap '' HUP; sleep 1; exit 5";
        let server = ruled(flavor, "detach=300,detach_user=300").script(script).start();
        let ends = |uid| connecting_as(uid, || AttachClient::begins(&server, &[])).takes().leaves();
        let id = ends(OTHER);
        for _ in 0..110 {
            ends(ONE);
        }
        wait_until("all have ended", || server.programs().is_empty());
        let back =
            |id: &str| connecting_as(OTHER, || AttachClient::comes(&server, id, &[])).takes();
        assert_eq!(back(&id).ended().1, 5);
    });
}

#[test]
fn one_user_cannot_take_all_viewers() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        let server = ruled(flavor, "detach=4").start();
        let watches = |uid: u32, id: &str| {
            let variables = [("fpty.readonly", "1")];
            connecting_as(uid, || AttachClient::comes(&server, id, &variables))
        };
        let own = connecting_as(ONE, || AttachClient::begins(&server, &[])).takes().leaves();
        let others = connecting_as(OTHER, || AttachClient::begins(&server, &[])).takes().leaves();
        let all: Vec<AttachClient> = (0..64).map(|_| watches(ONE, &own).takes()).collect();
        assert!(watches(ONE, &own).ended().2.contains("you have too many viewers"));
        watches(OTHER, &others).takes();
        drop(all);
    });
}

#[test]
fn silent_statistics_clients_of_a_user_displace_only_its_own() {
    if !can_be_others() {
        return;
    }
    in_process(|flavor| {
        let server = Setup::new(flavor)
            .option("forkptyrouter-stats", "{dir}/stats")
            .switch("stats-http")
            .argument("--chmod-socket=666")
            .uwsgi();
        let path = server.path("stats");
        let mut slow = connecting_as(ONE, || Wire::connect(&path));
        slow.send("GET / HTTP/1.0\r\nHost: localhost\r\n");
        let silent: Vec<Wire> =
            (0..100).map(|_| connecting_as(OTHER, || Wire::connect(&path))).collect();
        let mut next = connecting_as(OTHER, || Wire::connect(&path));
        next.send("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n");
        assert!(next.text_to_end().contains("200 OK"));
        slow.send("\r\n");
        assert!(slow.text_to_end().contains("200 OK"));
        drop(silent);
    });
}

#[test]
fn silent_connections_keep_no_permit() {
    in_process(|flavor| {
        let server = ruled(flavor, "max=2").start();
        let silent: Vec<Wire> = (0..20)
            .map(|_| {
                let client = server.connect("u");
                client.send(header(1, 102));
                client
            })
            .collect();
        let mut client = server.connect("u");
        open(&client, &[]);
        client.input("exit 7\n");
        let said = to_the_end(&mut client);
        assert_eq!(said.ended[0].1, 7, "{said:?}");
        drop(silent);
    });
}

#[test]
fn refusals_have_a_line_each_where_there_are_few() {
    in_process(|flavor| {
        let server = audited(flavor).option("forkptyrouter-command", "/no/such").uwsgi();
        for _ in 0..20 {
            server.connect("u").text_to_end();
        }
        wait_until("twenty lines", || of(&lines(&server.log()), "refused").len() == 20);
        let all = lines(&server.log());
        assert!(all.iter().all(|line| line["count"] == Value::Null));
    });
}
