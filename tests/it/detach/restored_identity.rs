//! Identity of a detached session at the next gateway: the user for whom it counts, and
//! the socket at which it began. Servers do not differ in that: one is enough.

use std::process::Command;

use crate::harness::Setup;
use crate::harness::attach_client::AttachClient;
use crate::harness::person::Person;
use crate::harness::ports::free_address;
use crate::harness::servers::{self, all};

/// Over TCP by its address, as before.
#[test]
fn a_restored_session_counts_for_its_clients_address() {
    let address = free_address();
    let server = Setup::new(&all()[0])
        .option("forkptyrouter-detach", "9")
        .option("forkptyrouter-max-user-sessions", "1")
        .option("forkpty-urouter", &address)
        .start();
    let begins = |arguments: &[&str]| {
        let mut fpty = Command::new(servers::fpty());
        fpty.args(arguments).arg(&address);
        Person::runs(fpty, (24, 200))
    };
    let mut first = begins(&["-A", "job"]);
    first.sees("$ ");
    first.send("\r~d");
    assert_eq!(first.status(), 0);
    let shown = first.shown();
    let (_, word) = shown.rsplit_once("fpty -a ").expect("a way back");
    let word = word.split(' ').next().expect("a word");
    for way in ["nothing", "kill", "reload", "kill"] {
        if way != "nothing" {
            server.replace_gateway(way);
        }
        let mut second = begins(&[]);
        assert_eq!(second.status(), 255, "{way}: {}", second.shown());
        assert!(second.shown().contains("max-user-sessions"), "{way}: {}", second.shown());
    }
    let mut back = begins(&["-a", word]);
    back.sees("$ ");
    back.send("exit 3\r");
    assert_eq!(back.status(), 3);
    let mut next = begins(&[]);
    next.sees("$ ");
    next.send("exit 4\r");
    assert_eq!(next.status(), 4);
}

/// A path that is bound twice is the second one's.
#[test]
fn a_restored_session_belongs_to_the_socket_where_it_began() {
    let server = Setup::new(&all()[0])
        .option("forkptyrouter-detach", "9")
        .option("forkpty-urouter", "{dir}/u")
        .uwsgi();
    let mut left = AttachClient::begins(&server, &[("fpty.name", "job")]).takes();
    left.terminal().send("MARK=here\n");
    left.leaves();
    for way in ["kill", "reload"] {
        server.replace_gateway(way);
        let mut back = AttachClient::comes(&server, "job", &[]).takes();
        back.terminal().send("echo =$MARK=\n");
        back.terminal().read_until("=here=\r\n");
        back.leaves();
    }
}
