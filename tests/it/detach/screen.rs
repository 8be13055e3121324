//! The screen after an attach is that of a session that was never detached.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::client::{Mode, both, client};
use crate::harness::person::{Person, assert_same};
use crate::harness::{
    DEADLINE, Flavor, Server, Setup, comes_true, in_process, on_one_server, process, servers,
    side_by_side, wait_until,
};

const SHELL: &str = "PS1='$ ' exec bash --norc --noprofile -i";

fn server(flavor: &Flavor, command: &str) -> Server {
    setup(flavor, command).start()
}

fn setup(flavor: &Flavor, command: &str) -> Setup {
    both(Setup::new(flavor).script(command)).option("forkptyrouter-detach", "9")
}

/// One that hands terminals over, and one that relays.
fn either(flavor: &Flavor, command: &str, hands_over: bool) -> Server {
    let setup = setup(flavor, command);
    let setup = if hands_over { setup } else { setup.option("forkptyrouter-handover", "false") };
    setup.start()
}

fn fpty(server: &Server, arguments: &[&str]) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.args(arguments).arg(server.path("u"));
    fpty
}

/// Whether all programs have ended: what keeps sessions is none.
fn no_program(server: &Server) -> bool {
    server.session_processes().iter().all(|process| process.name.starts_with("fpty-"))
}

/// Leaves by `~d`; returns the id.
#[track_caller]
fn leaves(mut person: Person) -> String {
    person.send("~d");
    assert_eq!(person.status(), 0);
    let shown = person.shown();
    let (_, line) = shown.rsplit_once("detached: ").unwrap_or_else(|| panic!("{shown:?}"));
    let id = line.split(' ').next().unwrap().to_owned();
    assert!(line.starts_with(&format!("{id} (come back with: fpty -a {id} ")), "{line:?}");
    id
}

#[test]
fn a_person_detaches_and_attaches_again() {
    in_process(|flavor| {
        let server = server(flavor, SHELL);
        let mut person = Person::runs(fpty(&server, &[]), (24, 80));
        person.sees("$ ");
        person.send("echo one; echo t''wo\r");
        person.sees("two\n$ ");
        let id = leaves(person);
        // The beginning of an id is enough.
        let mut back = Person::runs(fpty(&server, &["-a", &id[..5]]), (30, 100));
        back.sees("two\n$ ");
        back.send("stty size\r");
        back.sees("30 100\n$ ");
        assert_eq!(leaves(back), id);
        // The one that was left last.
        let mut back = Person::runs(fpty(&server, &["-a"]), (24, 80));
        back.sees("30 100\n$ ");
        back.send("exit 7\r");
        assert_eq!(back.status(), 7);
        let mut gone = Person::runs(fpty(&server, &["-a", &id]), (24, 80));
        gone.status();
    });
}

#[test]
fn tilde_dot_ends_the_session_for_good() {
    in_process(|flavor| {
        let server = server(flavor, SHELL);
        let mut person = Person::runs(fpty(&server, &[]), (24, 80));
        person.sees("$ ");
        person.send("~.");
        assert_eq!(person.status(), 0);
        wait_until("the shell ends", || no_program(&server));
    });
}

#[test]
fn names_are_unique_and_an_attached_session_can_be_stolen() {
    in_process(|flavor| {
        let server = server(flavor, SHELL);
        let mut person = Person::runs(fpty(&server, &["-n", "build"]), (24, 80));
        person.sees("$ ");
        let mut other = Person::runs(fpty(&server, &["-n", "build"]), (24, 80));
        assert_eq!(other.status(), 255, "the name is in use");
        let mut other = Person::runs(fpty(&server, &["-a", "build"]), (24, 80));
        assert_eq!(other.status(), 255, "somebody is attached");
        let mut thief = Person::runs(fpty(&server, &["-a", "build", "--steal"]), (24, 80));
        thief.sees("$ ");
        assert_eq!(person.status(), 254);
        thief.send("echo mi''ne\r");
        thief.sees("mine\n$ ");
        thief.vanishes();
        let mut back = Person::runs(fpty(&server, &["-A", "build"]), (24, 80));
        back.sees("mine\n$ ");
        back.send("exit 3\r");
        assert_eq!(back.status(), 3);
        let mut new = Person::runs(fpty(&server, &["-A", "build"]), (24, 80));
        new.sees("$ ");
        new.send("exit 4\r");
        assert_eq!(new.status(), 4);
    });
}

#[test]
fn of_two_clients_that_attach_at_once_one_is_refused() {
    in_process(|flavor| {
        let server = server(flavor, SHELL);
        for round in 0..10 {
            let name = format!("n{round}");
            let mut person = Person::runs(fpty(&server, &["-n", &name]), (24, 80));
            person.sees("$ ");
            leaves(person);
            let mut both = [0, 1].map(|_| Person::runs(fpty(&server, &["-a", &name]), (24, 80)));
            let mut told = None;
            wait_until("one is told", || {
                told = both.iter_mut().position(|person| person.looks_for_its_end().is_some());
                told.is_some()
            });
            let told = told.unwrap();
            assert_eq!(both[told].looks_for_its_end(), Some(255), "{:?}", both[told].shown());
            let other = &mut both[1 - told];
            other.send("exit 6\r");
            assert_eq!(other.status(), 6);
        }
    });
}

#[test]
fn a_viewer_sees_and_cannot_type() {
    in_process(|flavor| {
        let server = server(flavor, SHELL);
        let mut person = Person::runs(fpty(&server, &["-n", "w"]), (24, 80));
        person.sees("$ ");
        let mut watcher = Person::runs(fpty(&server, &["-a", "w", "--read-only"]), (24, 80));
        watcher.sees("$ ");
        watcher.send("echo no\r");
        person.send("echo s''een\r");
        person.sees("seen\n$ ");
        watcher.sees("seen\n$ ");
        assert!(!person.shown().contains("no\r"), "{:?}", person.shown());
        watcher.send("~d");
        assert_eq!(watcher.status(), 0);
        person.send("exit 5\r");
        assert_eq!(person.status(), 5);
    });
}

#[test]
fn the_plugins_client_detaches_too() {
    on_one_server(|flavor| {
        let server = server(flavor, SHELL);
        let mut person = Person::runs(client(flavor, Mode::Uwsgi, &server.path("u")), (24, 80));
        person.sees("$ ");
        person.send("echo on''e\r");
        person.sees("one\n$ ");
        let id = leaves(person);
        let mut back = Person::runs(fpty(&server, &["-a", &id]), (24, 80));
        back.sees("one\n$ ");
        back.send("exit\r");
        assert_eq!(back.status(), 0);
    });
}

#[test]
fn the_status_of_a_program_that_ended_detached_is_told() {
    in_process(|flavor| {
        let server = server(flavor, "stty -echo; echo last; read x; sleep 0.3; echo words; exit 7");
        let mut person = Person::runs(fpty(&server, &["-n", "job"]), (24, 80));
        person.sees("last");
        person.send("\r~d");
        assert_eq!(person.status(), 0);
        wait_until("it ends", || no_program(&server));
        let mut back = Person::runs(fpty(&server, &["-a", "job"]), (24, 80));
        assert_eq!(back.status(), 7);
        back.sees("last\nwords\n");
    });
}

/// The screen of a program whose client was killed, in another size, and that
/// of one that never was left.
#[track_caller]
fn looks_the_same(flavor: &Flavor, script: &str, before: &[(&str, &str)], after: &[(&str, &str)]) {
    side_by_side(
        [
            ((24, 80), (24, 80), true),
            ((24, 80), (24, 80), false),
            ((24, 80), (30, 100), true),
            ((40, 120), (20, 70), false),
        ],
        |(left_in, found_in, hands_over)| {
            let screens = |leaves: bool| {
                let server = either(flavor, script, hands_over);
                let mut person = Person::runs(fpty(&server, &["-n", "x"]), left_in);
                for (keys, seen) in before {
                    person.send(keys);
                    person.sees(seen);
                }
                person.settles();
                if leaves {
                    person.vanishes();
                    person = Person::runs(fpty(&server, &["-a", "x", "--steal"]), found_in);
                    person.sees(before.last().unwrap().1.trim_end());
                } else {
                    person.resize(found_in);
                }
                person.settles();
                let mut screens = vec![person.cells()];
                for (keys, seen) in after {
                    person.send(keys);
                    person.sees(seen);
                    person.settles();
                    screens.push(person.cells());
                }
                screens
            };
            for (step, (found, wanted)) in screens(true).iter().zip(&screens(false)).enumerate() {
                assert_same(
                    found,
                    wanted,
                    &format!("{script}: {left_in:?} {found_in:?} {hands_over}, step {step}"),
                );
            }
        },
    );
}

#[test]
fn a_shells_half_typed_line_is_restored() {
    in_process(|flavor| {
        looks_the_same(
            flavor,
            SHELL,
            &[("", "$ "), ("echo one\r", "one\n$ "), ("echo half-ty", "half-ty")],
            &[("ped\r", "half-typed\n$ ")],
        );
    });
}

#[test]
fn the_screens_of_vim_and_less_are_restored() {
    in_process(|flavor| {
        looks_the_same(
            flavor,
            "seq -f 'line %g of it' 200 > $0.txt; \
             exec vim -u NONE -N -n -i NONE --cmd 'set ruler number' $0.txt",
            &[("", "line 1 of it"), ("50G", "line 50 of it"), ("vjj", "VISUAL")],
            &[("\x1b", "line 52 of it"), (":set nonumber\r", "\nline 52 of it")],
        );
        looks_the_same(
            flavor,
            "seq -f 'line %g' 2000 | exec less -R",
            &[("", "line 1\n"), ("100g", "line 100\n")],
            &[("G", "line 2000")],
        );
    });
}

/// What a killed client had read and not shown, and what came while nobody was
/// there, is there once, and in its order.
#[test]
fn output_of_a_flood_is_there_once_after_the_client_was_killed() {
    in_process(|flavor| {
        for round in 0..8 {
            let script = "stty -echo; seq 100000 160000; echo end; read x";
            let server = either(flavor, script, round % 4 != 3);
            let mut person = Person::runs(fpty(&server, &["-n", "x"]), (24, 80));
            person.sees("10");
            std::thread::sleep(Duration::from_millis(3 * round));
            process::signal(person.client(), Signal::SIGKILL);
            person.status();
            let mut back = Person::runs(fpty(&server, &["-a", "x", "--steal"]), (24, 80));
            back.sees("160000\nend\n");
            let text = back.all_lines();
            let numbers: Vec<u32> =
                text.lines().filter_map(|line| line.trim().parse().ok()).collect();
            assert!(numbers.len() > 1000, "{}", numbers.len());
            for pair in numbers.windows(2) {
                assert_eq!(pair[0] + 1, pair[1], "round {round}");
            }
        }
    });
}

#[test]
fn a_session_that_cannot_be_detached_says_so() {
    in_process(|flavor| {
        let setup = both(Setup::new(flavor).script(SHELL));
        let server = setup.start();
        let mut person = Person::runs(fpty(&server, &[]), (24, 80));
        person.sees("$ ");
        person.send("~d");
        person.sees("cannot detach");
        person.send("\recho st''ill\r");
        person.sees("still\n$ ");
        let raw = Person::runs(
            {
                let mut raw = Command::new(servers::fpty());
                raw.arg("-r").arg(server.path("s"));
                raw
            },
            (24, 80),
        );
        let mut raw = raw;
        raw.sees("$ ");
        raw.send("~d");
        raw.sees("cannot detach: raw mode cannot say so");
        // And a client that is lost takes its session along, as ever.
        drop((person, raw));
        assert!(comes_true(DEADLINE, || no_program(&server)));
    });
}
