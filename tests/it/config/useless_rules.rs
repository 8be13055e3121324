//! Rules that would protect nothing are refused at the start, and root is let in as the
//! documents say.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use crate::harness::users::{can_be_others, connecting_as};
use crate::harness::{Setup, Wire, on_every_server};

/// Gives a server what it is started with.
type Prepare<'a> = &'a dyn Fn(Setup) -> Setup;

/// The one line that ended the start.
#[track_caller]
fn refusal(setup: Setup) -> String {
    let ended = setup.run();
    assert!(!ended.status.success(), "{}", ended.log);
    let lines = ended.log.lines().filter(|line| line.starts_with("forkptyrouter: option "));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 1, "{}", ended.log);
    lines[0].to_owned()
}

#[test]
fn rules_that_protect_nothing_end_the_start() {
    on_every_server(|flavor| {
        let unix = |setup: Setup| {
            let path = setup.path("given");
            setup.inherit(UnixListener::bind(path).unwrap())
        };
        let tcp = |setup: Setup| setup.inherit(TcpListener::bind("127.0.0.1:0").unwrap());
        let none = |setup: Setup| setup;
        let cases: [(Prepare<'_>, &str, &str); 11] = [
            (&none, "addr=@fpty-rules,chmod=600", "chmod = 600"),
            (&none, "addr=\\\\0fpty-rules,chown=root", "chown = root"),
            (&none, "addr=127.0.0.1:0,chmod=600", "chmod = 600"),
            (&unix, "addr=fd://900,chmod=600", "chmod = 600"),
            (&tcp, "addr=fd://900,chown=root:root", "chown = root:root"),
            (&none, "addr==0,chmod=600", "chmod = 600"),
            (&unix, "addr=fd://900,allow_addr=127.0.0.1", "allow_addr = 127.0.0.1"),
            (&tcp, "addr=fd://900,allow_user=root", "allow_user = root"),
            (&tcp, "addr=fd://900,root=deny", "root = deny"),
            (&none, "addr=@fpty-rules,deny_addr=::1", "deny_addr = ::1"),
            (&none, "addr=127.0.0.1:0,root=deny", "root = deny"),
        ];
        for (prepare, rules, part) in cases {
            let setup = prepare(Setup::new(flavor)).option("forkpty-urouter2", rules);
            let line = refusal(setup);
            let wanted = format!("option forkpty-urouter2: {part}: ");
            assert!(line.contains(&wanted), "{rules}: {line}");
        }
        // All sockets are abstract there.
        let setup = Setup::new(flavor)
            .switch("abstract-socket")
            .option("forkpty-urouter2", "addr=fpty-rules,chmod=600");
        assert!(refusal(setup).contains("chmod = 600: an abstract socket"));
        // What means something still does.
        Setup::new(flavor).option("forkpty-urouter2", "addr={dir}/u,chmod=600,chown=0:0").start();
        let setup = unix(Setup::new(flavor));
        setup.option("forkpty-urouter2", "addr=fd://900,allow_user=root").start();
    });
}

#[test]
fn root_is_allowed_where_a_rule_names_root() {
    if !can_be_others() {
        return;
    }
    const ONE: u32 = 48_001;
    on_every_server(|flavor| {
        for (rules, root, other) in [
            ("root=allow", true, true),
            ("root=deny", false, true),
            ("root=deny,allow_user=48001", false, true),
            ("root=deny,allow_user=48001;root", true, true),
            ("root=deny,allow_group=0", true, false),
            ("root=deny,allow_user=0,deny_group=0", false, false),
            ("allow_user=48001", true, true),
        ] {
            let rules = format!("addr={{dir}}/s,chmod=666,{rules}");
            let server =
                Setup::new(flavor).script("echo here").option("forkpty-router2", &rules).start();
            let path = server.path("s");
            let may = |uid| connecting_as(uid, || Wire::connect(&path)).text_to_end();
            assert_eq!(may(0).contains("here"), root, "root: {rules}");
            assert_eq!(may(ONE).contains("here"), other, "{rules}");
        }
    });
}
