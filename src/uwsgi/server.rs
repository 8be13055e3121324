//! Facts about the running server.

use std::ffi::{CStr, CString};
use std::ptr::addr_of;

use super::abi::BUILT_FOR;
use crate::ffi;

/// The server's version; the one we were built for, or we would not be loaded.
pub fn version() -> &'static str {
    BUILT_FOR.version
}

/// Whether statistics are asked for with HTTP (`stats-http`).
pub fn stats_http() -> bool {
    // SAFETY: a plain int that is set while options are read and only read
    // afterwards; abi::check proved its place.
    unsafe { addr_of!(ffi::uwsgi.stats_http).read() != 0 }
}

/// Whether there is a master process.
pub fn has_master() -> bool {
    // SAFETY: as in stats_http.
    unsafe { addr_of!(ffi::uwsgi.master_process).read() != 0 }
}

/// The shell for commands with a blank (`binsh`, else /bin/sh).
pub fn shell() -> CString {
    // SAFETY: returns a NUL-terminated string that is never freed.
    let shell = unsafe { ffi::uwsgi_binsh() };
    if shell.is_null() {
        return c"/bin/sh".to_owned();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(shell) }.to_owned()
}

/// Ends the process as the server itself does: its exit handlers run.
pub fn exit(status: i32) -> ! {
    // SAFETY: we are on the main thread of a process that is starting or
    // that does nothing else; no lock of ours is held.
    unsafe { libc::exit(status) }
}

/// Lets the master restore the settings of the terminal on standard input
/// when it ends, whoever changes them meanwhile.
pub fn restore_terminal_at_end() {
    // SAFETY: a termios and a flag of the server's, which only its end reads;
    // tcgetattr(3) fills the termios, whose C layout both sides share.
    unsafe {
        let server = std::ptr::addr_of_mut!(ffi::uwsgi);
        let settings = std::ptr::addr_of_mut!((*server).termios);
        if libc::tcgetattr(0, settings.cast()) == 0 {
            (*server).restore_tc = 1;
        }
    }
}
