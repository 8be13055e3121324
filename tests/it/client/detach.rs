//! Detach and reattach: a person leaves a session and comes back, watches one, or has
//! it taken away; and what the terminal is left as.

use nix::sys::signal::Signal;

use crate::harness::detachable::{Detachable, SHELL, detach, fpty, setup};
use crate::harness::person::Person;
use crate::harness::{in_process, process, wait_until};

const SIZE: (u16, u16) = (24, 80);

#[test]
fn a_person_detaches_and_attaches_again() {
    in_process(|flavor| {
        for hands_over in [true, false] {
            let instance = Detachable::of(flavor, SHELL, hands_over);
            let mut person = instance.connect(&[], SIZE);
            person.sees("$ ");
            person.send("echo one; echo t''wo\r");
            person.sees("two\n$ ");
            person.send("~?");
            person.sees(" ~d   detach");
            let id = detach(person, &instance.address);
            // The beginning of an id is enough.
            let mut back = instance.connect(&["-a", &id[..5]], (30, 100));
            back.sees("two\n$ ");
            // It is a line smaller for a moment, so that its program draws.
            back.settles();
            back.send("stty size\r");
            back.sees("30 100\n$ ");
            assert_eq!(detach(back, &instance.address), id);
            // The one that was left last.
            let mut back = instance.attach(&[], SIZE);
            back.sees("30 100\n$ ");
            back.send("exit 7\r");
            assert_eq!(back.status(), 7);
            let mut gone = instance.connect(&["-a", &id], SIZE);
            assert_eq!(gone.status(), 255);
            gone.sees("there is no such session");
        }
    });
}

#[test]
fn tilde_dot_ends_the_session_for_good() {
    in_process(|flavor| {
        let instance = Detachable::new(flavor, SHELL);
        let mut person = instance.connect(&[], SIZE);
        person.sees("$ ");
        person.send("~.");
        assert_eq!(person.status(), 0);
        wait_until("the session ends", || instance.list().is_empty());
        instance.wait_for_end_of("bash");
    });
}

#[test]
fn the_end_of_a_program_while_detached_is_told() {
    in_process(|flavor| {
        for hands_over in [true, false] {
            let script = "stty -echo; echo last; read x; sleep 0.2; echo words; exit 7";
            let instance = Detachable::of(flavor, script, hands_over);
            let mut person = instance.connect(&[], SIZE);
            person.sees("last");
            person.send("\r");
            detach(person, &instance.address);
            instance.wait_for_end_of("script");
            let mut back = instance.attach(&[], SIZE);
            assert_eq!(back.status(), 7);
            back.sees("last\nwords\n");
        }
    });
}

#[test]
fn a_detach_that_is_refused_or_not_answered_says_so() {
    in_process(|flavor| {
        let instance = Detachable::start(setup(flavor, SHELL).option("forkptyrouter-detach", "1"));
        let mut first = instance.connect(&[], SIZE);
        first.sees("$ ");
        detach(first, &instance.address);
        let mut person = instance.connect(&[], SIZE);
        person.sees("$ ");
        instance.wait_for_handover(&person);
        person.send("~d");
        person.sees("fpty: cannot detach: 1 sessions are without a client already");
        person.send("\recho st''ill\r");
        person.sees("still\n$ ");
        // A gateway that hangs; the terminal is the client's.
        process::signal(instance.server.gateway(), Signal::SIGSTOP);
        person.send("~d");
        person.sees("cannot detach: the server does not answer");
        person.send("\recho st''ill here\r");
        person.sees("still here\n$ ");
        process::signal(instance.server.gateway(), Signal::SIGCONT);
    });
}

#[test]
fn a_session_that_cannot_be_detached_says_so() {
    in_process(|flavor| {
        let instance = Detachable::start(setup(flavor, SHELL).option("forkpty-router", "{dir}/s"));
        let mut person = instance.connect(&[], SIZE);
        person.sees("$ ");
        person.send("~d");
        person.sees("cannot detach");
        person.send("\recho st''ill\r");
        person.sees("still\n$ ");
        let mut raw = Person::runs(fpty(&["-r", &instance.server.path("s")]), SIZE);
        raw.sees("$ ");
        raw.send("~d");
        raw.sees("cannot detach: raw mode cannot say so");
        // And a client that is lost takes its session along, as ever.
        drop((person, raw));
        instance.wait_for_end_of("bash");
    });
}

#[test]
fn a_viewer_sees_and_cannot_type() {
    in_process(|flavor| {
        for hands_over in [true, false] {
            let instance = Detachable::of(flavor, SHELL, hands_over);
            let mut person = instance.connect(&[], SIZE);
            person.sees("$ ");
            let mut watcher = instance.connect(&["--read-only", "-a", &instance.id()], (10, 40));
            watcher.sees("$ ");
            watcher.send("echo no\r");
            watcher.resize((12, 50));
            person.send("echo s''een\r");
            person.sees("seen\n$ ");
            watcher.sees("seen\n$ ");
            // Nobody is attached.
            instance.lose(person);
            watcher.send("echo no\r");
            watcher.resize((14, 60));
            watcher.send("~d");
            assert_eq!(watcher.status(), 0);
            watcher.sees("disconnected from ");
            let session = instance.session();
            assert_eq!((&session["rows"], &session["cols"]), (&24.into(), &80.into()));
            let mut back = instance.attach(&[], SIZE);
            back.sees("seen\n$ ");
            back.send("exit 5\r");
            assert_eq!(back.status(), 5);
            assert!(!back.all_lines().contains("no\n"), "{}", back.all_lines());
        }
    });
}

#[test]
fn a_client_whose_session_is_stolen_says_so() {
    in_process(|flavor| {
        for hands_over in [true, false] {
            let instance = Detachable::of(flavor, SHELL, hands_over);
            let mut person = instance.connect(&[], SIZE);
            person.sees("$ ");
            let mut thief = instance.connect(&["--steal", "-a", &instance.id()], SIZE);
            assert_eq!(person.status(), 254);
            person.sees(" has taken the session");
            thief.send("echo mi''ne\r");
            thief.sees("mine\n$ ");
        }
    });
}

#[test]
fn names_are_unique_and_an_attached_session_can_be_stolen() {
    in_process(|flavor| {
        let instance = Detachable::new(flavor, SHELL);
        let mut person = instance.connect(&["-n", "build"], SIZE);
        person.sees("$ ");
        let mut other = instance.connect(&["-n", "build"], SIZE);
        assert_eq!(other.status(), 255, "the name is in use");
        let mut other = instance.connect(&["-a", "build"], SIZE);
        assert_eq!(other.status(), 255, "somebody is attached");
        let mut thief = instance.connect(&["-a", "build", "--steal"], SIZE);
        thief.sees("$ ");
        assert_eq!(person.status(), 254);
        thief.send("echo mi''ne\r");
        thief.sees("mine\n$ ");
        instance.lose(thief);
        let mut back = instance.connect(&["-A", "build"], SIZE);
        back.sees("mine\n$ ");
        back.send("exit 3\r");
        assert_eq!(back.status(), 3);
        let mut new = instance.connect(&["-A", "build"], SIZE);
        new.sees("$ ");
        new.send("exit 4\r");
        assert_eq!(new.status(), 4);
    });
}

#[test]
fn of_two_clients_that_attach_at_once_one_is_refused() {
    in_process(|flavor| {
        let instance = Detachable::new(flavor, SHELL);
        for round in 0..10 {
            let name = format!("n{round}");
            let mut person = instance.connect(&["-n", &name], SIZE);
            person.sees("$ ");
            detach(person, &instance.address);
            let mut both = [0, 1].map(|_| instance.connect(&["-a", &name], SIZE));
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
fn modes_that_are_on_are_reset_on_the_terminal() {
    in_process(|flavor| {
        let instance = Detachable::new(
            flavor,
            r"stty -echo; printf '\033[?1049h\033[?1000;1006h\033[?2004h\033[?1h\033=\033[?25l\033[3;9r\033[5 qhere'; read x; read x",
        );
        let mut person = instance.connect(&[], SIZE);
        person.sees("here");
        instance.wait_for_handover(&person);
        person.send("\r~d");
        assert_eq!(person.status(), 0);
        let shown = person.shown();
        let undone = &shown[shown.find("here").unwrap() + 4..];
        for gone in
            ["?1049l", "?1000l", "?1006l", "?2004l", "?1l", "\x1b>", "?25h", "\x1b[r", "\x1b[0 q"]
        {
            assert!(undone.contains(gone), "{gone}: {undone:?}");
        }
        let is_last = |line: &str| undone.contains(&format!("?1049l{line}fpty: detached"));
        assert!(is_last("") || is_last("\r\n"), "{undone:?}");
        // And nothing that is not.
        let instance = Detachable::new(flavor, "stty -echo; echo here; read x; read x");
        let mut person = instance.connect(&[], SIZE);
        person.sees("here");
        instance.wait_for_handover(&person);
        person.send("\r~d");
        assert_eq!(person.status(), 0);
        let shown = person.shown();
        assert!(!shown.contains('\x1b'), "{shown:?}");
    });
}
