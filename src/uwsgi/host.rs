//! The server: what the gateway needs of it, its log, its metrics, and facts about it.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::{addr_of, addr_of_mut, null_mut};
use std::sync::atomic::AtomicU64;

use once_cell::sync::OnceCell;

use super::abi::BUILT_FOR;
use super::guard::exit;
use super::sockets::{self, Owner};
use super::{exec_handoff, gateway, inherited};
use crate::ffi;
use fpty::error::Result;
use fpty_gateway::host::{Host, KeptSockets, MetricKind, Socket};

/// The uWSGI that has loaded the library.
pub struct Uwsgi;

impl Host for Uwsgi {
    /// The version that the library was built for, or it would not be loaded.
    fn version(&self) -> &str {
        &BUILT_FOR.version
    }

    /// `procname`, or else the path of the configuration, as it was given first. To be
    /// asked once before gateways are forked.
    fn instance(&self) -> Option<String> {
        static INSTANCE: OnceCell<Option<String>> = OnceCell::new();
        INSTANCE.get_or_init(read_instance).clone()
    }

    /// `binsh`, else /bin/sh.
    fn shell(&self) -> CString {
        // SAFETY: returns a NUL-terminated string that is never freed.
        let shell = unsafe { ffi::uwsgi_binsh() };
        if shell.is_null() {
            return c"/bin/sh".to_owned();
        }
        // SAFETY: the NUL-terminated string of the call before.
        unsafe { CStr::from_ptr(shell) }.to_owned()
    }

    fn write_log(&self, line: &str) {
        // uwsgi_log is printf-like: the line is always an argument, never the format,
        // and its length is explicit.
        let length = c_int::try_from(line.len()).unwrap_or(c_int::MAX);
        // SAFETY: %.*s reads at most `length` bytes from `line`, which has them.
        unsafe { ffi::uwsgi_log(c"%.*s\n".as_ptr(), length, line.as_ptr()) };
    }

    /// Packets are what the log takes where the master logs for all (`log-master`, and
    /// what implies it: `logger`, `threaded-logger`, `touch-logreopen`). The master reads
    /// `log-master-bufsize` of each, the rest is lost (uwsgi_master_log in
    /// uWSGI's core/logging.c); some of its loggers and alarms put something
    /// before it in a buffer of that size.
    fn log_packet_size(&self) -> Option<usize> {
        // SAFETY: plain ints that are set while options are read and only read afterwards;
        // abi::check proved their places.
        let (log_master, size) = unsafe {
            (addr_of!(ffi::uwsgi.log_master).read(), addr_of!(ffi::uwsgi.log_master_bufsize).read())
        };
        (log_master != 0).then(|| size - (size / 4).min(512))
    }

    /// `stats-http`.
    fn statistics_by_http(&self) -> bool {
        // SAFETY: a plain int that is set while options are read and only read
        // afterwards; abi::check proved its place.
        unsafe { addr_of!(ffi::uwsgi.stats_http).read() != 0 }
    }

    fn sockets(&self) -> Result<Vec<Socket>> {
        sockets::bound(Owner::Gateway)
    }

    /// Exports a metric where metrics are asked for (`enable-metrics`); the master reads
    /// the number every second. To be called before the server sets its metrics up.
    fn export_metric(&self, name: &'static CStr, kind: MetricKind, number: &'static AtomicU64) {
        // SAFETY: a plain int that is set while options are read and only read
        // afterwards; abi::check proved its place.
        if unsafe { addr_of!(ffi::uwsgi.has_metrics).read() == 0 } {
            return;
        }
        let kind = match kind {
            MetricKind::Counter => ffi::UWSGI_METRIC_COUNTER,
            MetricKind::Gauge => ffi::UWSGI_METRIC_GAUGE,
        };
        let text = |text: &'static CStr| text.as_ptr().cast_mut();
        // The server has three kinds of metrics.
        let (kind, value) = (kind as u8, number.as_ptr().cast());
        // SAFETY: the strings and the number live as long as the process; the server
        // reads the number as one word, and never writes it.
        unsafe {
            let (name, source) = (text(name), text(c"ptr"));
            ffi::uwsgi_register_metric(name, null_mut(), kind, source, value, 0, null_mut());
        }
    }

    fn inherited_by_gateways_only(&self, fd: BorrowedFd<'_>) {
        inherited::gateways_only(fd);
    }

    fn keep_over_exec(&self, name: &str, fds: &[BorrowedFd<'_>], note: &OsStr) {
        exec_handoff::keep(name, fds, note);
    }

    fn take_kept_sockets(&self, name: &str) -> Option<KeptSockets> {
        exec_handoff::take(name)
    }

    fn take_kept_memory(&self, name: &str) -> Option<(OwnedFd, OsString)> {
        exec_handoff::take_memory(name)
    }

    fn is_stopping(&self) -> bool {
        // SAFETY: plain ints of the master's, which sets them in its handlers of signals
        // (uwsgi_instance_is_dying and uwsgi_instance_is_reloading in the server's header).
        unsafe {
            let status = addr_of!(ffi::uwsgi.status);
            let any = |one: *const c_int, other: *const c_int| {
                one.read_volatile() != 0 || other.read_volatile() != 0
            };
            let (gently, at_once) = (
                addr_of!((*status).gracefully_destroying),
                addr_of!((*status).brutally_destroying),
            );
            let reloads =
                (addr_of!((*status).gracefully_reloading), addr_of!((*status).brutally_reloading));
            any(gently, at_once) || !any(reloads.0, reloads.1)
        }
    }

    fn arm_watchdog(&self) {
        gateway::set_harakiri(true);
    }

    fn disarm_watchdog(&self) {
        gateway::set_harakiri(false);
    }

    fn exit(&self, status: i32) -> ! {
        exit(status)
    }
}

unsafe extern "C" {
    /// Index of the first argument that is no option (getopt(3)).
    static optind: c_int;
}

/// A configuration that was given without an option (`uwsgi x.ini`): the server
/// reads those that getopt_long(3) has left at the end of the arguments, and lists
/// only what they include.
fn positional_config() -> Option<String> {
    // SAFETY: a plain int of the C library's; and the server's copy of its arguments,
    // `argc` NUL-terminated strings that are never freed.
    let arguments = unsafe {
        let (argv, argc) = (addr_of!(ffi::uwsgi.argv).read(), addr_of!(ffi::uwsgi.argc).read());
        let first = usize::try_from(addr_of!(optind).read()).unwrap_or(usize::MAX).max(1);
        let count = usize::try_from(argc).unwrap_or(0);
        if argv.is_null() || first >= count {
            return None;
        }
        std::slice::from_raw_parts(argv.add(first), count - first)
    };
    let mut files = arguments.iter().filter_map(|argument| text(*argument));
    // `[section]` is no file.
    files.find(|name| !name.starts_with(['-', '[']))
}

/// A string of the server's configuration; `None` for NULL.
fn text(string: *const c_char) -> Option<String> {
    // SAFETY: NULL, or a NUL-terminated string that stays as it is.
    let text = (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) });
    text.map(|text| text.to_string_lossy().into_owned())
}

fn read_instance() -> Option<String> {
    const FILES: [&str; 7] = ["ini", "yaml", "yml", "json", "xml", "config", "ini-paste"];
    // SAFETY: the options were all read, and stay as they are; there are
    // `exported_opts_cnt` of them.
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
            // SAFETY: NULL, or an option of that array, which stays as it is.
            let option = unsafe { option.as_ref() }?;
            text(option.key).filter(|key| FILES.contains(&key.as_str())).and(text(option.value))
        })
    };
    name.or_else(positional_config).or_else(file)
}

/// Lets the master restore the settings of the terminal on standard input
/// when it ends, whoever changes them meanwhile.
pub fn restore_terminal_at_end() {
    // SAFETY: a termios and a flag of the server's, which reads both only at its end;
    // tcgetattr(3) fills the termios, whose C layout the server and libc share.
    unsafe {
        let server = addr_of_mut!(ffi::uwsgi);
        if libc::tcgetattr(0, addr_of_mut!((*server).termios).cast()) == 0 {
            (*server).restore_tc = 1;
        }
    }
}
