//! Variables of a client, for the environment of a program that may be another user's: no
//! files of its choice, and not who that user is.

use crate::connection::extended_mode::{open, to_the_end};
use crate::harness::{Setup, on_every_server};

#[test]
fn client_variables_name_no_files() {
    on_every_server(|flavor| {
        let server = Setup::new(flavor)
            .script("env | grep -E '^(TZ|L|TERM|HOME|MINE)' | sort; echo end")
            .option("forkptyrouter-accept-env", "* LANG TZ")
            .env("HOME", "/servers/home")
            .uwsgi();
        let shown = |variables: &[(&str, &str)]| {
            let mut client = server.connect("u");
            open(&client, variables);
            String::from_utf8(to_the_end(&mut client).output).unwrap()
        };
        let bad = shown(&[
            ("TZ", "/etc/passwd"),
            ("LANG", "../../tmp/x"),
            ("LANGUAGE", "/tmp"),
            ("LC_MESSAGES", "/tmp/x"),
            ("TERMINFO", "/tmp"),
            ("TERM", "../x"),
            ("HOME", "/tmp/mine"),
            ("MINE", "/any"),
        ]);
        for part in ["etc", "tmp", ".."] {
            assert!(!bad.contains(part), "{bad}");
        }
        assert!(bad.contains("HOME=/servers/home\r\n") && bad.contains("MINE=/any\r\n"), "{bad}");
        let good = shown(&[("TZ", "Europe/Berlin"), ("LANG", "C.UTF-8"), ("TERM", "foot")]);
        for line in ["TZ=Europe/Berlin\r\n", "LANG=C.UTF-8\r\n", "TERM=foot\r\n"] {
            assert!(good.contains(line), "{good}");
        }
    });
}

#[test]
fn a_program_of_another_user_has_that_users_environment() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    on_every_server(|flavor| {
        let rules = "addr={dir}/u,uid=nobody,accept_env=*;HOME;USER;LOGNAME;SHELL;PATH;EXTRA";
        let server = Setup::new(flavor)
            .script("echo \"<$HOME $USER $LOGNAME $EXTRA>\"")
            .option("forkpty-urouter2", rules)
            .start();
        let mut client = server.connect("u");
        let names = ["HOME", "USER", "LOGNAME", "SHELL", "PATH", "EXTRA"];
        let variables: Vec<(&str, &str)> = names.iter().map(|name| (*name, "/mine")).collect();
        open(&client, &variables);
        let said = String::from_utf8(to_the_end(&mut client).output).unwrap();
        assert!(said.contains(" nobody nobody /mine>"), "{said}");
        assert!(!said.contains("</mine"), "{said}");
    });
}
