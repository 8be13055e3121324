//! What a client asks for: a command of its own, the SFTP server, or nothing,
//! which is the configured program.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use crate::config::gateway_config::SFTP_SERVERS;
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::host::host;
use crate::observe::audit::{Refusal, Rejection};
use fpty::proto::request::{Request, Verb};
use fpty::proto::{Ended, Ending};
use fpty::sys::spawn::Program;

fn refused(why: impl Into<String>) -> Rejection {
    Rejection::because(Refusal::Command, why)
}

impl Context {
    /// The program that a client asks for.
    ///
    /// # Errors
    /// It does not get it.
    pub fn granted(&self, door: u16, request: Request) -> Result<Arc<Program>, Rejection> {
        let request = request.read().map_err(|why| refused(format!("bad request: {why}")))?;
        let Some(place) = self.doors.door(door) else {
            return Err(refused("the socket is closed"));
        };
        let Some((verb, data)) = request else {
            return Ok(Arc::clone(&place.program));
        };
        if !place.rules.allow_command {
            return Err(refused("commands are not allowed here (forkptyrouter-allow-command)"));
        }
        let program = match verb {
            Verb::CommandLine => {
                let line = whole(data)?;
                Program::through_shell(&line, &host().shell())
            }
            Verb::Program => {
                let path = place.program.variable(b"PATH").unwrap_or(DEFAULT_PATH);
                Program::with_arguments(arguments(&data)?, path)
            }
            Verb::Sftp => sftp_server(&place.rules, &whole_or_empty(data)?)?,
            Verb::List | Verb::Kill | Verb::Attach => {
                return Err(refused("this router does not know what it asks for"));
            }
        };
        Ok(Arc::new(program.surrounded_as(&place.program)))
    }
}

fn sftp_server(rules: &Rules, arguments: &CStr) -> Result<Program, Rejection> {
    let there_is = |path: &&CStr| fpty::sys::is_executable(path);
    let server = match &rules.sftp_server {
        Some(path) => Some(path.as_c_str()).filter(there_is),
        None => SFTP_SERVERS.into_iter().find(there_is),
    };
    let Some(server) = server else {
        let sought = match &rules.sftp_server {
            Some(path) => path.to_string_lossy().into_owned(),
            None => String::from("sftp-server"),
        };
        let text = format!(
            "no SFTP server here: cannot execute {sought} (install openssh-sftp-server in the \
             instance, or set forkptyrouter-sftp-server)"
        );
        return Err(Ended { ending: Ending::ExecFailed, value: 127, text }.into());
    };
    let words = arguments.to_bytes().split(u8::is_ascii_whitespace);
    let words = words.filter(|word| !word.is_empty()).filter_map(|word| CString::new(word).ok());
    let argv = std::iter::once(server.to_owned()).chain(words).collect();
    Ok(Program::with_arguments(argv, b""))
}

/// Of a server that was started without one.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn whole_or_empty(line: Vec<u8>) -> Result<CString, Rejection> {
    CString::new(line).map_err(|_| refused("bad request: the command holds a NUL byte"))
}

fn whole(line: Vec<u8>) -> Result<CString, Rejection> {
    if line.is_empty() {
        return Err(refused("bad request: the command is empty"));
    }
    whole_or_empty(line)
}

/// A NUL stands after each.
pub(crate) fn arguments(data: &[u8]) -> Result<Vec<CString>, Rejection> {
    let data = data.strip_suffix(b"\0").unwrap_or(data);
    let words: Vec<CString> =
        data.split(|byte| *byte == 0).filter_map(|word| CString::new(word).ok()).collect();
    match words.first().is_some_and(|name| !name.is_empty()) {
        true => Ok(words),
        false => Err(refused("bad request: the command is empty")),
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
        assert!(whole(Vec::new()).is_err() && whole(b"a\0b".to_vec()).is_err());
    }
}
