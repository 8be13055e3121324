//! Facts about the running server.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::addr_of;

use once_cell::sync::OnceCell;

use super::abi::BUILT_FOR;
use crate::ffi;

/// The server's version; the one we were built for, or we would not be loaded.
pub fn version() -> &'static str {
    &BUILT_FOR.version
}

/// Whether statistics are asked for with HTTP (`stats-http`).
pub fn stats_http() -> bool {
    // SAFETY: a plain int that is set while options are read and only read
    // afterwards; abi::check proved its place.
    unsafe { addr_of!(ffi::uwsgi.stats_http).read() != 0 }
}

/// What the instance is called: its `procname`, or else the path of its
/// configuration, as it was given first. To be asked once before gateways are
/// forked.
pub fn instance() -> Option<String> {
    static INSTANCE: OnceCell<Option<String>> = OnceCell::new();
    INSTANCE.get_or_init(read_instance).clone()
}

unsafe extern "C" {
    /// Where the arguments begin that are no options (getopt(3)).
    static optind: c_int;
}

/// A configuration that was given without an option (`uwsgi x.ini`): the server
/// reads those that getopt_long(3) has left at the end of the arguments, and lists
/// only what they include.
fn positional_config() -> Option<String> {
    // SAFETY: a plain int of the C library's; the server's copy of its arguments,
    // of which there are as many as is said, NUL-terminated strings that stay.
    let arguments = unsafe {
        let (argv, argc) = (addr_of!(ffi::uwsgi.argv).read(), addr_of!(ffi::uwsgi.argc).read());
        let first = usize::try_from(addr_of!(optind).read()).unwrap_or(usize::MAX).max(1);
        let count = usize::try_from(argc).unwrap_or(0);
        if argv.is_null() || first >= count {
            return None;
        }
        std::slice::from_raw_parts(argv.add(first), count - first)
    };
    let files = arguments.iter().filter(|argument| !argument.is_null()).map(|argument| {
        // SAFETY: as above.
        unsafe { CStr::from_ptr(*argument) }.to_string_lossy()
    });
    // `[section]` is none.
    files.into_iter().find(|name| !name.starts_with(['-', '['])).map(|name| name.into_owned())
}

fn read_instance() -> Option<String> {
    const FILES: [&CStr; 7] = [c"ini", c"yaml", c"yml", c"json", c"xml", c"config", c"ini-paste"];
    let text = |string: *const c_char| {
        // SAFETY: NULL, or a NUL-terminated string of the configuration.
        (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) })
    };
    // SAFETY: the options were all read, and stay as they are; there are as
    // many as is said.
    let (name, options) = unsafe {
        let count = usize::try_from(addr_of!(ffi::uwsgi.exported_opts_cnt).read()).unwrap_or(0);
        let options = addr_of!(ffi::uwsgi.exported_opts).read();
        let options = match options.is_null() {
            true => &[],
            false => std::slice::from_raw_parts(options, count),
        };
        (text(addr_of!(ffi::uwsgi.procname).read()), options)
    };
    let file = || {
        options.iter().find_map(|option| {
            // SAFETY: as above.
            let option = unsafe { option.as_ref() }?;
            text(option.key).filter(|key| FILES.contains(key)).and(text(option.value))
        })
    };
    let text = |name: &CStr| name.to_string_lossy().into_owned();
    name.map(text).or_else(positional_config).or_else(|| file().map(text))
}

/// Whether the instance stops for good, and does not begin anew.
pub fn is_stopping() -> bool {
    // SAFETY: plain ints of the master's, which sets them in its handlers of signals
    // (uwsgi_instance_is_dying and uwsgi_instance_is_reloading in the server's header).
    let (dies, reloads) = unsafe {
        let status = addr_of!(ffi::uwsgi.status);
        let any = |one: *const c_int, other: *const c_int| {
            one.read_volatile() != 0 || other.read_volatile() != 0
        };
        (
            any(addr_of!((*status).gracefully_destroying), addr_of!((*status).brutally_destroying)),
            any(addr_of!((*status).gracefully_reloading), addr_of!((*status).brutally_reloading)),
        )
    };
    dies || !reloads
}

/// Whether there is a master process.
pub fn has_master() -> bool {
    // SAFETY: as in stats_http.
    unsafe { addr_of!(ffi::uwsgi.master_process).read() != 0 }
}

/// What one packet for the log may hold, in bytes, where the master logs for
/// all (`log-master`, and what implies it: `logger`, `threaded-logger`,
/// `touch-logreopen`); `None` where there are no packets. The master reads
/// `log-master-bufsize` of each, the rest is lost (uwsgi_master_log in
/// uWSGI's core/logging.c); some of its loggers and alarms put something
/// before it in a buffer of that size.
pub fn log_packet_size() -> Option<usize> {
    // SAFETY: as in stats_http.
    let (log_master, size) = unsafe {
        (addr_of!(ffi::uwsgi.log_master).read(), addr_of!(ffi::uwsgi.log_master_bufsize).read())
    };
    (log_master != 0).then(|| size - (size / 4).min(512))
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
