//! Several gateways are one: sessions are found whichever takes the connection.

use std::collections::HashSet;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::connection::extended_mode::to_the_end;
use crate::harness::attach_client::AttachClient;
use crate::harness::person::Person;
use crate::harness::ports::free_address;
use crate::harness::wire::{header, packet};
use crate::harness::{
    Flavor, Server, Setup, comes_true, in_process, on_every_server, on_one_server, process,
    servers, wait_until,
};

const GATEWAYS: usize = 4;

const NO_SUCH: &str = "there is no such session";
const SILENT: &str = "the session's gateway does not answer: try again";

fn server(flavor: &Flavor, options: &[(&str, &str)]) -> Server {
    let setup = Setup::new(flavor).option("forkptyrouter-processes", &GATEWAYS.to_string());
    let setup = options.iter().fold(setup, |setup, (name, value)| setup.option(name, value));
    let server = setup.uwsgi();
    wait_until("all serve", || server.count_in_log("sessions at once") == GATEWAYS);
    server
}

/// The gateways' processes, as last spawned.
#[track_caller]
fn gateways(server: &Server) -> Vec<i32> {
    let log = server.log();
    let of = |number: usize| {
        let spawned = format!("spawned uWSGI forkptyrouter {number} (pid: ");
        let (_, rest) = log.rsplit_once(&spawned).expect("the log names it");
        rest.split(')').next().expect("a number").parse().expect("a number")
    };
    (1..=GATEWAYS).map(of).collect()
}

/// While something is done all others do nothing: this one takes the connection.
#[track_caller]
fn with_this_one<T>(server: &Server, number: usize, body: impl FnOnce() -> T) -> T {
    let all = gateways(server);
    let others: Vec<i32> = all.iter().copied().filter(|pid| *pid != all[number]).collect();
    others.iter().for_each(|pid| process::signal(*pid, Signal::SIGSTOP));
    let outcome = body();
    others.iter().for_each(|pid| process::signal(*pid, Signal::SIGCONT));
    outcome
}

const LEAVES: [(&str, &str); 2] = [("fpty.detach", "1"), ("fpty.take", "1")];

/// A client of this gateway that asks for this.
#[track_caller]
fn at(
    server: &Server,
    number: usize,
    which: Option<&str>,
    variables: &[(&str, &str)],
) -> AttachClient {
    let mut client = with_this_one(server, number, || AttachClient::calls(server, "u").agrees());
    client.asks(which, &[&LEAVES[..], variables].concat());
    client
}

/// A new session of this gateway, and that it is one.
#[track_caller]
fn begins(server: &Server, number: usize, name: &str) -> AttachClient {
    let before: HashSet<i32> = programs(server, number).into_iter().collect();
    let client = at(server, number, None, &[("fpty.name", name)]).at_the_prompt();
    assert!(programs(server, number).iter().any(|pid| !before.contains(pid)), "{number}");
    client
}

fn programs(server: &Server, number: usize) -> Vec<i32> {
    process::children(gateways(server)[number]).iter().map(|one| one.pid).collect()
}

#[track_caller]
fn shows_its_mark(client: &mut AttachClient, mark: &str) {
    client.terminal().send("echo =$MARK=\n");
    client.terminal().read_until(&format!("={mark}=\r\n"));
}

#[test]
fn sessions_are_found_from_every_gateway() {
    in_process(|flavor| {
        let server = server(flavor, &[("forkptyrouter-detach", "9")]);
        let mut client = begins(&server, 2, "job");
        client.terminal().send("MARK=first\n");
        shows_its_mark(&mut client, "first");
        let id = client.leaves();
        let mut other = begins(&server, 1, "other");
        other.terminal().send("MARK=other\n");
        shows_its_mark(&mut other, "other");
        for number in 0..GATEWAYS {
            // By its name, its id, how that begins, and as the one that was left last.
            for which in ["job", &id, &id[..7], ""] {
                let mut back = at(&server, number, Some(which), &[]).takes();
                shows_its_mark(&mut back, "first");
                assert_eq!(back.leaves(), id, "{number} {which}");
            }
            let mut back = at(&server, number, Some("job"), &[("fpty.begin", "1")]).takes();
            shows_its_mark(&mut back, "first");
            // Somebody is attached.
            let mut second = at(&server, (number + 1) % GATEWAYS, Some("job"), &[]);
            assert!(second.ended().2.contains("is attached since"));
            let watcher =
                at(&server, (number + 2) % GATEWAYS, Some("job"), &[("fpty.readonly", "1")])
                    .takes();
            let thief = at(&server, (number + 3) % GATEWAYS, Some(&id), &[("fpty.steal", "1")]);
            let (kind, value, text) = back.ended();
            assert!((kind, value) == (9, 1) && text.contains("has taken the session"), "{text}");
            let mut thief = thief.takes();
            shows_its_mark(&mut thief, "first");
            assert_eq!(watcher.offer, "r");
            drop(watcher);
            assert_eq!(thief.leaves(), id);
        }
        // What is none is none anywhere.
        for number in 0..GATEWAYS {
            for which in ["no-name", "zzzzzzzz", "*"] {
                let mut client = at(&server, number, Some(which), &[]);
                assert_eq!(client.ended(), (3, 0, String::from(NO_SUCH)), "{which}");
            }
        }
        // What has ended is seen from everywhere, once, and its name is free.
        let mut back = at(&server, 0, Some("job"), &[]).takes();
        back.terminal().send("sleep 0.3; exit 7\n");
        back.leaves();
        wait_until("it has ended", || !programs(&server, 2).iter().any(|pid| is_shell(*pid)));
        assert_eq!(at(&server, 3, Some("job"), &[]).takes().ended(), (0, 7, String::new()));
        assert_eq!(at(&server, 1, Some("job"), &[]).ended(), (3, 0, String::from(NO_SUCH)));
        drop(begins(&server, 3, "job"));
        shows_its_mark(&mut other, "other");
    });
}

/// All gateways have answered since: earlier requests were also carried out.
#[track_caller]
fn all_answer(server: &Server) {
    let client = server.connect("u");
    client.send(header(1, 102));
    client.send(packet(105, b"l"));
    client.send(packet(103, &[]));
    let mut client = client;
    let said = to_the_end(&mut client);
    assert_eq!(said.ended, [(0, 0, String::new())]);
}

fn is_shell(pid: i32) -> bool {
    process::Process::of(pid).is_some_and(|process| !process.is_zombie())
}

#[test]
fn a_name_is_unique_over_all_gateways() {
    in_process(|flavor| {
        let server = server(flavor, &[("forkptyrouter-detach", "9")]);
        let client = begins(&server, 1, "job");
        for number in 0..GATEWAYS {
            let mut other = at(&server, number, None, &[("fpty.name", "job")]);
            let text = String::from("there is a session job of yours (fpty -a job)");
            assert_eq!(other.ended(), (3, 0, text));
        }
        let id = client.leaves();
        let mut other = at(&server, 3, None, &[("fpty.name", "job")]);
        assert_eq!(other.ended().0, 3);
        let mut back = at(&server, 0, Some("job"), &[("fpty.begin", "1")]).takes();
        assert_eq!(programs(&server, 0).len(), 0);
        // Its end frees it.
        back.terminal().send("exit 3\n");
        assert_eq!(back.ended(), (0, 3, String::new()));
        let begins = at(&server, 0, Some("job"), &[("fpty.begin", "1"), ("fpty.name", "job")]);
        assert_ne!(begins.at_the_prompt().leaves(), id);
    });
}

/// At the same time, at whichever gateway: one session begins.
#[test]
fn of_simultaneous_begins_with_one_name_one_succeeds() {
    in_process(|flavor| {
        let server = server(flavor, &[("forkptyrouter-detach", "50")]);
        for round in 0..15 {
            let name = format!("job{round}");
            let variables = [&LEAVES[..], &[("fpty.begin", "1"), ("fpty.name", &name)]].concat();
            let mut clients: Vec<_> =
                (0..8).map(|_| AttachClient::calls(&server, "u").agrees()).collect();
            for client in &mut clients {
                client.asks(Some(&name), &variables);
            }
            let mut begun = 0;
            for mut client in clients {
                client.gets_an_answer();
                match &client.end {
                    None => begun += 1,
                    Some((3, 0, why)) => assert!(why.contains("is attached since"), "{why}"),
                    Some(end) => panic!("{end:?}"),
                }
                // The others still see that one.
                std::mem::forget(client);
            }
            assert_eq!(begun, 1, "{round}");
        }
    });
}

/// Clients wait for the first gateway that there is after a reload: it may be
/// another one than that which has the session.
#[test]
fn an_attach_after_a_reload_begins_no_second_session() {
    on_every_server(|flavor| {
        let server = server(flavor, &[("forkptyrouter-detach", "9")]);
        let id = begins(&server, 3, "job").leaves();
        all_answer(&server);
        for round in 1..=4 {
            process::signal(server.master(), Signal::SIGHUP);
            wait_until("it reloads", || server.count_in_log("binary reloading uWSGI") == round);
            wait_until("it listens", || UnixStream::connect(server.path("u")).is_ok());
            let variables = [&LEAVES[..], &[("fpty.begin", "1"), ("fpty.name", "job")]].concat();
            let mut clients: Vec<_> = (0..8).map(|_| AttachClient::calls(&server, "u")).collect();
            for client in &mut clients {
                client.asks(Some("job"), &variables);
            }
            let mut have_it = Vec::new();
            for mut client in clients {
                client.waits_to_its_end("a word", |it| it.end.is_some() || !it.offer.is_empty());
                match &client.end {
                    None if !client.offer.is_empty() => have_it.push(client.takes()),
                    Some((3, 0, why)) => assert!(why.contains("is attached since"), "{why}"),
                    // It came to a gateway that was about to end.
                    end => assert_eq!(end, &None),
                }
            }
            wait_until("all serve", || {
                server.count_in_log("sessions at once") == (round + 1) * GATEWAYS
            });
            assert!(have_it.len() <= 1, "{}", have_it.len());
            let mut client =
                have_it.pop().unwrap_or_else(|| at(&server, 0, Some("job"), &[]).takes());
            client.terminal().send("\n");
            client.terminal().read_until("$ ");
            assert_eq!(client.leaves(), id);
            all_answer(&server);
        }
    });
}

#[test]
fn the_limit_of_detached_sessions_is_shared() {
    in_process(|flavor| {
        let options = [("forkptyrouter-detach", "3"), ("forkptyrouter-detach-user", "2")];
        let is_root = nix::unistd::getuid().is_root();
        let server = server(flavor, &options);
        let mut clients: Vec<AttachClient> =
            (0..GATEWAYS).map(|number| begins(&server, number, &format!("job{number}"))).collect();
        // Root may have all of them.
        let most = if is_root { 3 } else { 2 };
        let mut last = clients.pop().expect("some");
        let rest = clients.split_off(most);
        for client in clients {
            client.leaves();
        }
        for mut client in rest {
            assert!(client.stays().contains("without a client already"));
        }
        let why = last.stays();
        assert!(why.contains(&format!("{most} sessions")), "{why}");
        // One comes back, and another one may leave.
        let back = at(&server, 3, Some("job0"), &[]).takes();
        last.leaves();
        let mut back = back;
        assert!(back.stays().contains("without a client already"));
    });
}

/// A gateway that hangs, or is killed, with the session that a client wants.
#[test]
fn an_attach_survives_a_hung_or_killed_gateway() {
    on_one_server(|flavor| {
        let server = server(flavor, &[("forkptyrouter-detach", "9")]);
        let mut client = begins(&server, 1, "job");
        client.terminal().send("MARK=first\n");
        shows_its_mark(&mut client, "first");
        let id = client.leaves();
        let owner = gateways(&server)[1];
        process::signal(owner, Signal::SIGSTOP);
        for (which, why) in [
            ("job", SILENT),
            (id.as_str(), "there is no such session, but for gateways that do not answer"),
        ] {
            let mut client = AttachClient::calls(&server, "u").agrees();
            let begun = Instant::now();
            client.asks(Some(which), &LEAVES);
            assert_eq!(client.ended(), (3, 0, String::from(why)));
            let took = begun.elapsed();
            assert!(took < Duration::from_millis(1900), "{took:?}");
        }
        // A name that it has is not begun anew.
        let mut client = AttachClient::calls(&server, "u").agrees();
        client.asks(Some("job"), &[&LEAVES[..], &[("fpty.begin", "1")]].concat());
        assert_eq!(client.ended(), (3, 0, String::from(SILENT)));
        // It was asked, and goes on: nobody is attached behind their backs.
        process::signal(owner, Signal::SIGCONT);
        let mut back = at(&server, 0, Some("job"), &[]).takes();
        shows_its_mark(&mut back, "first");
        back.leaves();
        all_answer(&server);
        // Killed with the client's connection on its way to it.
        process::signal(owner, Signal::SIGSTOP);
        let mut client = AttachClient::calls(&server, "u").agrees();
        client.asks(Some("job"), &LEAVES);
        std::thread::sleep(Duration::from_millis(50));
        process::signal(owner, Signal::SIGKILL);
        client.gets_an_answer();
        if let Some(end) = &client.end {
            assert_eq!(*end, (3, 0, String::from(SILENT)));
        }
        drop(client);
        wait_until("there is another gateway", || gateways(&server)[1] != owner);
        // The next one has it, and its name.
        wait_until("it is back", || {
            let mut back = AttachClient::comes(&server, "job", &[]);
            back.gets_an_answer();
            back.end.is_none()
        });
        for number in 0..GATEWAYS {
            let steals = [("fpty.steal", "1")];
            let mut back = at(&server, number, Some("job"), &steals).takes();
            shows_its_mark(&mut back, "first");
            assert_eq!(back.leaves(), id);
            let mut other = at(&server, number, None, &[("fpty.name", "job")]);
            assert_eq!(other.ended().0, 3);
        }
    });
}

#[test]
fn a_forwarded_connection_leaves_nothing_open() {
    in_process(|flavor| {
        let limits = [
            ("forkptyrouter-detach", "9"),
            ("forkptyrouter-max-user-sessions", "3"),
            ("forkptyrouter-max-sessions", "3"),
        ];
        let server = server(flavor, &limits);
        let id = begins(&server, 1, "job").leaves();
        let open = || -> Vec<usize> {
            gateways(&server).iter().map(|pid| process::descriptors(*pid).len()).collect()
        };
        wait_until("it has left", || {
            let mut back = AttachClient::comes(&server, "job", &[]);
            back.gets_an_answer();
            back.end.is_none()
        });
        let mut before = Vec::new();
        wait_until("all is quiet", || {
            let now = open();
            std::mem::replace(&mut before, now.clone()) == now
        });
        for round in 0..20 {
            let which = ["job", &id, "", "no-name"][round % 4];
            let client = AttachClient::comes(&server, which, &[]);
            match which {
                "no-name" => drop(client),
                _ => assert_eq!(client.takes().leaves(), id),
            }
        }
        // The connections from before may still have been closing when they were counted.
        wait_until("nothing is left", || open().iter().zip(&before).all(|(now, then)| now <= then));
    });
}

/// Leaves by `~d`; returns the word to come back with.
#[track_caller]
fn leaves(mut person: Person) -> String {
    person.send("\r~d");
    assert_eq!(person.status(), 0);
    let shown = person.shown();
    let (_, rest) = shown.rsplit_once("(come back with: fpty -a ").expect("a way back");
    rest.split(' ').next().expect("a word").to_owned()
}

/// Clients whose user is not known: they have nothing but the secret that they were
/// given.
#[test]
fn over_tcp_a_session_is_found_by_its_secret() {
    in_process(|flavor| {
        let address = free_address();
        let options = [
            ("forkptyrouter-detach", "9"),
            ("forkptyrouter-command", "PS1='$ ' exec bash --norc --noprofile -i"),
            ("forkpty-urouter", &address),
        ];
        let server = server(flavor, &options);
        let fpty = |arguments: &[&str]| {
            let mut fpty = Command::new(servers::fpty());
            fpty.args(arguments);
            fpty
        };
        let mut person = Person::runs(fpty(&[&address]), (24, 200));
        person.sees("$ ");
        person.send("MARK=first\r");
        let mut words = vec![leaves(person)];
        for round in 0..8 {
            let word = words.last().expect("one");
            let mut person = Person::runs(fpty(&["-a", word, &address]), (24, 200));
            person.send(&format!("echo =$MARK={round}\r"));
            person.sees(&format!("=first={round}\n"));
            words.push(leaves(person));
        }
        // One that was used is none, and the id alone neither.
        let (id, _) = words[0].split_once('+').expect("an id and a secret");
        for which in [words[0].as_str(), id] {
            let refused = fpty(&["-a", which, &address]).output().expect("it runs");
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(said.contains(NO_SUCH), "{said}");
        }
        // Its gateway is killed: it is taken up again, whichever is there first.
        let word = words.last().expect("one");
        let mut person = Person::runs(fpty(&["-a", word, &address]), (24, 200));
        person.send("echo here\r");
        person.sees("here\n");
        let owner = (0..GATEWAYS)
            .find(|number| programs(&server, *number).iter().any(|pid| is_shell(*pid)));
        let owner = gateways(&server)[owner.expect("one of them")];
        process::signal(owner, Signal::SIGKILL);
        wait_until("it is there again", || {
            person.send("\x15echo ag''ain\r");
            comes_true(Duration::from_millis(500), || {
                person.settles();
                person.all_lines().contains("again\n")
            })
        });
        person.send("exit 7\r");
        assert_eq!(person.status(), 7);
    });
}
