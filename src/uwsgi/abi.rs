//! Refuses a server whose structures differ from those we were built with.
//!
//! The server checks nothing: a library built for one uWSGI loads into
//! another and reads the wrong fields. The server exports its own header and
//! flags (`uwsgi_get_dot_h`, `uwsgi_get_cflags`), so we compare.

use std::borrow::Cow;
use std::ffi::{CStr, c_char};

use super::fingerprint::{self, Fingerprint};

include!(concat!(env!("OUT_DIR"), "/built_for.rs"));

/// Compares this process with the server that this library was built for.
///
/// # Errors
/// The structures differ, or this is no uWSGI server: the line for the operator.
pub fn check() -> Result<(), String> {
    let texts = (text_of(c"uwsgi_get_dot_h"), text_of(c"uwsgi_get_cflags"));
    let (Some(header), Some(flags)) = texts else {
        return Err(format!(
            "forkptyrouter: built for uWSGI {}, loaded into a program that is no uWSGI server \
             (it exports no header); not loading",
            BUILT_FOR.version
        ));
    };
    let running = fingerprint::of(&header, &flags);
    explain(&BUILT_FOR, &running).map_or(Ok(()), |difference| {
        let server = std::env::current_exe()
            .map_or_else(|_| String::from("/path/to/uwsgi"), |path| path.display().to_string());
        Err(format!(
            "forkptyrouter: built for uWSGI {}, loaded into uWSGI {}: their structures differ \
             ({difference}); not loading. Rebuild with: make UWSGI={server}",
            BUILT_FOR.version, running.version
        ))
    })
}

/// The difference between two servers, if there is one.
fn explain(built: &Fingerprint, running: &Fingerprint) -> Option<String> {
    if built.version != running.version {
        return Some(String::from("another version"));
    }
    if built.flags != running.flags {
        let (ours, theirs): (Vec<_>, Vec<_>) =
            (built.flags.split(' ').collect(), running.flags.split(' ').collect());
        let only = |a: &[&str], b: &[&str]| {
            a.iter().filter(|flag| !b.contains(flag)).copied().collect::<Vec<_>>().join(" ")
        };
        return Some(format!(
            "built with [{}], running with [{}]",
            only(&ours, &theirs),
            only(&theirs, &ours)
        ));
    }
    (built.header != running.header).then(|| String::from("another uwsgi.h of the same version"))
}

/// Calls one of the server's two functions that return a text.
fn text_of(symbol: &CStr) -> Option<String> {
    // SAFETY: dlsym with a NUL-terminated name. A server of before 1.9 lacks
    // the symbols: a library that was linked against them would not load there.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: both functions are `char *f(void)` in every version that has them
    // (uWSGI's core/utils.c).
    let text = unsafe {
        let function =
            std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> *const c_char>(found);
        function()
    };
    if text.is_null() {
        return None;
    }
    // SAFETY: a NUL-terminated string. The string is malloc'ed, or a literal if the
    // server ran out of memory, so it is not freed: one a process.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILT: Fingerprint = server("2.0.31", 7, "A B=1");

    const fn server(version: &'static str, header: u64, flags: &'static str) -> Fingerprint {
        Fingerprint { version: Cow::Borrowed(version), header, flags: Cow::Borrowed(flags) }
    }

    #[test]
    fn the_same_build_is_accepted() {
        assert_eq!(explain(&BUILT, &server("2.0.31", 7, "A B=1")), None);
    }

    #[test]
    fn every_difference_is_named() {
        let version = explain(&BUILT, &server("2.0.21-debian", 7, "A B=1"));
        assert_eq!(version.as_deref(), Some("another version"));
        let flags = explain(&BUILT, &server("2.0.31", 7, "A C")).unwrap_or_default();
        assert!(flags.contains("[B=1]") && flags.contains("[C]"), "{flags}");
        assert!(explain(&BUILT, &server("2.0.31", 8, "A B=1")).is_some());
    }

    #[test]
    fn embedded_plugins_and_flags_unknown_to_the_header_do_not_count() {
        let header = "#ifdef UWSGI_SSL\nint x;\n#endif";
        let plain = fingerprint::of(header, r#"-O2 -DUWSGI_SSL -DUWSGI_VERSION="\"2.0.31\"""#);
        let embedded = fingerprint::of(
            &format!("{header}\n"),
            r#"-DUWSGI_VERSION="\"2.0.31\"" -DOTHER -DUWSGI_SSL -DUWSGI_LOAD_EMBEDDED_PLUGINS="ULEP(pty);""#,
        );
        assert_eq!(plain, embedded);
        assert_eq!(plain.version, "2.0.31");
        assert_eq!(plain.flags, "UWSGI_SSL");
    }
}
