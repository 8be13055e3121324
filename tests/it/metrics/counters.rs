//! Numbers for programs that watch: counters, Prometheus' text, uWSGI's own
//! metrics.

use std::collections::HashMap;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::connection::extended_mode::{open, to_the_end};
use crate::harness::client::both;
use crate::harness::{Flavor, Server, Setup, in_process, on_every_server, process, wait_until};

/// The statistics as a browser gets them: a path's kind and body.
#[track_caller]
pub fn get(server: &Server, path: &str) -> (String, String) {
    let mut client = server.connect("stats");
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let answer = client.text_to_end();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.0 200 "), "{head:?}");
    let kind = head.lines().find_map(|line| line.strip_prefix("Content-Type: "));
    (kind.expect("a kind").to_owned(), body.to_owned())
}

#[track_caller]
fn statistics(server: &Server) -> Value {
    let text = server.connect("stats").text_to_end();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// Whether a text may be the name of a metric or of a label (prometheus.io, exposition
/// formats).
fn is_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// Reads the text format, and believes nothing: samples by name and labels.
#[track_caller]
pub fn parse(text: &str) -> HashMap<String, f64> {
    assert!(text.ends_with('\n') && !text.contains('\r'), "{text:?}");
    let mut types: HashMap<&str, &str> = HashMap::new();
    let mut helps: Vec<&str> = Vec::new();
    let mut samples = HashMap::new();
    let mut finished: Vec<&str> = Vec::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(is_name(name) && !help.is_empty() && !helps.contains(&name), "{line}");
            helps.push(name);
            // All lines of a metric stand together.
            assert!(!finished.contains(&name), "{line}");
            finished.push(current);
            current = name;
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(name == current && types.insert(name, kind).is_none(), "{line}");
            continue;
        }
        assert!(!line.starts_with('#'), "{line}");
        let (series, value) = line.rsplit_once(' ').expect(line);
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
            None => (series, ""),
        };
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once('=').expect(line);
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            assert!(is_name(name) && !value.expect(line).contains(['"', '\\']), "{line}");
        }
        let kind = types.get(current).copied().expect(line);
        let suffixes: &[&str] =
            if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        let rest = name.strip_prefix(current).expect(line);
        assert!(is_name(name) && suffixes.contains(&rest), "{line}");
        assert!(kind != "counter" || name.ends_with("_total"), "{line}");
        let value: f64 = value.parse().expect(line);
        assert!(value >= 0.0 && value.is_finite(), "{line}");
        assert!(samples.insert(series.to_owned(), value).is_none(), "{line} twice");
    }
    for (name, _) in types.iter().filter(|(_, kind)| **kind == "histogram") {
        check_histogram(name, text, &samples);
    }
    assert_eq!(types.len(), helps.len());
    samples
}

/// Buckets of a histogram grow, in their bounds and in what they count, to the
/// total.
#[track_caller]
fn check_histogram(name: &str, text: &str, samples: &HashMap<String, f64>) {
    let prefix = format!("{name}_bucket{{le=\"");
    let buckets: Vec<(f64, f64)> = text
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix)?.split_once("\"} "))
        .map(|(bound, count)| (bound.parse().expect(bound), count.parse().expect(count)))
        .collect();
    assert!(buckets.len() > 5 && buckets.last().is_some_and(|(bound, _)| bound.is_infinite()));
    for pair in buckets.windows(2) {
        assert!(pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1, "{buckets:?}");
    }
    assert_eq!(
        buckets.last().map(|(_, count)| *count),
        samples.get(&format!("{name}_count")).copied()
    );
    assert!(samples.contains_key(&format!("{name}_sum")));
}

fn counted(flavor: &Flavor) -> Setup {
    Setup::new(flavor).option("forkptyrouter-stats", "{dir}/stats")
}

#[test]
fn sessions_bytes_and_ends_are_counted() {
    in_process(|flavor| {
        let server = both(counted(flavor).script("stty raw -echo; eval \"$DO\""))
            .option("forkptyrouter-accept-env", "DO")
            .option("forkptyrouter-handover", "false")
            .start();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let client = server.connect("u");
            open(&client, &[("DO", "printf 12345; head -c 7 >/dev/null; exit 4")]);
            clients.push(client);
        }
        for client in &mut clients {
            client.read_until("12345");
        }
        let open_ones = statistics(&server);
        assert_eq!(open_ones["counters"]["peak_sessions"], 3);
        assert_eq!(open_ones["active_sessions"], 3);
        for client in &mut clients {
            client.input("1234567");
            to_the_end(client);
        }
        let mut client = server.connect("u");
        open(&client, &[("DO", "kill -9 $$")]);
        to_the_end(&mut client);
        let mut client = server.connect("u");
        open(&client, &[("DO", "echo here; sleep 1000")]);
        client.read_until("here");
        drop(client);
        wait_until("all have ended", || statistics(&server)["active_sessions"] == 0);
        let counters = &statistics(&server)["counters"];
        assert_eq!(counters["accepted"], 5);
        let ended = json!({
            "exit": 3, "signal": 1, "hangup": 1, "idle": 0, "limit": 0, "operator": 0, "lost": 0,
        });
        assert_eq!(counters["ended"], ended);
        assert_eq!((&counters["bytes_in"], &counters["bytes_out"]), (&json!(21), &json!(20)));
        assert_eq!(counters["peak_sessions"], 3);
        for (_, count) in counters["refused"].as_object().unwrap() {
            assert_eq!(*count, 0, "{counters}");
        }
    });
}

#[test]
fn refusals_are_counted_by_reason() {
    in_process(|flavor| {
        let server = counted(flavor).option("forkptyrouter-command", "/no/such").raw();
        for _ in 0..12 {
            server.connect("s").read_to_end();
        }
        let counters = &statistics(&server)["counters"];
        assert_eq!((&counters["refused"]["exec"], &counters["accepted"]), (&json!(12), &json!(0)));
        assert_eq!(counters["refused"]["resources"], 0);
    });
}

/// The response for Prometheus, and the one for everybody else.
#[test]
fn prometheus_can_read_the_counters() {
    in_process(|flavor| {
        let server = counted(flavor).switch("stats-http").script("exit 0").raw();
        for _ in 0..20 {
            server.connect("s").read_to_end();
        }
        wait_until("they have ended", || {
            let (kind, text) = get(&server, "/metrics");
            assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
            let samples = parse(&text);
            samples["forkptyrouter_ended_total{reason=\"exit\"}"] == 20.0
                && samples["forkptyrouter_session_duration_seconds_count"] == 20.0
        });
        let samples = parse(&get(&server, "/metrics?format=text").1);
        assert_eq!(samples["forkptyrouter_accepted_total"], 20.0);
        assert_eq!(samples["forkptyrouter_sessions"], 0.0);
        assert!(samples["forkptyrouter_session_duration_seconds_sum"] < 60.0);
        for path in ["/", "/stats", "/metricsx"] {
            let (kind, body) = get(&server, path);
            assert_eq!(kind, "application/json");
            let json: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(json["counters"]["accepted"], 20, "{json}");
        }
        // A request that comes letter by letter, and one that only asks for the head.
        let mut slow = server.connect("stats");
        for letter in "GET /metrics HTTP/1.0\r\n".bytes() {
            slow.send([letter]);
        }
        assert!(slow.text_to_end().contains("\nforkptyrouter_sessions 0\n"));
        let mut curt = server.connect("stats");
        curt.send("GET /metrics");
        curt.end_of_input();
        assert!(curt.text_to_end().contains("\nforkptyrouter_sessions 0\n"));
        let mut head = server.connect("stats");
        head.send("HEAD / HTTP/1.0\r\n\r\n");
        assert!(head.text_to_end().ends_with("\r\n\r\n"));
    });
}

/// One of several gateways is killed: nothing of what it counted is lost, and
/// its sessions are over.
#[test]
fn counters_cover_all_gateways_and_survive_each() {
    in_process(|flavor| {
        let server = counted(flavor).option("forkptyrouter-processes", "3").raw();
        let mut clients: Vec<_> = (0..12).map(|_| server.connect("s")).collect();
        for client in &mut clients {
            client.shell("true");
        }
        let before = statistics(&server);
        assert_eq!(
            (&before["active_sessions"], &before["counters"]["accepted"]),
            (&json!(12), &json!(12))
        );
        assert!(before["counters"]["bytes_in"].as_u64().unwrap() > 12 * 4);
        let gateways = process::children(server.master());
        assert_eq!(gateways.len(), 3);
        for gateway in &gateways {
            process::signal(gateway.pid, Signal::SIGKILL);
        }
        for client in &mut clients {
            client.wait_for_end();
        }
        wait_until("they are back", || {
            let log = server.log();
            log.matches("sessions at once").count() >= 6
        });
        let after = statistics(&server);
        assert_eq!(
            (&after["active_sessions"], &after["counters"]["ended"]["lost"]),
            (&json!(0), &json!(12))
        );
        for name in ["accepted", "peak_sessions", "bytes_in"] {
            assert_eq!(after["counters"][name], before["counters"][name], "{name}");
        }
        // A prompt may have come after we looked.
        let bytes = |all: &Value| all["counters"]["bytes_out"].as_u64().unwrap();
        assert!(bytes(&after) >= bytes(&before));
        server.connect("s").shell("true");
        assert_eq!(statistics(&server)["counters"]["accepted"], 13);
    });
}

/// The master's own metrics, here as files.
#[test]
fn uwsgis_own_metrics_have_the_counters() {
    on_every_server(|flavor| {
        let setup = Setup::new(flavor).script("read line; exit 0");
        std::fs::create_dir(setup.path("metrics")).unwrap();
        let server = setup.switch("enable-metrics").option("metrics-dir", "{dir}/metrics").raw();
        let metric = |name: &str| {
            let file = server.path(&format!("metrics/forkptyrouter.{name}"));
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.trim_end_matches('\0').trim().to_owned()
        };
        let clients: Vec<_> = (0..4).map(|_| server.connect("s")).collect();
        wait_until("four are open", || metric("sessions") == "4");
        for mut client in clients {
            client.send("\n");
            client.read_to_end();
        }
        wait_until("none is left", || metric("sessions") == "0");
        assert_eq!(metric("accepted"), "4");
        // The server writes what has changed.
        assert_eq!(metric("refused"), "");
        std::fs::remove_file(server.path("script")).unwrap();
        server.connect("s").read_to_end();
        wait_until("one was refused", || metric("refused") == "1");
        assert_eq!((metric("accepted").as_str(), metric("sessions").as_str()), ("4", "0"));
    });
}
