//! Connections that break, and are taken up again.

use super::SHELL;
use super::gateway::Gateway;
use super::person::Person;

#[test]
fn a_broken_connection_is_taken_up_again() {
    let gateway = Gateway::with_keys(SHELL);
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("$ ");
    for round in 1..4 {
        person.send(&format!("echo o''ne {round}\r"));
        person.sees(&format!("one {round}\n$ "));
        gateway.breaks(false);
        gateway.wait_for("it comes back", |told| told.attached && told.clients == round + 1);
        let told = gateway.told();
        assert_eq!(told.request, "ak3x9q2aa");
        // The secret that was given last, and no other.
        assert_eq!(told.secrets.len(), round + 1);
        assert_eq!(told.came_with.as_ref(), told.secrets.get(round - 1));
        assert_eq!((told.variable("fpty.steal"), told.variable("fpty.begin")), (None, None));
        person.send(&format!("echo th''ree {round}\r"));
        person.sees(&format!("three {round}\n$ "));
    }
    let shown = person.shown();
    assert_eq!(shown.matches(" lost: ").count(), 3, "{shown:?}");
    person.send("exit 7\r");
    assert_eq!(person.status(), 7);
}

#[test]
fn input_while_disconnected_is_dropped_and_the_size_is_kept() {
    let gateway = Gateway::with_keys(SHELL);
    let mut person = Person::begins(&gateway, &[], (24, 200));
    person.sees("$ ");
    gateway.breaks(true);
    person.sees("coming back (what is typed is dropped; ~. or Ctrl-C gives up)");
    person.send("echo ly''nx\r");
    person.settles();
    assert!(person.shown().contains('\x07'));
    person.resize((30, 100));
    gateway.hears_again();
    gateway.wait_for("it comes back", |told| told.attached && told.size == (30, 100));
    person.send("stty size\r");
    person.sees("30 100\n$ ");
    assert!(!person.all_lines().contains("lynx"));
    assert!(!gateway.told().input.contains("lynx"));
    person.send("~d");
    assert_eq!(person.status(), 0);
    // The word to come back with has the secret.
    let told = gateway.told();
    let hex: String = told.secrets[1].iter().map(|byte| format!("{byte:02x}")).collect();
    let word = format!("fpty -a k3x9q2aa+{hex} ");
    assert!(person.all_lines().replace('\n', "").contains(&word), "{word} {}", person.all_lines());
}

#[test]
fn a_person_can_give_up_reconnecting() {
    for (arguments, keys) in
        [(&[][..], "~."), (&[], "\x03"), (&[], "~d"), (&["-e", "none"], "\x03")]
    {
        let gateway = Gateway::with_keys(SHELL);
        let mut person = Person::begins(&gateway, arguments, (24, 200));
        person.sees("$ ");
        person.send("echo\r");
        gateway.breaks(true);
        person.sees("coming back");
        person.send("x\r");
        person.send(keys);
        assert_eq!(person.status(), 254, "{keys:?}");
        person.sees("lost, and not taken up again: given up (come back with: fpty -a k3x9q2aa+");
        assert!(!gateway.told().for_good);
    }
}

#[test]
fn the_end_of_a_program_while_disconnected_is_told() {
    let gateway =
        Gateway::with_keys("stty -echo; echo last; read x; sleep 0.3; echo words; exit 7");
    let mut person = Person::begins(&gateway, &[], (24, 80));
    person.sees("last");
    person.send("\r");
    gateway.wait_for("what was typed", |told| told.input == "\r");
    gateway.breaks(true);
    gateway.wait_for("its end", |told| told.output.ends_with(b"words\r\n"));
    gateway.hears_again();
    assert_eq!(person.status(), 7);
    person.sees("last\nwords\n");
}

#[test]
fn a_session_that_is_gone_is_one_line() {
    for (why, hint) in [("there is no such session", false), ("root is attached", true)] {
        let gateway = Gateway::with_keys(SHELL);
        let mut person = Person::begins(&gateway, &[], (24, 200));
        person.sees("$ ");
        gateway.turns_away(why);
        gateway.breaks(false);
        assert_eq!(person.status(), 254);
        person.sees(&format!("lost, and not taken up again: {why}"));
        assert_eq!(person.shown().contains("come back with"), hint);
        assert!(gateway.told().clients > 2, "a refusal is not believed at once");
    }
}

#[test]
fn no_reconnect_where_unwanted_or_impossible() {
    // A router that gives no keys; and who does not want it.
    for (keys, arguments) in [(false, &[][..]), (true, &["--no-reconnect"])] {
        let gateway = if keys { Gateway::with_keys(SHELL) } else { Gateway::new(SHELL, true) };
        let mut person = Person::begins(&gateway, arguments, (24, 80));
        person.sees("$ ");
        gateway.breaks(false);
        assert_eq!(person.status(), 254);
        let shown = person.shown();
        assert!(shown.contains(" lost: ") && !shown.contains("coming back"), "{shown:?}");
        assert_eq!(gateway.told().clients, 1);
    }
}
