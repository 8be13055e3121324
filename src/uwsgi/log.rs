//! The server's log.

use std::ffi::c_int;

use crate::ffi;

/// Writes one line to it (`uwsgi_log`), as it is.
pub fn write(line: &str) {
    // uwsgi_log is printf-like: what we print is always an argument, never
    // the format, and its length is explicit.
    let length = c_int::try_from(line.len()).unwrap_or(c_int::MAX);
    // SAFETY: %.*s reads at most `length` bytes from `line`, which has them.
    unsafe { ffi::uwsgi_log(c"%.*s\n".as_ptr(), length, line.as_ptr()) };
}
