//! Sessions that are detached and attached again: the command on a terminal of its
//! own, against a gateway of one session that the test itself is.
//!
//! | file | subject |
//! | --- | --- |
//! | `main.rs` | detach and attach: the screen is as before |
//! | `reconnect.rs` | connections that break |
//! | `gateway.rs` | the gateway of one session |
//! | `person.rs` | a person at a terminal, and what the terminal shows |

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod gateway;
// The tests with real servers have the same person, who does other things there.
#[allow(dead_code)]
mod person;
mod reconnect;

use std::time::Duration;

use gateway::Gateway;
use person::Person;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// How a shell is started that says nothing of this machine.
const SHELL: &str = "PS1='$ ' exec bash --norc --noprofile -i";

fn is_there(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()));
    if !found {
        eprintln!("skipped: no {program} here");
    }
    found
}

/// Leaves, and comes back in a terminal of this size.
#[track_caller]
fn left_and_found(gateway: &Gateway, mut person: Person, size: (u16, u16)) -> Person {
    person.send("~d");
    assert_eq!(person.status(), 0);
    person.sees("(come back with: fpty -a k3x9q2aa ");
    Person::attaches(gateway, &[], size)
}

#[test]
fn a_person_detaches_and_attaches_again() {
    let gateway = Gateway::of(SHELL);
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("$ ");
    person.send("echo one; echo t''wo\r");
    person.sees("two\n$ ");
    person.send("~?");
    person.sees(" ~d   detach");
    let mut back = left_and_found(&gateway, person, (24, 80));
    back.sees("two\n$ ");
    back.send("echo th''ree\r");
    back.sees("three\n$ ");
    back.send("exit 7\r");
    assert_eq!(back.status(), 7);
}

#[test]
fn tilde_dot_ends_the_session_for_good() {
    let gateway = Gateway::of(SHELL);
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("$ ");
    person.send("~.");
    assert_eq!(person.status(), 0);
    gateway.wait_for("the end for good", |told| told.for_good);
}

#[test]
fn the_end_of_a_program_while_detached_is_told() {
    for relays in [false, true] {
        let gateway =
            Gateway::new("stty -echo; echo last; read x; sleep 0.2; echo words; exit 7", relays);
        let mut person = Person::begins(&gateway, &[], (24, 80));
        person.sees("last");
        person.send("\r~d");
        assert_eq!(person.status(), 0);
        gateway.wait_for("its end", |told| told.output.ends_with(b"words\r\n"));
        let mut back = Person::attaches(&gateway, &[], (24, 80));
        assert_eq!(back.status(), 7);
        back.sees("last\nwords\n");
    }
}

#[test]
fn detach_and_attach_requests_have_their_variables() {
    let gateway = Gateway::of(SHELL);
    let mut person = Person::begins(&gateway, &["-n", "build-1"], (24, 80));
    person.sees("$ ");
    let told = gateway.told();
    assert_eq!(told.variable("fpty.detach"), Some("1"));
    assert_eq!(told.variable("fpty.name"), Some("build-1"));
    assert_eq!(told.request, "");
    drop(person);
    gateway.wait_for("the client is lost", |told| !told.attached);
    let mut person = Person::run(&gateway, &["-A", "build-1", "--steal"], (24, 80));
    person.sees("$ ");
    let told = gateway.told();
    assert_eq!(told.request, "abuild-1");
    assert_eq!(told.variable("fpty.name"), Some("build-1"));
    assert_eq!(told.variable("fpty.begin"), Some("1"));
    assert_eq!(told.variable("fpty.steal"), Some("1"));
}

/// A size that a session is left in, one that it is found in, and whether the
/// gateway relays.
type Sizes = ((u16, u16), (u16, u16), bool);

const SAME: [Sizes; 2] = [((24, 80), (24, 80), false), ((24, 80), (24, 80), true)];

/// For programs that draw anew when the size changes.
const ANY: [Sizes; 4] =
    [SAME[0], SAME[1], ((24, 80), (30, 100), false), ((40, 120), (20, 70), false)];

/// What a person types, and then sees.
type Steps<'a> = &'a [(&'a str, &'a str)];

/// The screen of a program that was left in the midst, as by a lid that
/// closes, and of one that never was.
#[track_caller]
fn looks_the_same(sizes: &[Sizes], command: &str, before: Steps, after: Steps) {
    for (left_in, found_in, relays) in sizes.iter().copied() {
        let screens = |leaves: bool| {
            let gateway = Gateway::new(command, relays);
            let mut person = Person::begins(&gateway, &[], left_in);
            for (keys, seen) in before {
                person.send(keys);
                person.sees(seen);
            }
            person.settles();
            if leaves {
                drop(person);
                gateway.wait_for("the client is lost", |told| !told.attached);
                person = Person::attaches(&gateway, &[], found_in);
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
            let what = format!("{command}: {left_in:?} {found_in:?} relays {relays}, step {step}");
            person::assert_same(found, wanted, &what);
        }
    }
}

#[test]
fn a_shells_half_typed_line_is_restored() {
    looks_the_same(
        &ANY,
        SHELL,
        &[("", "$ "), ("echo one\r", "one\n$ "), ("echo half-ty", "half-ty")],
        &[("ped\r", "half-typed\n$ "), ("\x1b[A", "echo half-typed")],
    );
}

#[test]
fn the_screen_of_vim_is_restored() {
    if is_there("vim") {
        looks_the_same(
            &ANY,
            "seq -f 'line %g of it' 200 > $T; exec vim -u NONE -N -n -i NONE --cmd 'set ruler number' $T",
            &[("", "line 1 of it"), ("50G", "line 50 of it"), ("vjj", "VISUAL")],
            &[
                ("\x1b", "line 50"),
                ("iw\u{e9}\u{4e16}x\x1b", "w\u{e9}\u{4e16}x"),
                (":set nonumber\r", "line 50"),
            ],
        );
    }
}

#[test]
fn the_screen_of_less_is_restored() {
    if is_there("less") {
        looks_the_same(
            &ANY,
            "seq -f 'line %g' 2000 | exec less -R",
            &[("", "line 1\n"), ("100g", "line 100\n"), ("/7\r", "line 107")],
            &[("n", "line 117"), ("G", "line 2000")],
        );
    }
}

#[test]
fn the_screen_of_tmux_is_restored() {
    if is_there("tmux") {
        let shell = format!("\"{SHELL}\"");
        let options = [
            "set status-right ''",
            "set destroy-unattached on",
            "setw automatic-rename off",
            "rename-window w",
            &format!("set default-command {shell}"),
        ];
        let options = options.join(" \\; ");
        looks_the_same(
            &ANY,
            &format!("exec tmux -S $T -f /dev/null new-session {shell} \\; {options}"),
            &[("", "$ "), ("seq 100\r", "100\n$ "), ("\x02%", "\u{2502}$ ")],
            &[("echo o''ne\r", "\u{2502}one")],
        );
    }
}

#[test]
fn the_screen_of_a_curses_program_is_restored() {
    if is_there("python3") {
        looks_the_same(
            &ANY,
            r#"exec python3 -c '
import curses
def main(screen):
    curses.mousemask(-1)
    curses.start_color()
    curses.init_pair(1, curses.COLOR_RED, curses.COLOR_BLUE)
    while True:
        rows, cols = screen.getmaxyx()
        screen.erase(); screen.box(); screen.addstr(rows // 2, 5, f"{rows} x {cols}", curses.color_pair(1) | curses.A_BOLD)
        screen.refresh()
        if screen.getch() == ord("q"): break
curses.wrapper(main)'"#,
            &[("", " x ")],
            &[("x", " x ")],
        );
    }
}

#[test]
fn wide_and_combining_characters_are_restored() {
    let text = "e\u{301}a\u{302}\u{4e16}\u{754c}\u{ff21}";
    looks_the_same(
        &SAME,
        &format!(
            "stty -echo; printf '%s ' {text} {text} {text}; read x; printf '%s' {text}; read x"
        ),
        &[("", "\u{ff21} e\u{301}")],
        &[("\r", "\u{ff21} e\u{301}")],
    );
}

#[test]
fn drawing_characters_and_modes_are_restored() {
    looks_the_same(
        &SAME,
        r"stty -echo; printf '\033[1;4;31mred\033[0;44m blue\033[K\r\n\033[3;9r\033[?25l\033[?2004h\033[5;5Hhere\033[32m'; read x; printf 'green\r\n\n\n\n\n\nend'; read x",
        &[("", "here")],
        &[("\r", "end")],
    );
}

#[test]
fn a_screen_is_restored_after_half_a_sequence() {
    for (begun, rest) in [
        (r"x\033[3", r"1mred"),
        (r"x\033", r"[1mbold"),
        (r"x\344\270", r"\226 wide"),
        (r"x\033]2;a tit", r"le\007y"),
        (r"x\033[?104", r"9hother screen"),
    ] {
        let command = format!("stty -echo; printf '{begun}'; read x; printf '{rest}'; read x");
        looks_the_same(&SAME, &command, &[("", "x")], &[("\r", "")]);
    }
}

#[test]
fn a_flood_while_detached_is_restored() {
    let command = "stty -echo; read x; seq 200000; echo e''nd; read x";
    let gateway = Gateway::of(command);
    let mut person = Person::begins(&gateway, &[], (24, 80));
    gateway.wait_for("the client has the terminal", |told| told.attached);
    person.send("\r");
    person.sees_any();
    drop(person);
    gateway.wait_for("the client is lost", |told| !told.attached);
    gateway.wait_for("the program is not held up", |told| told.output.ends_with(b"end\r\n"));
    let mut back = Person::attaches(&gateway, &[], (24, 80));
    back.sees("199999\n200000\nend\n");
    back.scrolls_at_least(1000);
}

#[test]
fn detach_in_a_flood_works() {
    let command = "stty -echo; seq 100000 999999 & read x; echo e''nd; read x";
    for relays in [false, true] {
        let gateway = Gateway::new(command, relays);
        let mut person = Person::begins(&gateway, &[], (24, 80));
        person.sees_any();
        person.send("~d");
        assert_eq!(person.status(), 0);
        person.sees("fpty: detached: k3x9q2aa");
        gateway.wait_for("it goes on", |told| told.output.ends_with(b"999999\r\n"));
    }
}

#[test]
fn a_client_killed_in_a_flood_loses_and_repeats_nothing() {
    let command = "stty -echo; seq 100000 999999 & read x; echo e''nd; read x";
    for round in 1..20 {
        let gateway = Gateway::of(command);
        let mut person = Person::begins(&gateway, &[], (24, 80));
        person.sees_any();
        std::thread::sleep(Duration::from_millis(7 * round));
        drop(person);
        gateway.wait_for("the client is lost", |told| !told.attached);
        // What the ring has is numbers, each one more than the one before.
        gateway.wait_for("it goes on", |told| told.output.len() > 100_000);
        let output = gateway.ring();
        let text = String::from_utf8(output).unwrap();
        let numbers: Vec<u32> = text
            .split("\r\n")
            .filter(|word| word.len() == 6)
            .map(|word| word.parse().unwrap())
            .collect();
        assert!(numbers.len() > 1000);
        for pair in numbers.windows(2) {
            assert_eq!(pair[0] + 1, pair[1], "round {round}");
        }
    }
}

#[test]
fn a_client_killed_in_a_paste_ends_the_paste() {
    let gateway = Gateway::of(SHELL);
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("$ ");
    person.send("\x1b[200~echo pasted");
    gateway.sees_a_paste();
    person.settles();
    drop(person);
    gateway.wait_for("the client is lost", |told| !told.attached);
    let mut back = Person::attaches(&gateway, &[], (24, 80));
    back.sees("$ echo pasted");
    back.send(" and typed\r");
    back.sees("\npasted and typed\n$ ");
}

#[test]
fn attaches_in_many_sizes_restore_the_screen() {
    let gateway = Gateway::of(SHELL);
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("$ ");
    for round in 0..30 {
        drop(person);
        gateway.wait_for("the client is lost", |told| !told.attached);
        person = Person::attaches(&gateway, &[], (10 + round * 7 % 40, 40 + round * 11 % 90));
        person.sees("$ ");
        person.send(&format!("echo ro''und {round}\r"));
        person.sees(&format!("\nround {round}\n$ "));
    }
    person.send("stty size\r");
    person.sees(&format!("{} {}\n$ ", 10 + 29 * 7 % 40, 40 + 29 * 11 % 90));
}

#[test]
fn a_corrupted_scrollback_does_no_harm() {
    for seed in 0..40 {
        let gateway = Gateway::of(SHELL);
        let mut person = Person::begins(&gateway, &[], (24, 80));
        person.sees("$ ");
        drop(person);
        gateway.wait_for("the client is lost", |told| !told.attached);
        gateway.spoil(seed);
        let mut back = Person::attaches(&gateway, &[], (24, 80));
        gateway.wait_for("the client has the terminal", |told| told.attached);
        // Whatever there is on the screen.
        back.send("\x15printf '\\033c'\recho he''re\r");
        back.sees("here\n$ ");
        let shown = back.shown();
        for question in ["\x1b[c", "\x1b[6n", "]52;"] {
            assert!(!shown.contains(question), "{seed} {question:?}: {shown:?}");
        }
        back.send("~d");
        assert_eq!(back.status(), 0, "{seed}");
    }
}

#[test]
fn modes_that_are_on_are_set_and_reset_on_the_terminal() {
    let gateway = Gateway::of(
        r"stty -echo; printf '\033[?1049h\033[?1000;1006h\033[?2004h\033[?1h\033=\033[?25l\033[3;9r\033[5 qhere'; read x",
    );
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("here");
    person.send("\r~d");
    assert_eq!(person.status(), 0);
    let shown = person.shown();
    let undone = &shown[shown.find("here").unwrap() + 4..];
    for gone in
        ["?1049l", "?1000l", "?1006l", "?2004l", "?1l", "\x1b>", "?25h", "\x1b[r", "\x1b[0 q"]
    {
        assert!(undone.contains(gone), "{gone}: {undone:?}");
    }
    assert!(
        undone.contains("?1049lfpty: detached") || undone.contains("?1049l\r\nfpty: detached"),
        "{undone:?}"
    );
    // And nothing that is not.
    let gateway = Gateway::of("stty -echo; echo here; read x");
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("here");
    person.send("\r~d");
    assert_eq!(person.status(), 0);
    let shown = person.shown();
    assert!(!shown.contains('\x1b'), "{shown:?}");
}

#[test]
fn old_terminal_queries_are_not_repeated() {
    let gateway = Gateway::of(
        r"stty -echo; printf '\033[c\033[6n\033]11;?\007\033]52;c;aGk=\007\033[?2026$pasked'; read x",
    );
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("asked");
    drop(person);
    gateway.wait_for("the client is lost", |told| !told.attached);
    let mut back = Person::attaches(&gateway, &[], (24, 80));
    back.sees("asked");
    let shown = back.shown();
    for question in ["\x1b[c", "[6n", "]11", "]52", "$p"] {
        assert!(!shown.contains(question), "{question:?}: {shown:?}");
    }
}

#[test]
fn a_viewer_sees_and_cannot_type() {
    let gateway = Gateway::new(SHELL, true);
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("$ ");
    drop(person);
    gateway.wait_for("the client is lost", |told| !told.attached);
    let mut watcher = Person::attaches(&gateway, &["--read-only"], (10, 40));
    watcher.sees("$ ");
    watcher.send("echo no\r");
    watcher.resize((12, 50));
    watcher.send("~d");
    assert_eq!(watcher.status(), 0);
    watcher.sees("left ");
    let told = gateway.told();
    assert_eq!(told.variable("fpty.readonly"), Some("1"));
    assert_eq!((told.input.as_str(), told.size), ("", (0, 0)), "nothing is said");
}

#[test]
fn a_router_without_detach_says_so() {
    let gateway = Gateway::of(SHELL);
    gateway.refuses("cannot detach: there are 3 already");
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("$ ");
    person.send("~d");
    person.sees("fpty: cannot detach: there are 3 already");
    person.send("\recho st''ill\r");
    person.sees("still\n$ ");
    gateway.says_nothing();
    person.send("~d");
    person.sees("cannot detach: the server does not answer");
    person.send("\recho st''ill here\r");
    person.sees("still here\n$ ");
}

/// The terminal is on its way to the client; what was typed waits for that.
#[test]
fn input_typed_before_a_detach_arrives() {
    let gateway = Gateway::of("read x; echo \"got $x\"; exec sleep 60");
    gateway.keeps_waiting(true);
    let mut person = Person::begins(&gateway, &[], (24, 80));
    gateway.wait_for("the terminal was taken", |told| told.waits);
    person.send("it\r~d");
    person.settles();
    gateway.keeps_waiting(false);
    assert_eq!(person.status(), 0);
    gateway.wait_for("it was read", |told| told.output.ends_with(b"got it\r\n"));
}

#[test]
fn a_client_whose_session_is_stolen_says_so() {
    let gateway = Gateway::of(SHELL);
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("$ ");
    gateway.takes_away("taken over by uid 0");
    assert_eq!(person.status(), 254);
    person.sees("fpty: taken over by uid 0");
}
