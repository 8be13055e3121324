//! A bug in one session ends that session, and says so; the gateway and the
//! others go on. The library is built once more, with the feature that lets
//! a client make its session panic.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::measure::{Holdings, echoes, wait_until_as_before};
use crate::harness::servers::all;
use crate::harness::wire::input;
use crate::harness::{Flavor, Setup, Wire, wait_until};

/// Our library with faults for the server that this test was built for, and
/// that server.
fn with_faults() -> Option<Flavor> {
    let server = PathBuf::from(std::env::var_os("UWSGI")?).canonicalize().ok()?;
    let flavor = all().iter().find(|flavor| flavor.binary == server)?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("with-faults");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--lib", "--quiet", "--locked", "--features", "fault-injection"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(here)
        .env("UWSGI", &server)
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the library cannot be built");
    let plugins = target.join("plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    std::fs::copy(
        target.join("debug/libforkptyrouter.so"),
        plugins.join("forkptyrouter_plugin.so"),
    )
    .unwrap();
    Some(Flavor { name: flavor.name.clone(), binary: server, plugins })
}

/// Its build takes about a minute on two busy processors.
#[test]
#[ignore = "soak: builds the library once more"]
fn soak_a_panic_ends_one_session_alone() {
    let Some(flavor) = with_faults() else {
        return eprintln!("skipped: UWSGI names none of the servers");
    };
    let server = Setup::new(&flavor)
        .option("forkptyrouter-command", "/bin/sh")
        .option("forkpty-urouter", "{dir}/u")
        .raw();
    let gateway = server.gateway();
    server.idle_descriptors();
    let before = Holdings::of(gateway);
    let mut other: Wire = server.connect("s");
    other.send("stty raw -echo; exec cat\n");
    wait_until("cat runs", || server.programs().iter().any(|program| program.name == "cat"));
    for number in 1..=50 {
        let mut client = server.connect(if number % 2 == 0 { "s" } else { "u" });
        let fault = "forkpty-fault-panic";
        client.send(if number % 2 == 0 { fault.as_bytes().to_vec() } else { input(fault) });
        client.wait_for_end();
        wait_until("the log says so", || {
            server.count_in_log("internal error: injected fault") >= number
        });
    }
    echoes(&mut other, 20);
    drop(other);
    wait_until_as_before(gateway, before);
    assert_eq!(server.gateway(), gateway, "the same gateway");
    wait_until("its programs were hung up", || server.session_processes().is_empty());
}
