//! The environment of a session's program (environ(7)).

use std::ffi::{CStr, CString, OsString};
use std::os::unix::ffi::OsStrExt;

/// The terminal type of a session whose server has none: everything that a
/// person attaches from today understands it, and every terminfo has it.
const DEFAULT_TERM: &CStr = c"TERM=xterm";

/// Variables that the server sets for itself and its own children. A program that read
/// them could speak to the Emperor or to the service manager in its name.
const SERVER_VARIABLES: [&str; 13] = [
    "UWSGI_RELOADS",
    "UWSGI_ORIGINAL_PROC_NAME",
    "UWSGI_EMPEROR_FD",
    "UWSGI_EMPEROR_FD_CONFIG",
    "UWSGI_EMPEROR_PROXY",
    "UWSGI_BROODLORD_NUM",
    "UWSGI_JAIL_PID",
    "UWSGI_VASSALS_DIR",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "FORKPTYROUTER_RECORDER",
];

/// The server's environment, less what is the server's own, with a TERM.
pub fn for_sessions() -> Vec<CString> {
    let is_kept = |(name, value): &(OsString, OsString)| {
        !SERVER_VARIABLES.iter().any(|own| name == own) && (name != "TERM" || !value.is_empty())
    };
    let kept = std::env::vars_os().filter(is_kept).filter_map(|(name, value)| {
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
    });
    let mut environment: Vec<CString> = kept.collect();
    if !environment.iter().any(|pair| pair.to_bytes().starts_with(b"TERM=")) {
        environment.push(DEFAULT_TERM.to_owned());
    }
    environment
}
