//! Files that are executed.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a file with mode 755. Another process does so: a program that any thread of
/// the tests starts would hold our descriptor until its own execve(2), and whoever
/// executes the file meanwhile would be told ETXTBSY.
///
/// # Panics
/// It cannot be written.
#[track_caller]
pub fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(path.as_ref())
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    let written = shell.stdin.take().expect("a pipe").write_all(content.as_ref());
    let status = shell.wait().expect("its end");
    let name = String::from_utf8_lossy(path.as_ref().as_os_str().as_bytes());
    assert!(status.success() && written.is_ok(), "{name}: {status}, {written:?}");
}
