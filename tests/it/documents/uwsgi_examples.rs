//! The four configurations of uWSGI's documentation of the forkptyrouter, as
//! they stand in `examples/`: a jail of root's whose instance runs as
//! `kratos`. They name fixed paths below /tmp and need root.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::harness::{Flavor, Server, Setup, Wire, on_every_server_in_turn};

/// Held by a test that uses the fixed paths: one at a time.
static PATHS: Mutex<()> = Mutex::new(());

/// The paths, ours alone for a while, and empty again afterwards.
struct Paths(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Drop for Paths {
    fn drop(&mut self) {
        for path in ["/tmp/fpty.socket", "/tmp/raw.socket", "/tmp/uwsgi.socket"] {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Prepares the machine; `None` for somebody who is not root.
fn as_root() -> Option<Paths> {
    if !nix::unistd::getuid().is_root() {
        eprintln!("skipped: these configurations need root");
        return None;
    }
    let guard = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
    if nix::unistd::User::from_name("kratos").unwrap().is_none() {
        let made = Command::new("useradd").args(["-r", "kratos"]).status().unwrap();
        assert!(made.success(), "useradd -r kratos: {made}");
    }
    Some(Paths(guard))
}

fn start(flavor: &Flavor, example: &str) -> Server {
    let ini = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example);
    assert!(ini.is_file(), "{} is missing", ini.display());
    Setup::new(flavor).option("ini", &ini.display().to_string()).start()
}

/// In the jail, as its user.
#[track_caller]
fn check_raw(address: &str) {
    let mut client = Wire::connect(address);
    assert_eq!(client.shell("hostname"), "iaminajail\r\n");
    assert_eq!(client.shell("id -un; id -gn"), "kratos\r\nkratos\r\n");
}

#[track_caller]
fn check_uwsgi(address: &str) {
    let mut client = Wire::connect(address);
    client.resize(37, 73);
    client.input("echo \"<$(hostname) $(id -un) $(stty size)>\"\n");
    client.read_until("<iaminajail kratos 37 73>");
}

#[test]
fn a_jail_in_raw_mode() {
    let Some(_paths) = as_root() else { return };
    on_every_server_in_turn(|flavor| {
        let _server = start(flavor, "forkpty-router.ini");
        check_raw("/tmp/fpty.socket");
    });
}

#[test]
fn a_jail_in_uwsgi_mode() {
    let Some(_paths) = as_root() else { return };
    on_every_server_in_turn(|flavor| {
        let _server = start(flavor, "forkpty-urouter.ini");
        check_uwsgi("/tmp/fpty.socket");
    });
}

#[test]
fn a_jail_with_both() {
    let Some(_paths) = as_root() else { return };
    on_every_server_in_turn(|flavor| {
        let _server = start(flavor, "both.ini");
        check_raw("/tmp/raw.socket");
        check_uwsgi("/tmp/uwsgi.socket");
    });
}

/// The documentation has /bin/zsh, which not every machine has.
#[test]
fn a_jail_with_another_shell() {
    let Some(_paths) = as_root() else { return };
    on_every_server_in_turn(|flavor| {
        let server = start(flavor, "command.ini");
        check_raw("/tmp/raw.socket");
        check_uwsgi("/tmp/uwsgi.socket");
        let mut client = Wire::connect("/tmp/raw.socket");
        let shell = client.shell("readlink /proc/$$/exe");
        assert!(!shell.contains("dash"), "the command is another shell: {shell:?}");
        drop(server);
    });
}
