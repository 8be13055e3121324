//! The exec request: a command of the client's own, the SFTP server, or none, which is the
//! configured program.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::host::host;
use crate::observe::audit::{RejectReason, Rejection};
use fpty::proto::request::{Request, RequestKind};
use fpty::proto::{EndKind, SessionEnd};
use fpty::sys::spawn::Program;

fn reject(why: impl Into<String>) -> Rejection {
    Rejection::because(RejectReason::Command, why)
}

impl Context {
    /// Authorizes a request; returns its program.
    ///
    /// # Errors
    /// The request is malformed, or not allowed here.
    pub fn authorize(&self, listener: u16, request: Request) -> Result<Arc<Program>, Rejection> {
        let request = request.read().map_err(|why| reject(format!("bad request: {why}")))?;
        let Some(place) = self.listeners.get(listener) else {
            return Err(reject("the socket is closed"));
        };
        let Some((verb, data)) = request else {
            return Ok(Arc::clone(&place.program));
        };
        if !place.rules.allow_command {
            return Err(reject("commands are not allowed here (forkptyrouter-allow-command)"));
        }
        let program = match verb {
            RequestKind::CommandLine => {
                let line = command_line(data)?;
                Program::through_shell(&line, &host().shell())
            }
            RequestKind::Program => {
                let path = place.program.variable(b"PATH").unwrap_or(DEFAULT_PATH);
                Program::with_arguments(arguments(&data)?, path)
            }
            RequestKind::Sftp => sftp_server(&place.rules, &c_string(data)?)?,
            RequestKind::List | RequestKind::Kill | RequestKind::Attach => {
                return Err(reject("this gateway does not know what it asks for"));
            }
        };
        Ok(Arc::new(program.within(Arc::clone(place.program.surroundings()))))
    }
}

fn sftp_server(rules: &Rules, arguments: &CStr) -> Result<Program, Rejection> {
    let is_there = |path: &&CStr| fpty::sys::is_executable(path);
    let (server, sought) = match &rules.sftp_server {
        Some(path) => (Some(path.as_c_str()).filter(is_there), path.to_string_lossy()),
        None => (SFTP_SERVERS.into_iter().find(is_there), "sftp-server".into()),
    };
    let Some(server) = server else {
        let text = format!(
            "no SFTP server here: cannot execute {sought} (install openssh-sftp-server in the \
             instance, or set forkptyrouter-sftp-server)"
        );
        return Err(SessionEnd { ending: EndKind::ExecFailed, value: 127, text }.into());
    };
    let words = arguments.to_bytes().split(u8::is_ascii_whitespace);
    let words = words.filter(|word| !word.is_empty()).filter_map(|word| CString::new(word).ok());
    let argv = std::iter::once(server.to_owned()).chain(words).collect();
    Ok(Program::with_arguments(argv, b""))
}

/// Paths of OpenSSH's SFTP server, by distribution.
const SFTP_SERVERS: [&CStr; 4] = [
    c"/usr/lib/openssh/sftp-server",
    c"/usr/libexec/openssh/sftp-server",
    c"/usr/libexec/sftp-server",
    c"/usr/lib/ssh/sftp-server",
];

/// PATH of a server that was started without one.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn c_string(line: Vec<u8>) -> Result<CString, Rejection> {
    CString::new(line).map_err(|_| reject("bad request: the command holds a NUL byte"))
}

fn command_line(line: Vec<u8>) -> Result<CString, Rejection> {
    if line.is_empty() {
        return Err(reject("bad request: the command is empty"));
    }
    c_string(line)
}

/// Arguments of a request, each with a NUL behind it.
///
/// # Errors
/// There is no program's name.
pub(crate) fn arguments(data: &[u8]) -> Result<Vec<CString>, Rejection> {
    let data = data.strip_suffix(b"\0").unwrap_or(data);
    let words: Vec<CString> =
        data.split(|byte| *byte == 0).filter_map(|word| CString::new(word).ok()).collect();
    match words.first().is_some_and(|name| !name.is_empty()) {
        true => Ok(words),
        false => Err(reject("bad request: the command is empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_taken_exactly_as_they_are() {
        let read = arguments(b"ls\0-l\0\0a b\n\xff\0").expect("four");
        assert_eq!(read, [c"ls", c"-l", c"", c"a b\n\xff"].map(CStr::to_owned));
        assert_eq!(arguments(b"ls").expect("one"), [c"ls".to_owned()]);
        assert!(arguments(b"").is_err() && arguments(b"\0ls\0").is_err());
        assert!(command_line(Vec::new()).is_err() && command_line(b"a\0b".to_vec()).is_err());
    }
}
