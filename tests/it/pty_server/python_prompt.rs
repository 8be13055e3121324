//! Use of the shared terminal in uWSGI's documentation: a Python prompt in a running
//! worker.

use nix::sys::signal::Signal;

use crate::harness::process;
use crate::harness::pty_server::{join, request, shared, start, worker};
use crate::harness::{Flavor, Server, Setup, Wire, on_every_server, wait_until};

/// The documentation's application, without uwsgidecorators, which not every
/// server comes with; and what it answers.
const APPLICATION: &str = r#"
import code, os, sys, threading, uwsgi

answers = 0

def application(env, start_response):
    global answers
    answers += 1
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [('answer %d of %d\n' % (answers, os.getpid())).encode()]

def prompt():
    sys.ps1 = '>>> '
    code.interact(banner='prompt of %d' % os.getpid(), local={'app': sys.modules[__name__]})

uwsgi.post_fork_hook = lambda: threading.Thread(target=prompt, daemon=True).start()
"#;

/// A server with Python, where this one has it.
fn python(flavor: &Flavor) -> Option<Setup> {
    let has_python = std::process::Command::new(&flavor.binary)
        .args(["--python-version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_python {
        eprintln!("skipped: {} has no Python", flavor.name);
        return None;
    }
    let setup = shared(flavor)
        .file("application.py", APPLICATION)
        .switch("enable-threads")
        .option("wsgi-file", "{dir}/application.py");
    Some(setup)
}

/// Evaluates an expression at the prompt.
#[track_caller]
fn evaluate(client: &mut Wire, expression: &str) -> String {
    client.send(format!("print('va' + 'lue <%s>' % ({expression}))\n"));
    client.read_until("value <");
    let value = client.read_until(">");
    client.read_until(">>> ");
    value.trim_end_matches('>').to_owned()
}

#[track_caller]
fn prompt(server: &Server) -> (Wire, i32) {
    let mut client = join(server);
    client.read_until("prompt of ");
    let pid = client.read_until("\n").trim().parse().expect("a pid");
    client.read_until(">>> ");
    (client, pid)
}

#[test]
fn a_prompt_runs_in_the_worker() {
    on_every_server(|flavor| {
        let Some(setup) = python(flavor) else { return };
        let server = start(setup);
        let mut pid = worker(&server);
        for _ in 0..3 {
            let (mut client, said) = prompt(&server);
            assert_eq!(said, pid);
            assert_eq!(evaluate(&mut client, "__import__('os').getpid()"), pid.to_string());
            // While it waits for an expression, requests are answered, and
            // it sees what they do.
            assert_eq!(evaluate(&mut client, "app.answers"), "0");
            for number in 1..=5 {
                let answer = request(&server, "/");
                assert!(answer.ends_with(&format!("answer {number} of {pid}\n")), "{answer:?}");
            }
            assert_eq!(evaluate(&mut client, "app.answers"), "5");
            // What the prompt changes, the application sees.
            client.send("app.answers = 41\n");
            client.read_until(">>> ");
            let answer = request(&server, "/");
            assert!(answer.contains("answer 42 of"), "{answer:?}");
            // Another one joins at the same prompt.
            let (mut second, _) = prompt(&server);
            second.send("print('for' + ' both')\n");
            for client in [&mut client, &mut second] {
                client.read_until("for both");
            }
            request(&server, "/");

            process::signal(pid, Signal::SIGKILL);
            client.read_to_end();
            wait_until("there is a new worker", || worker(&server) != pid);
            pid = worker(&server);
        }
    });
}

/// Children that the application forks, as servers are, live on after the worker, and
/// have neither its clients nor its terminal.
#[test]
fn a_forked_child_keeps_no_client() {
    on_every_server(|flavor| {
        let Some(setup) = python(flavor) else { return };
        let server = start(setup);
        let (mut client, pid) = prompt(&server);
        let fork = "os.fork() or (os.setsid(), os.fork() and os._exit(0), \
                    print('ch' + 'ild', os.getpid()), __import__('time').sleep(1000))";
        client.send(format!("import os; _ = {fork}\n"));
        client.read_until("child ");
        let child: i32 = client.read_until("\n").trim().parse().expect("a pid");
        let (mut second, _) = prompt(&server);
        process::signal(pid, Signal::SIGKILL);
        client.read_to_end();
        second.read_to_end();
        wait_until("there is a new worker", || worker(&server) != pid);
        let (mut third, new) = prompt(&server);
        assert_eq!(evaluate(&mut third, "__import__('os').getpid()"), new.to_string());
        assert!(process::Process::of(child).is_some_and(|child| !child.is_zombie()));
    });
}

/// An expression that is piped in gets its value, however long it takes, and
/// the prompt stays.
#[test]
fn a_piped_expression_gets_its_value() {
    on_every_server(|flavor| {
        let Some(setup) = python(flavor) else { return };
        let server = start(setup);
        let (mut client, _) = prompt(&server);
        let (mut pipe, _) = prompt(&server);
        pipe.send("__import__('time').sleep(1); print('la' + 'ter')\n");
        pipe.end_of_input();
        assert!(pipe.text_to_end().contains("later\r\n"));
        assert_eq!(evaluate(&mut client, "6 * 7"), "42");
    });
}

/// The prompt is at rest while nobody types.
#[test]
fn an_idle_prompt_costs_no_processor() {
    on_every_server(|flavor| {
        let Some(setup) = python(flavor) else { return };
        let server = start(setup);
        let (client, pid) = prompt(&server);
        let ticks = || process::Process::of(pid).unwrap().ticks;
        // The interpreter may look up now and then; it must not run.
        let before = ticks();
        assert!(client.is_silent_for(std::time::Duration::from_secs(1)));
        assert!(ticks() - before <= 2, "{} ticks in a second", ticks() - before);
    });
}
