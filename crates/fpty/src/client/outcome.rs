//! How a session ended: the exit status, the line for the person, and the
//! JSON for scripts; and the line by which a gateway refuses a session in plain uwsgi mode
//! or raw mode, found in its output.

use nix::sys::signal::Signal;
use serde_json::json;

use super::config::ClientConfig;
use crate::error::{Error, Result};
use crate::exit_status::{EXIT_LOST, EXIT_NO_SESSION};
use crate::proto::session_key::parse_argument;
use crate::proto::{self, EndKind, SessionEnd};
use crate::sys::peer_process::Peer;
use crate::sys::{accounts, stdio};
use crate::text::is_control;

/// The end of a session, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The server ended it; how, it cannot say.
    Normal,
    /// The server said how.
    Ended(SessionEnd),
    /// A signal ended the program that was to be expected: its number.
    Signalled(u8),
    /// No session came about: why.
    NoSession(String),
    /// The server knows no extended mode, or had begun without us, and nothing
    /// else will do.
    NotExtended,
    /// The server had begun without us, and says so. Whether all that was typed
    /// is still known, so that it can be asked again: none of it was executed.
    HelloTooLate {
        /// The session may be asked for again: all that was typed is still known.
        can_retry: bool,
    },
    /// The person disconnected by `~.`.
    Disconnected,
    /// The connection broke: how.
    Lost(String),
    /// The connection broke, and the reconnect failed.
    NotReconnected {
        /// Why not.
        why: String,
        /// The argument of `--attach`, where the session may be attached again.
        attach_argument: Option<String>,
    },
    /// A signal ended us.
    Signal(Signal),
    /// Standard output has no reader.
    OutputClosed,
    /// Our output takes no more: why.
    OutputFailed(String),
}

impl End {
    /// The status to exit with, as a shell has it.
    fn status(&self) -> i32 {
        self.kind_and_status().1
    }

    /// Whether no program has run.
    pub fn ran_no_program(&self) -> bool {
        match self {
            End::Ended(ended) => matches!(ended.ending, EndKind::ExecFailed | EndKind::Refused),
            _ => self.status() == i32::from(EXIT_NO_SESSION),
        }
    }

    /// The kind of the end, for scripts, and the status to exit with.
    fn kind_and_status(&self) -> (&'static str, i32) {
        match self {
            End::Normal => ("exit", 0),
            End::Ended(ended) => {
                let kind = match ended.ending {
                    EndKind::Exit => "exit",
                    EndKind::Signal => "signal",
                    EndKind::ExecFailed => "exec-failed",
                    EndKind::Refused => "refused",
                    EndKind::Idle | EndKind::Limit => "timeout",
                    EndKind::Stopped => "stopped",
                    EndKind::Operator => "operator",
                    EndKind::Lost => "lost",
                    EndKind::Detached => "detached",
                };
                (kind, ended.status().into())
            }
            End::Signalled(number) => ("signal", 128 + i32::from(*number)),
            End::NoSession(_) | End::NotExtended | End::HelloTooLate { .. } => {
                ("refused", EXIT_NO_SESSION.into())
            }
            End::Lost(_) | End::NotReconnected { .. } => ("lost", EXIT_LOST.into()),
            End::Disconnected => ("left", 0),
            End::OutputFailed(_) => ("left", EXIT_LOST.into()),
            End::Signal(signal) => ("left", 128 + *signal as i32),
            End::OutputClosed => ("left", 128 + Signal::SIGPIPE as i32),
        }
    }

    /// The line for the person; `None`: nothing is said.
    fn text(&self, address: &str) -> Option<String> {
        match self {
            End::Ended(SessionEnd { ending: EndKind::Detached, value: 0, text }) => {
                let id = parse_argument(text).filter(|_| !text.starts_with('-')).map(|(id, _)| id);
                Some(match (id, attach_hint(text, address)) {
                    (Some(id), Some(way)) => format!("detached: {id} ({way})"),
                    (Some(_), None) => format!("detached: {text}"),
                    (None, _) => String::from("detached"),
                })
            }
            End::Normal | End::Signalled(_) | End::OutputClosed => None,
            End::Ended(ended) => end_text(ended),
            End::NoSession(why) => Some(why.clone()),
            End::NotExtended => Some(format!(
                "the server at {address} does not speak the extended mode, which commands and detached \
                 sessions need, or it had started its own program before our request arrived; \
                 nothing that was asked for was run"
            )),
            End::HelloTooLate { .. } => Some(format!(
                "{address} had started its program before our request arrived (a slow line?): that \
                 session is over, and nothing that was typed was executed"
            )),
            End::Disconnected => Some(format!("disconnected from {address}")),
            End::Lost(why) => Some(format!("connection to {address} lost: {why}")),
            End::NotReconnected { why, attach_argument } => {
                let why = with_user_name(why);
                let way = attach_argument
                    .as_ref()
                    .and_then(|attach_argument| attach_hint(attach_argument, address));
                let way = way.map(|way| format!(" ({way})")).unwrap_or_default();
                Some(format!("connection to {address} lost, and not restored: {why}{way}"))
            }
            End::Signal(signal) => Some(format!("ended by {signal}")),
            End::OutputFailed(why) => Some(format!("cannot write to {why}")),
        }
    }
}

fn end_text(ended: &SessionEnd) -> Option<String> {
    let text = &ended.text;
    match ended.ending {
        EndKind::Exit => None,
        EndKind::Signal if text.is_empty() => {
            Some(format!("killed by {}", signal_name(ended.value)))
        }
        EndKind::Signal => Some(format!("killed by {} ({text})", signal_name(ended.value))),
        EndKind::Refused => Some(format!("session refused: {}", with_user_name(text))),
        EndKind::Lost => Some(format!("session lost: {text}")),
        EndKind::ExecFailed
        | EndKind::Idle
        | EndKind::Limit
        | EndKind::Stopped
        | EndKind::Operator => Some(text.clone()),
        EndKind::Detached => Some(with_user_name(text)),
    }
}

/// The command that attaches again, to be pasted into a shell; `None`: there is none.
fn attach_hint(attach_argument: &str, address: &str) -> Option<String> {
    let is_one = parse_argument(attach_argument).is_some() && !attach_argument.starts_with('-');
    let address = quoted(address).filter(|_| is_one)?;
    Some(format!("come back with: fpty -a {attach_argument} {address}"))
}

/// A text that begins with a user's number (`user 1000 ...`), with the name
/// instead that this machine knows: a gateway looks none up while others wait.
fn with_user_name(text: &str) -> String {
    let number = |text: &str| {
        let (number, rest) = text.strip_prefix("user ")?.split_once(' ')?;
        Some(format!("{} {rest}", accounts::user_name(number.parse().ok()?)?))
    };
    number(text).unwrap_or_else(|| text.to_owned())
}

/// The reason why a connection that has ended was lost; `None`: it was not, as one in plain
/// mode has no other end.
pub fn loss_reason(peer: &Peer, is_extended: bool) -> Option<String> {
    match peer.failure() {
        // A process that lives, and closes a UNIX socket before it has read all input,
        // resets it, too.
        Some(why) if !peer.is_known() => Some(why),
        _ if peer.has_ended() => Some(String::from("the server is gone")),
        _ => is_extended.then(|| String::from("it ended without a word")),
    }
}

/// An address as a shell has to be told it; `None`: it cannot be typed.
fn quoted(address: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,+@%[]".contains(c);
    match address.is_empty() || address.chars().any(|c| is_control(c) || c == '\u{fffd}') {
        true => None,
        false if address.chars().all(is_plain) => Some(address.to_owned()),
        false => Some(format!("'{}'", address.replace('\'', "'\\''"))),
    }
}

/// A signal's name; of those for free use its number (signal(7)).
fn signal_name(number: u8) -> String {
    Signal::try_from(i32::from(number))
        .map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// The line about an end, where one is printed.
fn line(config: &ClientConfig, end: &End) -> Option<String> {
    let went_wrong = !matches!(
        end,
        End::Disconnected | End::Ended(SessionEnd { ending: EndKind::Detached, value: 0, .. })
    );
    end.text(&config.address.to_string_lossy()).filter(|_| went_wrong || !config.quiet)
}

/// Whether the line about an end is shown to a person alone.
pub fn is_for_a_person(config: &ClientConfig) -> bool {
    !config.status_json && stdio::columns_of_output().is_some()
}

/// Whether anything is printed about an end.
pub fn prints_anything(config: &ClientConfig, end: &End) -> bool {
    config.status_json || line(config, end).is_some()
}

/// Says how it ended, and returns the status to exit with.
pub fn report(config: &ClientConfig, end: &End) -> i32 {
    let text = end.text(&config.address.to_string_lossy());
    if let Some(line) = line(config, end) {
        stdio::say(&format!("{} {line}", config.name));
    }
    if config.status_json {
        stdio::say(&json(end, text.as_deref().unwrap_or_default()));
    }
    end.status()
}

/// The JSON object of an end: `kind`, `status`, `signal` (a name or null), `text`.
fn json(end: &End, text: &str) -> String {
    let signal = match end {
        End::Ended(ended) if ended.ending == EndKind::Signal => Some(signal_name(ended.value)),
        End::Signalled(number) => Some(signal_name(*number)),
        End::Signal(signal) => Some(signal.as_str().to_owned()),
        _ => None,
    };
    let (kind, status) = end.kind_and_status();
    let object = json!({ "kind": kind, "status": status, "signal": signal, "text": text });
    object.to_string()
}

/// Prefix of the line by which a gateway in plain mode refuses a session.
pub(super) const REFUSAL_PREFIX: &[u8] = b"forkptyrouter: session refused: ";

/// The longest such line, in bytes.
pub(super) const MAX_REFUSAL: usize = 4096;

/// Whether the output is a refusal in plain mode, and nothing else.
pub(super) fn is_refusal(bytes: &[u8]) -> bool {
    let line = bytes.strip_suffix(b"\r\n").unwrap_or_default();
    line.starts_with(REFUSAL_PREFIX) && !line.contains(&b'\n')
}

/// Whether the last output is a refusal whose reason is that the program had started
/// before our request arrived.
pub(super) fn is_too_late(last_bytes: &[u8]) -> bool {
    let text = last_bytes.strip_suffix(b"\r\n").unwrap_or_default();
    let line = text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    line.strip_prefix(REFUSAL_PREFIX).is_some_and(|why| why.starts_with(proto::TOO_LATE.as_bytes()))
}

/// Whether the output may become a refusal: a line that is not endless.
pub fn may_be_refusal(bytes: &[u8]) -> bool {
    let length = bytes.len().min(REFUSAL_PREFIX.len());
    let ends_at = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    bytes[..length] == REFUSAL_PREFIX[..length]
        && bytes.len() <= MAX_REFUSAL
        && ends_at == bytes.len()
}

/// The end with a server in plain mode that has sent no more than this.
///
/// # Errors
/// The server has sent nothing.
pub fn end_in_plain_mode(said: &[u8]) -> Result<End> {
    match said {
        [] => Err(Error::new("the server closed the connection without a word")),
        said if is_refusal(said) => Ok(refused(said)),
        _ => Ok(End::NotExtended),
    }
}

/// The end by a refusal in plain mode.
pub(super) fn refused(bytes: &[u8]) -> End {
    let why = bytes.strip_prefix(REFUSAL_PREFIX).unwrap_or(bytes).trim_ascii_end();
    End::NoSession(format!("session refused: {}", proto::bounded_text(why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(ending: EndKind, value: u8, text: &str) -> End {
        End::Ended(SessionEnd { ending, value, text: text.to_owned() })
    }

    #[test]
    fn a_program_that_crashed() {
        let end = ended(EndKind::Signal, 11, "core dumped");
        assert_eq!(end.status(), 139);
        assert_eq!(end.text("/s").as_deref(), Some("killed by SIGSEGV (core dumped)"));
        let line = json(&end, "killed by SIGSEGV (core dumped)");
        assert_eq!(
            line,
            r#"{"kind":"signal","signal":"SIGSEGV","status":139,"text":"killed by SIGSEGV (core dumped)"}"#
        );
        assert_eq!(ended(EndKind::Signal, 34, "").text("").as_deref(), Some("killed by signal 34"));
    }

    #[test]
    fn who_has_detached_is_told_how_to_attach_again() {
        let end = ended(EndKind::Detached, 0, "k3x9q2aa");
        assert_eq!(end.status(), 0);
        let text = "detached: k3x9q2aa (come back with: fpty -a k3x9q2aa /s)";
        assert_eq!(end.text("/s").as_deref(), Some(text));
        let end = ended(EndKind::Detached, 1, "root has attached");
        assert_eq!(
            (end.status(), end.text("/s").as_deref()),
            (i32::from(EXIT_LOST), Some("root has attached"))
        );
    }

    #[test]
    fn only_the_programs_own_end_looks_like_it() {
        for ending in
            [EndKind::Idle, EndKind::Limit, EndKind::Stopped, EndKind::Operator, EndKind::Lost]
        {
            assert_eq!(ended(ending, 0, "x").status(), i32::from(EXIT_LOST));
        }
        assert_eq!(ended(EndKind::Refused, 0, "x").status(), i32::from(EXIT_NO_SESSION));
        assert_eq!(End::Lost(String::new()).status(), i32::from(EXIT_LOST));
        assert_eq!(ended(EndKind::ExecFailed, 127, "x").status(), 127);
        assert_eq!(ended(EndKind::Exit, 3, "").text(""), None);
    }
}
