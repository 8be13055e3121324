//! The counters in the text format of Prometheus (version 0.0.4).

use std::fmt::Write;

use super::counters::{BUCKETS, ByReason, Counted};

/// The whole answer.
pub fn text(counted: &Counted) -> String {
    let mut text = String::with_capacity(4096);
    let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
        let _ = writeln!(text, "# HELP forkptyrouter_{name} {help}");
        let _ = writeln!(text, "# TYPE forkptyrouter_{name} {kind}");
        for (rest, value) in samples {
            let _ = writeln!(text, "forkptyrouter_{name}{rest} {value}");
        }
    };
    let one = |value: u64| vec![(String::new(), value.to_string())];
    let by_reason = |ByReason(counts): &ByReason| {
        let sample =
            |(word, count): &(_, u64)| (format!("{{reason=\"{word}\"}}"), count.to_string());
        counts.iter().map(sample).collect::<Vec<_>>()
    };
    metric("sessions", "gauge", "Open sessions, of all gateways.", &one(counted.sessions));
    metric(
        "sessions_peak",
        "gauge",
        "The most sessions open at once.",
        &one(counted.peak_sessions),
    );
    metric("accepted_total", "counter", "Sessions that began.", &one(counted.accepted));
    let refused = by_reason(&counted.refused);
    metric("refused_total", "counter", "Clients that got no session, by reason.", &refused);
    let ended = by_reason(&counted.ended);
    metric("ended_total", "counter", "Sessions that ended, by reason.", &ended);
    let help = "Bytes of input that were relayed to sessions.";
    metric("input_bytes_total", "counter", help, &one(counted.bytes_in));
    let help = "Bytes of output that were relayed from sessions.";
    metric("output_bytes_total", "counter", help, &one(counted.bytes_out));
    let help = "How long sessions took that have ended.";
    metric("session_duration_seconds", "histogram", help, &durations(counted));
    text
}

/// A bucket counts what those before it do, too.
fn durations(counted: &Counted) -> Vec<(String, String)> {
    let mut all = 0;
    let mut samples = Vec::new();
    let bounds = BUCKETS.iter().map(u64::to_string).chain([String::from("+Inf")]);
    for (bound, count) in bounds.zip(&counted.durations) {
        all += count;
        samples.push((format!("_bucket{{le=\"{bound}\"}}"), all.to_string()));
    }
    let total = counted.total;
    let seconds = format!("{}.{:06}", total.as_secs(), total.subsec_micros());
    samples.push((String::from("_sum"), seconds));
    samples.push((String::from("_count"), all.to_string()));
    samples
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_histogram_is_cumulative_and_every_metric_has_its_type() {
        let mut durations = vec![0; BUCKETS.len() + 1];
        (durations[0], durations[2], durations[BUCKETS.len()]) = (5, 2, 1);
        let counted = Counted {
            accepted: 11,
            sessions: 3,
            peak_sessions: 4,
            refused: ByReason(vec![("exec", 1), ("denied", 2)]),
            ended: ByReason(vec![("exit", 7), ("hangup", 1)]),
            bytes_in: 1,
            bytes_out: 2,
            durations,
            total: Duration::from_millis(123_456),
        };
        let text = text(&counted);
        for line in [
            "# TYPE forkptyrouter_sessions gauge",
            "forkptyrouter_sessions 3",
            "forkptyrouter_refused_total{reason=\"exec\"} 1",
            "forkptyrouter_ended_total{reason=\"hangup\"} 1",
            "# TYPE forkptyrouter_session_duration_seconds histogram",
            "forkptyrouter_session_duration_seconds_bucket{le=\"1\"} 5",
            "forkptyrouter_session_duration_seconds_bucket{le=\"10\"} 5",
            "forkptyrouter_session_duration_seconds_bucket{le=\"60\"} 7",
            "forkptyrouter_session_duration_seconds_bucket{le=\"+Inf\"} 8",
            "forkptyrouter_session_duration_seconds_sum 123.456000",
            "forkptyrouter_session_duration_seconds_count 8",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        }
        assert!(text.ends_with('\n'));
    }
}
