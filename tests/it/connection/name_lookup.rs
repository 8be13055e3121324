//! A directory service that does not answer delays nobody.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::audit::lines::wait_for;
use crate::harness::users::{can_be_others, connecting_as};
use crate::harness::{Setup, Wire, in_process};

/// A name service that hangs for a process that asks as the plugin does: the
/// server's own look-ups at its start are answered.
const HANGS: &str = "#include <unistd.h>
int getpwuid_r() { for (;;) pause(); }
";

#[test]
fn a_hung_directory_service_delays_nobody() {
    if !can_be_others() {
        return;
    }
    const ONE: u32 = 48_001;
    in_process(|flavor| {
        let setup = Setup::new(flavor)
            .file("hangs.c", HANGS)
            .option("forkpty-router2", "addr={dir}/s,chmod=666,audit=json")
            .option("forkptyrouter-stats", "{dir}/stats");
        let (source, library) = (setup.path("hangs.c"), setup.path("hangs.so"));
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-w", "-o", &library, &source]);
        assert!(compiler.status().expect("a compiler").success());
        let server = setup.env("LD_PRELOAD", &library).start();
        let path = server.path("s");
        let begin = Instant::now();
        for uid in ONE..ONE + 100 {
            let mut client = connecting_as(uid, || Wire::connect(&path));
            assert_eq!(client.shell("echo he''re"), "here\r\n");
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        let mut client = server.connect("s");
        assert_eq!(client.shell("echo he''re"), "here\r\n");
        let lines = wait_for(&server, "session-start", 101);
        let starts = crate::audit::lines::of(&lines, "session-start");
        assert!(starts[0]["peer"]["user"].is_null() && starts[0]["peer"]["uid"] == ONE);
        // Who is in the file has a name.
        assert_eq!(starts[100]["peer"]["user"], "root");
    });
}
