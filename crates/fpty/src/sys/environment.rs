//! The environment of a session's program (environ(7)).

use std::ffi::CString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The terminal type of a session whose server has none: everything that a
/// person attaches from today understands it, and every terminfo has it.
const DEFAULT_TERM: &str = "xterm";

/// What the server set for itself and its own children. A program that read
/// it could speak to the Emperor or to the service manager in its name.
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
    let mut has_term = false;
    let mut environment: Vec<CString> = std::env::vars_os()
        .filter(|(name, _)| !SERVER_VARIABLES.iter().any(|own| name == own))
        .filter_map(|(name, value)| {
            has_term |= name == "TERM" && !value.is_empty();
            if name == "TERM" && value.is_empty() {
                return None;
            }
            let mut pair = name.into_vec();
            pair.push(b'=');
            pair.extend_from_slice(value.as_bytes());
            CString::new(pair).ok()
        })
        .collect();
    if !has_term {
        environment.extend(CString::new(format!("TERM={DEFAULT_TERM}")).ok());
    }
    environment
}
