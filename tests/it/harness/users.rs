//! Clients of several users, by numbers that nobody has to have a name for.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::{Server, executable, servers};

/// Whether there can be clients of other users: only root becomes another user.
pub fn can_be_others() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can be somebody else");
    }
    is_root
}

/// `fpty` as another user, with these groups, the first of them its own. What
/// is in the way to the usual place may be closed to it.
pub fn fpty_as(server: &Server, uid: u32, groups: &[u32], arguments: &[&str]) -> Command {
    let path = server.path("fpty");
    if !Path::new(&path).exists() {
        executable::write(&path, std::fs::read(servers::fpty()).expect("fpty"));
    }
    let mut fpty = Command::new(path);
    fpty.env_clear().env("TERM", "xterm-test").args(arguments);
    as_user(&mut fpty, uid, groups);
    fpty
}

/// Has a command run as another user.
pub fn as_user(command: &mut Command, uid: u32, groups: &[u32]) {
    let groups = groups.to_vec();
    // SAFETY: system calls with numbers, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            let gid = groups.first().copied().unwrap_or(uid);
            let set = libc::setgroups(groups.len(), groups.as_ptr()) == 0
                && libc::setresgid(gid, gid, gid) == 0
                && libc::setresuid(uid, uid, uid) == 0;
            if set { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}

/// Does something in a thread that is another user: a connection that is made
/// there is that user's.
///
/// # Panics
/// It cannot be another user.
pub fn connecting_as<T: Send>(uid: u32, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: system calls with numbers. Without the C library they are
            // about this thread alone (nptl(7)).
            let done = unsafe {
                libc::syscall(libc::SYS_setresgid, uid, uid, uid) == 0
                    && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
            };
            assert!(done, "cannot be user {uid}");
            body()
        });
        thread.join().expect("a thread")
    })
}
