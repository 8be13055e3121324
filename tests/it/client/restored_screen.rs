//! The screen after a reattach is that of a session that was never left: of shells,
//! editors, pagers, tmux, curses, and of output of all kinds.

use crate::harness::detachable::{Detachable, SHELL};
use crate::harness::person::assert_same;
use crate::harness::{in_process, side_by_side};

fn is_there(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()));
    if !found {
        eprintln!("skipped: no {program} here");
    }
    found
}

/// A size that a session is left in, one that it is found in, and whether the
/// gateway hands the terminal over.
type Sizes = ((u16, u16), (u16, u16), bool);

const SAME: [Sizes; 2] = [((24, 80), (24, 80), true), ((24, 80), (24, 80), false)];

/// For programs that draw anew when the size changes.
const ANY: [Sizes; 4] =
    [SAME[0], SAME[1], ((24, 80), (30, 100), true), ((40, 120), (20, 70), true)];

/// Input that a person types, and the text that is then on the screen.
type Steps<'a> = &'a [(&'a str, &'a str)];

/// The screen of a program that was left in the midst, as by a lid that
/// closes, and of one that never was.
#[track_caller]
fn looks_the_same(sizes: &[Sizes], script: &str, before: Steps, after: Steps) {
    in_process(|flavor| {
        side_by_side(sizes, |&(left_in, found_in, hands_over)| {
            let screens = |leaves: bool| {
                let instance = Detachable::of(flavor, script, hands_over);
                let mut person = instance.connect(&[], left_in);
                for (keys, seen) in before {
                    person.send(keys);
                    person.sees(seen);
                }
                person.settles();
                if leaves {
                    instance.lose(person);
                    person = instance.attach(&[], found_in);
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
                let sizes = format!("{left_in:?} {found_in:?} hands over {hands_over}");
                assert_same(found, wanted, &format!("{script}: {sizes}, step {step}"));
            }
        });
    });
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
