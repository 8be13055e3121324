//! Clients of the statistics that mean no good: they delay neither sessions nor, for long,
//! others who ask.

use std::time::Duration;

use crate::harness::cost::{ECHO, Holdings, echo_session, echoes, load, wait_until_as_before};
use crate::harness::{Setup, Wire, in_process, noise, side_by_side};

const QUICK: Duration = Duration::from_millis(500);

#[test]
fn silent_deaf_and_endless_clients_delay_nobody() {
    in_process(|flavor| {
        side_by_side([false, true], |with_http| {
            let setup =
                Setup::new(flavor).script(ECHO).option("forkptyrouter-stats", "{dir}/stats");
            let server = if with_http { setup.switch("stats-http").raw() } else { setup.raw() };
            let gateway = server.gateway();
            server.idle_descriptors();
            let before = Holdings::of(gateway);
            let mut other = echo_session(&server, "s");

            let ask = || {
                let mut client = server.connect("stats");
                if with_http {
                    client.send("GET / HTTP/1.0\r\n\r\n");
                }
                assert!(client.text_to_end().contains("active_sessions"));
            };
            let silent: Vec<Wire> = (0..200).map(|_| server.connect("stats")).collect();
            ask();
            let took = echoes(&mut other, 50);
            assert!(took[48] < QUICK, "beside silent ones: {took:?}");
            assert!(Holdings::of(gateway).descriptors < before.descriptors + 64);
            let used = load(gateway, Duration::from_millis(500));
            assert!(used < 0.1, "{used} of a processor");

            let endless = noise(5, 1_000_000);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..10 {
                            let client = server.connect("stats");
                            client.flood(&endless, Duration::from_millis(20));
                        }
                    });
                }
                let took = echoes(&mut other, 50);
                assert!(took[48] < QUICK, "beside endless requests: {took:?}");
            });
            drop(silent);
            ask();
            drop(other);
            wait_until_as_before(gateway, before);
        });
    });
}

/// A thousand, one after the other, none of whom waits for the answer.
#[test]
fn a_thousand_impatient_clients_delay_nobody() {
    in_process(|flavor| {
        let server =
            Setup::new(flavor).script(ECHO).option("forkptyrouter-stats", "{dir}/stats").raw();
        let gateway = server.gateway();
        server.idle_descriptors();
        let before = Holdings::of(gateway);
        let mut other = echo_session(&server, "s");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..250 {
                        drop(server.connect("stats"));
                    }
                });
            }
            let took = echoes(&mut other, 50);
            assert!(took[48] < QUICK, "{took:?}");
        });
        assert!(server.connect("stats").text_to_end().contains("active_sessions"));
        drop(other);
        wait_until_as_before(gateway, before);
    });
}
