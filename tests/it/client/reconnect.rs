//! Reconnect of the client after its connection broke: what a person sees and may type
//! meanwhile, and what it says of a session that is gone.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::broken_connection::Breaker;
use crate::harness::detachable::{Detachable, SHELL, detach, fpty, setup};
use crate::harness::person::Person;
use crate::harness::ports::free_address;
use crate::harness::{Flavor, in_process, process, wait_until};

/// A session's line is long.
const SIZE: (u16, u16) = (24, 200);

/// How long a refusal is not the last word.
const GRACE: Duration = Duration::from_secs(3);

/// A gateway at a TCP address whose connections break; it relays.
fn breakable(flavor: &Flavor, script: &str) -> (Detachable, Breaker) {
    let address = free_address();
    let setup = setup(flavor, script)
        .option("forkpty-urouter", &address)
        .option("forkptyrouter-detach", "9")
        .option("forkptyrouter-detach-user", "9")
        .option("forkptyrouter-handover", "false");
    (Detachable::start(setup), Breaker::to(&address))
}

/// A person who comes by the line that breaks.
fn connect(line: &Breaker, arguments: &[&str]) -> Person {
    Person::runs(fpty(&[arguments, &[&line.address]].concat()), SIZE)
}

/// Types until the program answers: input that is typed before the client has reconnected
/// is dropped.
#[track_caller]
fn answers(person: &mut Person, word: &str) {
    wait_until("it is back", || {
        person.send(&format!("\x15echo ba''ck {word}\r"));
        person.settles();
        person.all_lines().contains(&format!("back {word}\n"))
    });
}

#[test]
fn a_broken_connection_is_taken_up_again() {
    in_process(|flavor| {
        let (instance, line) = breakable(flavor, SHELL);
        let mut person = connect(&line, &["-A", "build"]);
        person.sees("$ ");
        let before = nix::unistd::getuid().is_root().then(|| instance.id());
        for round in 0..3 {
            person.send(&format!("echo o''ne {round}\r"));
            person.sees(&format!("one {round}\n$ "));
            line.breaks(true);
            wait_until("it is lost", || {
                person.settles();
                person.shown().matches(" lost: ").count() > round
            });
            answers(&mut person, &round.to_string());
            assert!(person.all_lines().contains(&format!("one {round}\n")));
        }
        assert_eq!(person.shown().matches(" lost: ").count(), 3, "{:?}", person.shown());
        // It is the session that was lost, and no other.
        if let Some(before) = before {
            assert_eq!(instance.id(), before);
        }
        person.send("exit 7\r");
        assert_eq!(person.status(), 7);
    });
}

#[test]
fn input_while_disconnected_is_dropped_and_the_size_is_kept() {
    in_process(|flavor| {
        let (_instance, line) = breakable(flavor, SHELL);
        let mut person = connect(&line, &[]);
        person.sees("$ ");
        line.refuses(true);
        line.breaks(true);
        person.sees("reconnecting (what is typed is dropped; ~. or Ctrl-C gives up)");
        person.send("echo ly''nx\r");
        person.settles();
        assert!(person.shown().contains('\x07'));
        person.resize((30, 190));
        line.refuses(false);
        answers(&mut person, "again");
        person.send("stty size\r");
        person.sees("30 190\n$ ");
        assert!(!person.all_lines().contains("lynx"));
        // The word to come back with has the secret that was given last.
        let word = detach(person, &line.address);
        let mut back = connect(&line, &["-a", &word]);
        back.sees("30 190\n$ ");
        assert!(!back.all_lines().contains("lynx"));
    });
}

#[test]
fn a_person_can_give_up_reconnecting() {
    in_process(|flavor| {
        for (arguments, keys) in
            [(&[][..], "~."), (&[], "\x03"), (&[], "~d"), (&["-e", "none"], "\x03")]
        {
            let (_instance, line) = breakable(flavor, SHELL);
            let mut person = connect(&line, arguments);
            person.sees("$ ");
            person.send("echo fir''st\r");
            person.sees("first\n$ ");
            line.refuses(true);
            line.breaks(true);
            person.sees("reconnecting");
            person.send("x\r");
            person.send(keys);
            assert_eq!(person.status(), 254, "{keys:?}");
            let said = "lost, and not restored: given up (come back with: fpty -a ";
            person.sees(said);
            // The session was not ended.
            let shown = person.shown();
            let (_, rest) = shown.split_once(said).unwrap();
            let word = rest.split(' ').next().unwrap();
            assert!(word.contains('+'), "{word}");
            line.refuses(false);
            connect(&line, &["-a", word]).sees("first\n$ ");
        }
    });
}

#[test]
fn the_end_of_a_program_while_disconnected_is_told() {
    in_process(|flavor| {
        let script = "stty -echo; echo last; read x; echo read; sleep 0.3; echo words; exit 7";
        let (instance, line) = breakable(flavor, script);
        let mut person = connect(&line, &[]);
        person.sees("last");
        person.send("\r");
        person.sees("read");
        line.refuses(true);
        line.breaks(true);
        instance.wait_for_end_of("script");
        line.refuses(false);
        assert_eq!(person.status(), 7);
        person.sees("last\nread\nwords\n");
    });
}

/// Not at once: the next gateway may not know the session yet.
#[test]
fn a_session_that_is_gone_or_taken_is_one_line() {
    in_process(|flavor| {
        for is_taken in [false, true] {
            let instance = Detachable::of(flavor, SHELL, false);
            let mut person = instance.connect(&[], SIZE);
            person.sees("$ ");
            let id = instance.id();
            // The client sees nothing of it before it is done.
            process::signal(person.client(), Signal::SIGSTOP);
            instance.server.replace_gateway("kill");
            let mut other = None;
            if is_taken {
                let person = other.insert(instance.connect(&["-a", &id], SIZE));
                person.sees("$ ");
            } else {
                let mut killer = instance.connect(&["--kill", &id], SIZE);
                assert_eq!(killer.status(), 0, "{:?}", killer.shown());
            }
            let lost = Instant::now();
            process::signal(person.client(), Signal::SIGCONT);
            assert_eq!(person.status(), 254);
            assert!(lost.elapsed() > GRACE, "a refusal is believed at once");
            let why = if is_taken { "" } else { "there is no such session\n" };
            person.sees(&format!("lost, and not restored: {why}"));
            let shown = person.shown();
            assert_eq!(shown.contains(" is attached since "), is_taken, "{shown:?}");
            assert_eq!(shown.contains(&format!("(come back with: fpty -a {id} ")), is_taken);
        }
    });
}

#[test]
fn no_reconnect_where_unwanted_or_impossible() {
    in_process(|flavor| {
        // A gateway that has no detach, and who does not want it.
        for (sessions, arguments) in [("0", &[][..]), ("9", &["--no-reconnect"])] {
            let address = free_address();
            let setup = setup(flavor, SHELL).option("forkpty-urouter", &address);
            let instance = Detachable::start(setup.option("forkptyrouter-detach", sessions));
            let line = Breaker::to(&address);
            let mut person = connect(&line, arguments);
            person.sees("$ ");
            if sessions == "0" {
                person.send("\r~d");
                person.sees("cannot detach");
            }
            line.breaks(true);
            assert_eq!(person.status(), 254);
            let shown = person.shown();
            assert!(shown.contains(" lost: ") && !shown.contains("reconnecting"), "{shown:?}");
            if sessions == "0" {
                instance.wait_for_end_of("bash");
            }
        }
    });
}
