//! Many sessions: at once, one after the other, idle, and as fast as they
//! can.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::harness::cost::{
    ECHO, Holdings, RUN, echo_session, echoes, running, wait_until_as_before,
};
use crate::harness::{Setup, Wire, in_process, on_one_server};

/// Bounds are generous: the machine may be busy with other things.
const QUICK: Duration = Duration::from_millis(500);

/// Room for a thousand connections of our own.
fn allow_many_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = 4096.min(hard);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    }
}

/// A thousand at once: each hears its own token, none costs the gateway a
/// KiB while it is idle, and all of it is given back.
#[test]
fn a_thousand_sessions_at_once_are_served_and_cost_little() {
    allow_many_descriptors();
    in_process(|flavor| {
        let server = Setup::new(flavor).script(ECHO).raw();
        let gateway = server.gateway();
        server.idle_descriptors();
        // What the first sessions make it allocate it keeps.
        for mut first in (0..20).map(|_| server.connect("s")).collect::<Vec<_>>() {
            first.read_until("ready\n");
        }
        std::thread::sleep(Duration::from_millis(200));
        let before = Holdings::of(gateway);
        let mut clients: Vec<Wire> = (0..1000).map(|_| server.connect("s")).collect();
        for client in &mut clients {
            client.read_until("ready\n");
        }
        let idle = Holdings::of(gateway).memory.saturating_sub(before.memory);
        assert!(idle < 1000, "{idle} KiB for 1000 idle sessions");
        for (number, client) in clients.iter().enumerate() {
            client.send(format!("token {number};"));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let token = format!("token {number};");
            assert_eq!(client.read_until(";"), token);
        }
        let after = Holdings::of(gateway).memory.saturating_sub(before.memory);
        eprintln!("1000 sessions: {idle} KiB idle, {after} KiB after an echo each");
        drop(clients);
        wait_until_as_before(gateway, before);
        let kept = Holdings::of(gateway).memory.saturating_sub(before.memory);
        assert!(kept < 1024, "{kept} KiB are not given back");
    });
}

/// A hundred thousand, 20 at a time: nothing is left of any of them.
#[test]
#[ignore = "soak: takes minutes"]
fn soak_a_hundred_thousand_sessions() {
    on_one_server(|flavor| {
        let server = Setup::new(flavor).option("forkptyrouter-command", "/bin/cat").raw();
        let gateway = server.gateway();
        server.idle_descriptors();
        let round = |sessions: usize| {
            let slowest = Mutex::new(Duration::ZERO);
            std::thread::scope(|scope| {
                for thread in 0..20 {
                    let (slowest, server) = (&slowest, &server);
                    scope.spawn(move || {
                        for number in 0..sessions / 20 {
                            let begin = Instant::now();
                            let mut client = server.connect("s");
                            let token = format!("{thread}.{number};");
                            client.send(format!("{token}\n"));
                            client.read_until(&token);
                            // Half of them end the program, half just leave.
                            if number % 2 == 0 {
                                client.send([4]);
                                client.read_to_end();
                            }
                            let mut slowest = slowest.lock().unwrap();
                            *slowest = (*slowest).max(begin.elapsed());
                        }
                    });
                }
            });
            slowest.into_inner().unwrap()
        };
        round(2000);
        wait_until_as_before(gateway, Holdings { children: 0, ..settled(gateway) });
        let before = settled(gateway);
        let begin = Instant::now();
        let slowest = round(100_000);
        let took = begin.elapsed();
        wait_until_as_before(gateway, before);
        let after = Holdings::of(gateway);
        eprintln!("100000 sessions in {took:?}, the slowest {slowest:?}: {before:?}, {after:?}");
        let grown = after.memory.saturating_sub(before.memory);
        assert!(grown < 1024, "the gateway grew by {grown} KiB");
        assert_eq!(server.gateway(), gateway, "the same gateway");
    });
}

/// Once nothing changes any more.
fn settled(gateway: i32) -> Holdings {
    let mut last = Holdings::of(gateway);
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = Holdings::of(gateway);
        if now == last {
            return now;
        }
        last = now;
    }
}

/// Sessions that print as fast as they can, to clients that read as fast.
#[test]
fn busy_sessions_delay_nobody() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(RUN).raw();
        let mut other = running(&server, "s", "exec cat");
        for busy in [1, 4] {
            let stop = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..busy {
                    scope.spawn(|| {
                        let reader = running(&server, "s", "exec yes");
                        let mut buffer = vec![0; 65536];
                        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                            if nix::unistd::read(reader.fd(), &mut buffer).is_err() {
                                reader.is_silent_for(Duration::from_millis(10));
                            }
                        }
                    });
                }
                std::thread::sleep(Duration::from_millis(300));
                let took = echoes(&mut other, 200);
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                eprintln!("beside {busy} busy: p50 {:?}, p99 {:?}", took[100], took[198]);
                assert!(took[198] < QUICK, "beside {busy}: {took:?}");
            });
        }
    });
}

/// While connections come as fast as they can.
#[test]
fn a_stream_of_connections_delays_nobody() {
    in_process(|flavor| {
        let server = Setup::new(flavor).script(ECHO).raw();
        let mut other = echo_session(&server, "s");
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        drop(server.connect("s"));
                    }
                });
            }
            let took = echoes(&mut other, 100);
            eprintln!("beside new connections: p50 {:?}, p99 {:?}", took[50], took[98]);
            assert!(took[98] < QUICK, "{took:?}");
        });
    });
}
